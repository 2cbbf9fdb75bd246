#include "runtime/files/quote.h"

#include <fmt/core.h>

namespace tenfold {

std::string quote(std::string_view text) {
  constexpr std::size_t kMaxShown = 96;
  std::string result = "\"";
  for (const char c : text.substr(0, kMaxShown)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte >= 0x7f) {
      result += fmt::format("\\x{:02x}", byte);
    } else {
      result += c;
    }
  }
  result += text.size() > kMaxShown ? "...\"" : "\"";
  return result;
}

}  // namespace tenfold
