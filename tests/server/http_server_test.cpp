// The HTTP server against raw sockets: limits that cpp-httplib does not have.

#include "server/http_server.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <string>
#include <thread>

#include "tests/support/expect_error.h"

namespace tenfold {
namespace {

using namespace std::chrono_literals;
using testing::expect_error;

class Client {
 public:
  explicit Client(int port) : socket_(::socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<std::uint16_t>(port));
    inet_pton(AF_INET, "127.0.0.1", &address.sin_addr);
    const timeval patience{10, 0};
    setsockopt(socket_, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    connected_ = connect(socket_, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
  }
  ~Client() { close(); }
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  bool connected() const { return connected_; }
  bool send(const std::string& text) {
    return ::send(socket_, text.data(), text.size(), MSG_NOSIGNAL) ==
           static_cast<ssize_t>(text.size());
  }
  // Until the server closes, or what is read ends with `end`.
  std::string read(const std::string& end = {}) {
    std::string text;
    char bytes[4096];
    while (end.empty() || !text.ends_with(end)) {
      const ssize_t n = recv(socket_, bytes, sizeof bytes, 0);
      if (n <= 0) break;
      text.append(bytes, static_cast<std::size_t>(n));
    }
    return text;
  }
  void close() {
    if (socket_ >= 0) ::close(socket_);
    socket_ = -1;
  }

 private:
  int socket_;
  bool connected_;
};

int status_of(const std::string& reply) {
  return reply.rfind("HTTP/1.1 ", 0) == 0 ? std::stoi(reply.substr(9, 3)) : 0;
}

HttpLimits small_limits() {
  HttpLimits limits;
  limits.connections = 4;
  limits.body_bytes = 1000;
  limits.header_bytes = 2000;
  limits.header_time = 300ms;
  limits.body_time = 300ms;
  limits.idle_time = 400ms;
  return limits;
}

class HttpServerTest : public ::testing::Test {
 protected:
  void start(HttpLimits limits, std::function<HttpReply(const HttpRequest&)> handler) {
    server_ = std::make_unique<HttpServer>(limits, std::move(handler), [](int status) {
      return "{\"refused\":" + std::to_string(status) + "}";
    });
    port_ = server_->bind("127.0.0.1", 0);
    thread_ = std::thread([this] { server_->run(); });
  }
  // Says what it was sent.
  static HttpReply echo(const HttpRequest& request) {
    HttpReply reply;
    reply.body = request.method + " " + request.path + " " + request.body;
    return reply;
  }
  void TearDown() override {
    if (!server_) return;
    server_->stop();
    thread_.join();
  }

  std::unique_ptr<HttpServer> server_;
  std::thread thread_;
  int port_ = 0;
};

TEST_F(HttpServerTest, AnswersAndKeepsTheConnection) {
  start(small_limits(), echo);
  Client client(port_);
  for (int i = 0; i < 20; ++i) {
    client.send("POST /a?b=c HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello");
    EXPECT_EQ(status_of(client.read("POST /a hello")), 200);
  }
  client.send("GET /x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
  EXPECT_TRUE(client.read().ends_with("GET /x "));
}

TEST_F(HttpServerTest, BodiesHaveALimitHoweverTheyCome) {
  HttpLimits limits = small_limits();
  limits.connections = 16;  // each of these lingers
  start(limits, echo);
  const std::string big(1001, 'x');
  Client length(port_);
  length.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1001\r\n\r\n" + big);
  EXPECT_EQ(status_of(length.read()), 413);
  Client said(port_);  // not even sent
  said.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n");
  EXPECT_EQ(status_of(said.read()), 413);
  Client chunked(port_);
  chunked.send("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
  for (int i = 0; i < 3; ++i) chunked.send("190\r\n" + std::string(400, 'y') + "\r\n");
  EXPECT_EQ(status_of(chunked.read()), 413);
  Client fits(port_);
  fits.send(
      "POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
      "3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n");
  EXPECT_TRUE(fits.read().ends_with("POST / abcde"));
  Client endless(port_);  // chunks of one byte, and nothing in them worth much
  endless.send("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
  std::string chunks;
  for (int i = 0; i < 5000; ++i) chunks += "1\r\nz\r\n";
  endless.send(chunks);
  EXPECT_EQ(status_of(endless.read()), 413);
}

TEST_F(HttpServerTest, HeadersHaveALimit) {
  start(small_limits(), echo);
  Client many(port_);
  std::string header = "GET / HTTP/1.1\r\nHost: x\r\n";
  for (int i = 0; i < 200; ++i) header += "X-" + std::to_string(i) + ": something\r\n";
  many.send(header + "\r\n");
  EXPECT_EQ(status_of(many.read()), 431);
  Client endless(port_);  // a line that never ends
  endless.send("GET /" + std::string(5000, 'a'));
  EXPECT_EQ(status_of(endless.read()), 431);
}

TEST_F(HttpServerTest, HeadersEndWhereTheyDoForEverybody) {
  start(small_limits(), echo);
  Client bare(port_);  // a line that only some take for the end
  bare.send("GET / HTTP/1.1\r\n\na: b\r\n\r\n");
  EXPECT_EQ(status_of(bare.read()), 400);
  Client both(port_);
  both.send(
      "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
      "0\r\n\r\n");
  EXPECT_EQ(status_of(both.read()), 400);
  Client two(port_);
  two.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab");
  EXPECT_EQ(status_of(two.read()), 400);
  Client body(port_);  // what follows a GET is no second request
  body.send(
      "GET /first HTTP/1.1\r\nHost: x\r\nContent-Length: 31\r\n\r\n"
      "GET /second HTTP/1.1\r\nHost: x\r\n\r\n");
  const std::string reply = body.read();
  EXPECT_NE(reply.find("/first"), std::string::npos);
  EXPECT_EQ(reply.find("/second"), std::string::npos);
}

TEST_F(HttpServerTest, RangesAreNotCopiedOut) {
  HttpLimits limits = small_limits();
  limits.header_bytes = 16000;
  start(limits, echo);
  Client client(port_);
  client.send("GET /abc HTTP/1.1\r\nHost: x\r\nConnection: close\r\nRange: bytes=0-1,0-1\r\n\r\n");
  EXPECT_TRUE(client.read().ends_with("GET /abc "));
  std::string many = "bytes=-";
  for (int i = 0; i < 3500; ++i) many += ",-";
  Client greedy(port_);
  greedy.send("GET /abc HTTP/1.1\r\nHost: x\r\nRange: " + many + "\r\n\r\n");
  EXPECT_EQ(status_of(greedy.read()), 431);
}

TEST_F(HttpServerTest, APostWithoutABodyIsAnsweredAtOnce) {
  start(small_limits(), echo);
  Client client(port_);
  const auto begin = std::chrono::steady_clock::now();
  client.send("POST /x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
  EXPECT_TRUE(client.read().ends_with("POST /x "));
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 250ms);
}

TEST_F(HttpServerTest, SlowRequestsAreCutOff) {
  start(small_limits(), echo);
  const auto begin = std::chrono::steady_clock::now();
  Client header(port_);
  for (const char c : std::string("GET / HTTP/1.1\r\nHost")) {
    if (!header.send(std::string(1, c))) break;
    std::this_thread::sleep_for(30ms);
  }
  EXPECT_EQ(status_of(header.read()), 408);
  Client body(port_);
  body.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n");
  for (int i = 0; i < 20; ++i) {
    if (!body.send("x")) break;
    std::this_thread::sleep_for(30ms);
  }
  EXPECT_EQ(status_of(body.read()), 408);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 5s);
}

TEST_F(HttpServerTest, IdleConnectionsMakeRoom) {
  HttpLimits limits = small_limits();
  limits.idle_time = 60s;
  start(limits, echo);
  std::vector<std::unique_ptr<Client>> idle;
  for (int i = 0; i < 4; ++i) idle.push_back(std::make_unique<Client>(port_));
  for (int tries = 0; tries < 500 && server_->connections() < 4; ++tries) {
    std::this_thread::sleep_for(1ms);
  }
  // More than three of four: those that say nothing are let go.
  for (int tries = 0; tries < 50 && server_->connections() > 3; ++tries) {
    std::this_thread::sleep_for(20ms);
  }
  Client client(port_);
  client.send("GET /x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
  EXPECT_EQ(status_of(client.read()), 200);
}

TEST_F(HttpServerTest, OneConnectionTooManyIsTold) {
  std::atomic<bool> go = false;
  HttpLimits limits = small_limits();
  start(limits, [&](const HttpRequest& request) {
    while (!go) std::this_thread::sleep_for(1ms);
    return echo(request);
  });
  std::vector<std::unique_ptr<Client>> busy;
  for (int i = 0; i < 4; ++i) {
    busy.push_back(std::make_unique<Client>(port_));
    busy.back()->send("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    while (server_->connections() <= static_cast<std::size_t>(i)) std::this_thread::sleep_for(1ms);
  }
  Client extra(port_);
  EXPECT_EQ(status_of(extra.read()), 503);
  go = true;
  for (const auto& client : busy) EXPECT_EQ(status_of(client->read()), 200);
}

TEST_F(HttpServerTest, StreamsUntilTheClientLeaves) {
  std::atomic<int> pieces = 0;
  std::atomic<bool> gone = false;
  start(small_limits(), [&](const HttpRequest&) {
    HttpReply reply;
    reply.type = "text/event-stream";
    const auto ended = std::shared_ptr<void>(nullptr, [&](void*) { gone = true; });
    reply.next = [&pieces, ended]() -> std::optional<std::string> {
      std::this_thread::sleep_for(5ms);
      ++pieces;
      return "data: x\n\n";
    };
    return reply;
  });
  Client client(port_);
  client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_NE(client.read("data: x\n\n\r\n").find("text/event-stream"), std::string::npos);
  client.close();
  for (int tries = 0; tries < 200 && !gone; ++tries) std::this_thread::sleep_for(5ms);
  EXPECT_TRUE(gone);
  const int after = pieces;
  std::this_thread::sleep_for(50ms);
  EXPECT_EQ(pieces, after);
}

TEST_F(HttpServerTest, AHandlerSeesThatItsClientLeft) {
  std::atomic<bool> left = false;
  start(small_limits(), [&](const HttpRequest& request) {
    for (int i = 0; i < 1000 && !left; ++i) {
      left = request.client_gone();
      std::this_thread::sleep_for(1ms);
    }
    return HttpReply{};
  });
  {
    Client client(port_);
    client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    std::this_thread::sleep_for(20ms);
  }
  for (int tries = 0; tries < 200 && !left; ++tries) std::this_thread::sleep_for(5ms);
  EXPECT_TRUE(left);
}

TEST_F(HttpServerTest, WhatIsNoHttpIsRefused) {
  start(small_limits(), echo);
  for (const char* text : {"\r\n\r\n", "nonsense\r\n\r\n", "GET / HTTP/9.9\r\n\r\n", "GET\r\n\r\n",
                           "\x16\x03\x01\x02\n\n"}) {
    Client client(port_);
    client.send(text);
    const int status = status_of(client.read());
    EXPECT_TRUE(status == 0 || status == 400) << text << ": " << status;
  }
  Client form(port_);
  form.send(
      "POST / HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=x\r\n"
      "Content-Length: 3\r\n\r\nabc");
  EXPECT_EQ(status_of(form.read()), 415);
  Client client(port_);
  client.send("GET /../../etc/passwd HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
  EXPECT_TRUE(client.read().ends_with("GET /../../etc/passwd "));  // a name, no file
}

TEST_F(HttpServerTest, AHandlerThatThrowsIsAnError) {
  start(small_limits(), [](const HttpRequest&) -> HttpReply { throw std::runtime_error("oops"); });
  Client client(port_);
  client.send("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
  const std::string reply = client.read();
  EXPECT_EQ(status_of(reply), 500);
  EXPECT_EQ(reply.find("oops"), std::string::npos);
}

TEST_F(HttpServerTest, APortInUseIsOneSentence) {
  start(small_limits(), echo);
  HttpServer second(small_limits(), echo, [](int) { return ""; });
  const std::string message = expect_error(ErrorCode::io, [&] { second.bind("127.0.0.1", port_); });
  EXPECT_NE(message.find(std::to_string(port_)), std::string::npos) << message;
  EXPECT_NE(message.find("in use"), std::string::npos) << message;
}

}  // namespace
}  // namespace tenfold
