#pragma once
// Who may ask: API keys, and which web pages.

#include <string>
#include <string_view>
#include <vector>

namespace tenfold {

// One key a line; blank lines and lines that begin with # do not count. Throws bad_file where the
// file cannot be read, or has no key or one with spaces.
std::vector<std::string> read_key_file(const std::string& path);

// Whether "Bearer KEY" has one of the keys; takes as long whatever is wrong with it.
bool has_key(const std::vector<std::string>& keys, std::string_view authorization);

// localhost, ::1 and 127.0.0.0/8.
bool is_loopback(std::string_view host);

// Of a Host header or an origin: the name without scheme and port.
std::string_view host_name(std::string_view text);

}  // namespace tenfold
