#pragma once
// Template text -> tokens, with the white-space rules of trim_blocks and lstrip_blocks already
// applied, so the parser never looks at a blank.

#include <fmt/core.h>

#include <string>
#include <string_view>
#include <vector>

#include "kernels/error.h"

namespace tenfold::jinja {

enum class TokenKind {
  text,          // literal output
  output_begin,  // {{
  output_end,
  block_begin,  // {%
  block_end,
  name,
  string,    // text is the decoded value
  integer,   // decimal digits, or 0x.. 0o.. 0b..
  floating,  // digits without underscores
  op,        // + - ** == [ ...
  end,
};

struct Token {
  TokenKind kind;
  std::string text;
  int line;
};

inline constexpr std::size_t kMaxTemplateBytes = std::size_t{256} << 10;

template <typename... T>
[[noreturn]] void template_error(int line, fmt::format_string<T...> format, T&&... args) {
  throw_error(ErrorCode::bad_file, "chat template, line {}: {}", line,
              fmt::format(format, std::forward<T>(args)...));
}

// source: valid UTF-8 with "\n" line ends.
std::vector<Token> tokenize(std::string_view source);

// The value of a string literal's inside, with Python's escapes.
std::string unescape(std::string_view body, int line);

}  // namespace tenfold::jinja
