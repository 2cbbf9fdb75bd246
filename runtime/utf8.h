#pragma once
// UTF-8 as Unicode table 3-7 defines it: no overlong forms, no surrogates, nothing above U+10FFFF.
// Invalid bytes are grouped by the "maximal subpart" practice, as Python and browsers do.

#include <cstddef>
#include <string>
#include <string_view>

namespace tenfold {

inline constexpr char32_t kReplacementChar = 0xFFFD;

struct Utf8Char {
  char32_t code = kReplacementChar;
  std::size_t length = 0;  // bytes taken, at least 1; of the maximal subpart when not valid
  bool valid = false;
  bool truncated = false;  // not valid only because the text ends inside the character
};

// The character that starts at text[at]; at < text.size().
Utf8Char decode_utf8(std::string_view text, std::size_t at) noexcept;
// Appends one character; a code that is no Unicode scalar value becomes U+FFFD.
void append_utf8(std::string& text, char32_t code);

bool is_valid_utf8(std::string_view text) noexcept;
// Byte offset of the first invalid (or truncated) character; npos when there is none.
std::size_t first_invalid_utf8(std::string_view text) noexcept;
// Length of the longest prefix that does not end inside a character. Invalid bytes count as
// complete, since no further byte can mend them.
std::size_t complete_utf8_prefix(std::string_view text) noexcept;
// Each invalid maximal subpart becomes one U+FFFD.
std::string sanitize_utf8(std::string_view text);

}  // namespace tenfold
