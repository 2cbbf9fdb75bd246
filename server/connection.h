#pragma once
// A client's socket as cpp-httplib reads and writes it, with deadlines and byte counts that
// cpp-httplib 0.11 lacks: it waits a while for each byte, however many come, and counts no headers.

#include <array>
#include <atomic>
#include <chrono>
#include <string>

#include "server/http_server.h"
#include "server/httplib.h"

namespace tenfold {

class Connection : public httplib::Stream {
 public:
  Connection(int socket, const HttpLimits& limits) : socket_(socket), limits_(limits) {}

  // Waits for the first byte of a request; false where none comes in time, the client has gone or
  // leave() says so.
  bool await_request(const std::function<bool()>& leave);
  // After a request: whether the next one may follow on this connection.
  bool sound() const noexcept { return refused_ == 0 && !unread_; }
  // The status that a limit calls for; 0: none was passed.
  int refused() const noexcept { return refused_; }
  bool wrote() const noexcept { return wrote_; }
  void body_unread() noexcept { unread_ = true; }
  bool answering = false;  // a handler has the request, or its answer is being written
  bool client_gone() const;
  ssize_t send_all(const char* data, std::size_t size);

  bool is_readable() const override;
  bool is_writable() const override;
  ssize_t read(char* data, std::size_t size) override;
  ssize_t write(const char* data, std::size_t size) override;
  // Nobody asks for addresses.
  void get_remote_ip_and_port(std::string&, int&) const override {}
  void get_local_ip_and_port(std::string&, int&) const override {}
  socket_t socket() const override { return socket_; }

 private:
  using Clock = std::chrono::steady_clock;

  bool fill();
  void see_header(char c);

  int socket_;
  const HttpLimits& limits_;
  std::array<char, 4096> buffer_;
  std::size_t begin_ = 0, end_ = 0;  // of what is in the buffer
  Clock::time_point deadline_;
  bool in_header_ = true;
  std::size_t line_bytes_ = 0;     // of the header line at hand
  std::array<char, 6> line_ = {};  // its beginning
  char before_ = 0;
  std::size_t header_bytes_ = 0, body_bytes_ = 0;
  int refused_ = 0;
  bool unread_ = false, wrote_ = false;
};

}  // namespace tenfold
