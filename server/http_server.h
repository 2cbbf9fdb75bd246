#pragma once
// HTTP/1.1 over cpp-httplib: moves bytes between sockets and one handler, within limits. A thread
// for each connection. What is asked and answered is the handler's business.

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace tenfold {

struct HttpRequest {
  std::string method, path;  // path without a query
  std::string body;
  std::string authorization, origin, host;
  std::string wanted_headers;         // Access-Control-Request-Headers
  std::function<bool()> client_gone;  // whether the connection has been closed
};

struct HttpReply {
  int status = 200;
  std::string type = "application/json";
  std::string body;
  std::vector<std::pair<std::string, std::string>> headers;
  // Instead of a body, where it is set: the next piece, perhaps empty, or nothing after the last.
  // May wait a fraction of a second. Destroyed when the client is gone or all is sent.
  std::function<std::optional<std::string>()> next;
};

struct HttpLimits {
  std::size_t connections = 256;  // at once; more are answered with 503 and closed
  std::size_t body_bytes = std::size_t{8} << 20;
  std::size_t header_bytes = std::size_t{32} << 10;  // with the request line
  std::chrono::milliseconds header_time{10'000};     // from the first byte to the last
  std::chrono::milliseconds body_time{60'000};
  std::chrono::milliseconds idle_time{30'000};   // between requests; less when it gets crowded
  std::chrono::milliseconds write_time{30'000};  // of a piece, and what 16 KB/s take
};

class HttpServer {
 public:
  // The handler may be called by many threads; what it throws becomes status 500. refusal makes the
  // body of an answer that never reached the handler (408, 413, 431, 503 ...).
  HttpServer(HttpLimits limits, std::function<HttpReply(const HttpRequest&)> handler,
             std::function<std::string(int status)> refusal);
  ~HttpServer();

  // Takes the port, or one that is free for 0, and returns it. Throws io, naming the address.
  int bind(const std::string& host, int port);
  // Serves until stop(); blocks.
  void run();
  // Closes the port and all connections, those that are being answered too. From any thread.
  void stop();
  std::size_t connections() const;
  // Requests whose answers are not all written.
  std::size_t answering() const;
  // Whether run() returned without stop(): the system takes no more connections.
  bool failed() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tenfold
