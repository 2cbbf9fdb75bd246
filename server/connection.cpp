#include "server/connection.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstring>
#include <string_view>

namespace tenfold {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kGlance{100};          // how often a wait looks around
constexpr std::size_t kLeastBytesPerMs = 16;  // that a client must read

// Whether the socket is ready for events within the time.
bool ready(int socket, short events, milliseconds patience) {
  pollfd entry{socket, events, 0};
  const int wait = static_cast<int>(std::max<long>(patience.count(), 0));
  int found = poll(&entry, 1, wait);
  if (found < 0 && errno == EINTR) found = poll(&entry, 1, wait);
  return found > 0 && (entry.revents & (events | POLLHUP | POLLERR)) != 0;
}

}  // namespace

bool Connection::await_request(const std::function<bool()>& leave) {
  in_header_ = true;
  line_bytes_ = 0;
  header_bytes_ = body_bytes_ = 0;
  wrote_ = false;
  const auto give_up = Clock::now() + limits_.idle_time;
  while (begin_ == end_) {
    if (!ready(socket_, POLLIN, kGlance)) {
      if (leave() || Clock::now() >= give_up) return false;
      continue;
    }
    deadline_ = Clock::now() + limits_.header_time;
    if (!fill()) return false;
  }
  deadline_ = Clock::now() + limits_.header_time;
  return true;
}

bool Connection::client_gone() const {
  pollfd entry{socket_, POLLRDHUP, 0};
  return poll(&entry, 1, 0) > 0;  // POLLHUP and POLLERR come unasked
}

bool Connection::is_readable() const { return begin_ < end_ || ready(socket_, POLLIN, kGlance); }

bool Connection::is_writable() const {
  return ready(socket_, POLLOUT, limits_.write_time) && !client_gone();
}

// Reads what there is, waiting until the deadline at most.
bool Connection::fill() {
  begin_ = end_ = 0;
  while (true) {
    const auto left = std::chrono::duration_cast<milliseconds>(deadline_ - Clock::now());
    if (left.count() <= 0 || !ready(socket_, POLLIN, left)) {
      refused_ = 408;
      return false;
    }
    const ssize_t n = recv(socket_, buffer_.data(), buffer_.size(), MSG_DONTWAIT);
    if (n > 0) {
      end_ = static_cast<std::size_t>(n);
      return true;
    }
    if (n == 0) return false;
    if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) return false;
  }
}

// Counts the header and finds its end, an empty line. Lines end in CR LF and nothing else: where
// cpp-httplib reads on and this does not, a header could be endless.
void Connection::see_header(char c) {
  constexpr std::size_t kMostRangeBytes = 100;  // a long list of ranges is copied out for each
  ++header_bytes_;
  const bool ends = c == '\n';
  if (ends && before_ != '\r') refused_ = 400;
  if (ends && line_bytes_ == 1) {  // the CR
    in_header_ = false;
    deadline_ = Clock::now() + limits_.body_time;
  }
  if (!ends && line_bytes_ < line_.size()) {
    line_[line_bytes_] = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  }
  const std::string_view begun(line_.data(), std::min(line_bytes_, line_.size()));
  if (header_bytes_ > limits_.header_bytes ||
      (line_bytes_ > kMostRangeBytes && begun == "range:")) {
    refused_ = 431;
  }
  line_bytes_ = ends ? 0 : line_bytes_ + 1;
  before_ = c;
}

ssize_t Connection::read(char* data, std::size_t size) {
  if (refused_ != 0) return -1;
  if (begin_ == end_ && !fill()) return refused_ != 0 ? -1 : 0;
  // The header comes byte by byte, so its end is not read past.
  const std::size_t n = std::min(in_header_ ? std::min<std::size_t>(size, 1) : size, end_ - begin_);
  std::memcpy(data, buffer_.data() + begin_, n);
  begin_ += n;
  if (in_header_) {
    see_header(*data);
  } else {
    body_bytes_ += n;
    // Chunks of few bytes may double what comes over the wire.
    if (body_bytes_ > 2 * limits_.body_bytes + limits_.header_bytes) refused_ = 413;
  }
  return refused_ != 0 ? -1 : static_cast<ssize_t>(n);
}

ssize_t Connection::write(const char* data, std::size_t size) {
  if (refused_ != 0 && in_header_) return -1;  // cpp-httplib would say 400 whatever is wrong
  return send_all(data, size);
}

ssize_t Connection::send_all(const char* data, std::size_t size) {
  wrote_ = true;
  std::size_t sent = 0;
  // A little at a time is not enough.
  const auto end = Clock::now() + limits_.write_time + milliseconds(size / kLeastBytesPerMs);
  while (sent < size) {
    const auto left = std::chrono::duration_cast<milliseconds>(end - Clock::now());
    if (left.count() <= 0 || !ready(socket_, POLLOUT, left)) return -1;
    const ssize_t n = send(socket_, data + sent, size - sent, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) return -1;
    sent += n > 0 ? static_cast<std::size_t>(n) : 0;
  }
  return static_cast<ssize_t>(size);
}

}  // namespace tenfold
