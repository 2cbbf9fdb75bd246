#include "server/access.h"

#include <arpa/inet.h>

#include <algorithm>
#include <cctype>
#include <fstream>

#include "kernels/error.h"

namespace tenfold {
namespace {

constexpr std::size_t kMostKeys = 10'000;
constexpr std::size_t kMostKeyBytes = 1024;

// Looks at all of the shorter text however early they differ; says no sooner only for the length.
bool same(std::string_view a, std::string_view b) {
  unsigned difference = a.size() == b.size() ? 0 : 1;
  for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    difference |= static_cast<unsigned char>(a[i]) ^ static_cast<unsigned char>(b[i]);
  }
  return difference == 0;
}

}  // namespace

std::vector<std::string> read_key_file(const std::string& path) {
  std::ifstream in(path);
  if (!in) throw_error(ErrorCode::bad_file, "{}: the file of API keys cannot be read", path);
  std::vector<std::string> keys;
  std::string line;
  for (int number = 1; std::getline(in, line); ++number) {
    while (!line.empty() && std::isspace(static_cast<unsigned char>(line.back())) != 0) {
      line.pop_back();
    }
    if (line.empty() || line.front() == '#') continue;
    const bool plain = std::all_of(line.begin(), line.end(), [](unsigned char c) {
      return c > 0x20 && c < 0x7F && c != '%';  // which cpp-httplib would decode
    });
    if (!plain || line.size() > kMostKeyBytes) {
      throw_error(
          ErrorCode::bad_file,
          "{}: line {}: expected an API key of printable characters without spaces and %, at "
          "most {}",
          path, number, kMostKeyBytes);
    }
    keys.push_back(line);
    if (keys.size() > kMostKeys) {
      throw_error(ErrorCode::bad_file, "{}: more than {} API keys", path, kMostKeys);
    }
  }
  if (in.bad()) throw_error(ErrorCode::bad_file, "{}: the file of API keys cannot be read", path);
  if (keys.empty()) throw_error(ErrorCode::bad_file, "{}: there is no API key in the file", path);
  return keys;
}

bool has_key(const std::vector<std::string>& keys, std::string_view authorization) {
  constexpr std::string_view kScheme = "Bearer ";
  const bool bearer = authorization.substr(0, kScheme.size()) == kScheme;
  const std::string_view key = bearer ? authorization.substr(kScheme.size()) : std::string_view();
  bool found = false;
  for (const std::string& good : keys) found |= same(good, key);
  return found && bearer;
}

std::string_view host_name(std::string_view text) {
  if (const std::size_t scheme = text.find("://"); scheme != std::string_view::npos) {
    text.remove_prefix(scheme + 3);
  }
  if (!text.empty() && text.front() == '[') {
    const std::size_t end = text.find(']');
    return end == std::string_view::npos ? text : text.substr(1, end - 1);
  }
  return text.substr(0, text.find(':'));
}

// By its number, not by how it begins: 127.example.com is anybody's.
bool is_loopback(std::string_view host) {
  in_addr v4{};
  const bool numeric = inet_pton(AF_INET, std::string(host).c_str(), &v4) == 1;
  return host == "localhost" || host == "::1" || (numeric && ntohl(v4.s_addr) >> 24 == 127);
}

}  // namespace tenfold
