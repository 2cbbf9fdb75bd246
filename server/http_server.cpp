#include "server/http_server.h"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <limits>
#include <mutex>
#include <set>
#include <thread>

#include "kernels/error.h"
#include "server/connection.h"

namespace tenfold {
namespace {

// cpp-httplib's handlers do not see the connection: a thread serves one at a time.
thread_local Connection* this_connection = nullptr;
thread_local bool shedding = false;  // this thread only says that there are too many

// A thread for each connection, up to a number; one more is turned away by the accepting thread.
class ConnectionThreads : public httplib::TaskQueue {
 public:
  ConnectionThreads(std::size_t most, std::atomic<std::size_t>& open) : most_(most), open_(open) {}

  void enqueue(std::function<void()> serve) override {
    if (open_ >= most_) {
      shedding = true;
      serve();
      shedding = false;
      return;
    }
    ++open_;
    try {
      std::thread([this, serve] {
        serve();
        close_one();
      }).detach();
    } catch (const std::system_error&) {  // the system has no more threads
      close_one();
      shedding = true;
      serve();
      shedding = false;
    }
  }

  void shutdown() override {
    std::unique_lock lock(mutex_);
    none_.wait(lock, [&] { return open_ == 0; });
  }

 private:
  void close_one() {
    const std::scoped_lock lock(mutex_);
    --open_;
    none_.notify_all();
  }

  std::size_t most_;
  std::atomic<std::size_t>& open_;
  std::mutex mutex_;
  std::condition_variable none_;
};

const char* reason(int status) {
  switch (status) {
    case 408:
      return "Request Timeout";
    case 413:
      return "Payload Too Large";
    case 431:
      return "Request Header Fields Too Large";
    case 503:
      return "Service Unavailable";
  }
  return "Bad Request";
}

std::string header(const httplib::Request& request, const char* name) {
  return request.get_header_value(name);
}

}  // namespace

struct HttpServer::Impl : httplib::Server {
  Impl(HttpLimits l, std::function<HttpReply(const HttpRequest&)> h,
       std::function<std::string(int)> r)
      : limits(l), handler(std::move(h)), refusal(std::move(r)) {
    new_task_queue = [this] { return new ConnectionThreads(limits.connections, open); };
    set_tcp_nodelay(true);
    set_payload_max_length(limits.body_bytes);
    set_socket_options([](socket_t socket) {
      const int yes = 1;  // not SO_REUSEPORT, by which a second server would share the port
      setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    });
    const auto bare = [this](const httplib::Request& request, httplib::Response& response) {
      answer(request, "", response);
    };
    const auto with_body = [this](const httplib::Request& request, httplib::Response& response,
                                  const httplib::ContentReader& reader) {
      read_and_answer(request, reader, response);
    };
    Get(".*", bare);
    Options(".*", bare);
    Post(".*", with_body);
    Put(".*", with_body);
    Patch(".*", with_body);
    Delete(".*", with_body);
    // Also of requests that cpp-httplib refuses by itself, perhaps with a body left to read.
    set_error_handler([this](const httplib::Request&, httplib::Response& response) {
      if (response.body.empty()) refuse(response, response.status);
    });
    set_keep_alive_max_count(std::numeric_limits<std::size_t>::max());
    set_keep_alive_timeout(
        std::chrono::duration_cast<std::chrono::seconds>(limits.idle_time).count());
    set_exception_handler(
        [this](const httplib::Request&, httplib::Response& response, const std::exception_ptr&) {
          response.status = 500;
          response.set_content(refusal(500), "application/json");
        });
  }

  void read_and_answer(const httplib::Request& request, const httplib::ContentReader& reader,
                       httplib::Response& response) {
    if (request.is_multipart_form_data()) return refuse(response, 415);
    const bool has_length = request.has_header("Content-Length");
    const bool chunked = request.has_header("Transfer-Encoding");
    if (has_length && chunked) return refuse(response, 400);  // who believes which?
    std::string body;
    if (!has_length && !chunked) return answer(request, std::move(body), response);
    bool fits = true;
    const bool read = reader([&](const char* data, std::size_t size) {
      fits = body.size() + size <= limits.body_bytes;
      if (fits) body.append(data, size);
      return fits;
    });
    if (!read || !fits) {
      const int status = this_connection->refused();
      return refuse(response, !fits || status == 413 || response.status == 413 ? 413
                              : status != 0                                    ? status
                                                                               : 400);
    }
    answer(request, std::move(body), response);
  }

  // What is left of the request is not read; so nothing may follow it.
  void refuse(httplib::Response& response, int status) {
    this_connection->body_unread();
    response.status = status;
    response.set_header("Connection", "close");
    response.set_content(refusal(status), "application/json");
  }

  void answer(const httplib::Request& from, std::string body, httplib::Response& response) {
    HttpRequest request;
    request.method = from.method;
    request.path = from.path;
    request.body = std::move(body);
    request.authorization = header(from, "Authorization");
    request.origin = header(from, "Origin");
    request.host = header(from, "Host");
    request.wanted_headers = header(from, "Access-Control-Request-Headers");
    if (from.get_header_value_count("Content-Length") > 1) return refuse(response, 400);
    request.client_gone = [connection = this_connection] { return connection->client_gone(); };
    if (!this_connection->answering) ++answering;
    this_connection->answering = true;
    HttpReply reply = handler(request);
    response.status = reply.status;
    for (const auto& [name, value] : reply.headers) response.set_header(name, value);
    if (!reply.next) return response.set_content(std::move(reply.body), reply.type);
    response.set_chunked_content_provider(
        reply.type,
        [next = std::move(reply.next), connection = this_connection](
            std::size_t, httplib::DataSink& sink) { return write_next(next, *connection, sink); });
  }

  // cpp-httplib catches nothing here.
  static bool write_next(const std::function<std::optional<std::string>()>& next,
                         const Connection& connection, httplib::DataSink& sink) {
    try {
      if (connection.client_gone()) return false;
      const std::optional<std::string> piece = next();
      if (!piece) sink.done();
      return !piece || piece->empty() || sink.write(piece->data(), piece->size());
    } catch (const std::exception&) {
      return false;
    }
  }

  // Before a request is answered: cpp-httplib would copy ranges out of any answer, and compress it,
  // which costs more than it saves. A body where none belongs would be read as the next request.
  static void prepare(httplib::Request& request) {
    request.ranges.clear();
    request.headers.erase("Accept-Encoding");
    const bool bodiless =
        request.method == "GET" || request.method == "HEAD" || request.method == "OPTIONS";
    const std::string length = request.get_header_value("Content-Length");
    if (bodiless &&
        ((!length.empty() && length != "0") || request.has_header("Transfer-Encoding"))) {
      this_connection->body_unread();
    }
  }

  // In place of cpp-httplib's own, which waits without end for slow bytes.
  bool process_and_close_socket(socket_t socket) override {
    Connection connection(static_cast<int>(socket), limits);
    remember(socket, true);
    if (shedding) {
      raw_refusal(connection, 503);
    } else {
      this_connection = &connection;
      const auto crowded = [&] { return stopping || 4 * open > 3 * limits.connections; };
      while (connection.await_request(crowded)) {
        bool closed = false;
        const bool served = serve_one(connection, closed);
        if (connection.refused() != 0 && !connection.wrote()) {
          raw_refusal(connection, connection.refused());
        }
        if (!served || closed || stopping || !connection.sound()) break;
      }
      this_connection = nullptr;
    }
    remember(socket, false);
    linger(socket, shedding ? 0 : 500);
    ::close(socket);
    return true;
  }

  bool serve_one(Connection& connection, bool& closed) {
    bool served = false;
    try {
      served = process_request(connection, stopping, closed, prepare);
    } catch (const std::exception&) {  // no memory: this connection ends
    }
    if (connection.answering) --answering;
    connection.answering = false;
    return served;
  }

  void raw_refusal(Connection& connection, int status) {
    const std::string body = refusal(status);
    const std::string head = fmt::format(
        "HTTP/1.1 {} {}\r\nConnection: close\r\nContent-Type: application/json\r\n"
        "Content-Length: {}\r\n\r\n",
        status, reason(status), body.size());
    const std::string all = head + body;
    connection.send_all(all.data(), all.size());
  }

  // Closing with unread bytes would reset the connection, and the answer with it.
  static void linger(socket_t socket, int patience_ms) {
    ::shutdown(socket, SHUT_WR);
    std::array<char, 16384> bytes;
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(2);
    while (std::chrono::steady_clock::now() < end) {
      pollfd entry{socket, POLLIN, 0};
      if (poll(&entry, 1, patience_ms) <= 0) return;
      if (recv(socket, bytes.data(), bytes.size(), MSG_DONTWAIT) <= 0) return;
    }
  }

  // cpp-httplib lets five clients wait.
  void listen_longer() { ::listen(svr_sock_, 128); }

  void remember(socket_t socket, bool is_open) {
    const std::scoped_lock lock(mutex);
    if (is_open) {
      sockets.insert(socket);
    } else {
      sockets.erase(socket);
    }
  }

  HttpLimits limits;
  std::function<HttpReply(const HttpRequest&)> handler;
  std::function<std::string(int)> refusal;
  std::atomic<bool> stopping = false, runs = false, failed = false;
  std::atomic<std::size_t> open = 0, answering = 0;
  std::mutex mutex;
  std::set<socket_t> sockets;
};

HttpServer::HttpServer(HttpLimits limits, std::function<HttpReply(const HttpRequest&)> handler,
                       std::function<std::string(int)> refusal)
    : impl_(std::make_unique<Impl>(limits, std::move(handler), std::move(refusal))) {}

HttpServer::~HttpServer() = default;

int HttpServer::bind(const std::string& host, int port) {
  errno = 0;
  const int bound =
      port == 0 ? impl_->bind_to_any_port(host) : (impl_->bind_to_port(host, port) ? port : -1);
  if (bound < 0) {
    throw_error(ErrorCode::io, "cannot listen on {}:{}: {}", host, port,
                errno != 0 ? std::strerror(errno) : "no such address");
  }
  impl_->listen_longer();
  return bound;
}

void HttpServer::run() {
  {
    const std::scoped_lock lock(impl_->mutex);
    if (impl_->stopping) return;
    impl_->runs = true;
  }
  impl_->listen_after_bind();
  impl_->runs = false;
  if (!impl_->stopping) impl_->failed = true;
}

bool HttpServer::failed() const { return impl_->failed; }
std::size_t HttpServer::answering() const { return impl_->answering; }

void HttpServer::stop() {
  {
    const std::scoped_lock lock(impl_->mutex);
    impl_->stopping = true;
  }
  // cpp-httplib forgets a stop() that comes before its loop has begun.
  while (impl_->runs && !impl_->is_running()) std::this_thread::yield();
  impl_->Server::stop();
  const std::scoped_lock lock(impl_->mutex);
  for (const socket_t socket : impl_->sockets) ::shutdown(socket, SHUT_RDWR);
}

std::size_t HttpServer::connections() const { return impl_->open; }

}  // namespace tenfold
