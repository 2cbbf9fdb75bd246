#include "runtime/jinja/lexer.h"

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

#include "runtime/jinja/text.h"
#include "runtime/utf8.h"

namespace tenfold::jinja {
namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_name_start(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' ||
         static_cast<unsigned char>(c) >= 0x80;
}
bool is_name_char(char c) { return is_name_start(c) || is_digit(c); }

class Lexer {
 public:
  explicit Lexer(std::string_view source) : source_(source) {}

  std::vector<Token> run() {
    while (at_ < source_.size()) lex_text();
    add(TokenKind::end, "");
    return std::move(tokens_);
  }

 private:
  void add(TokenKind kind, std::string text) { tokens_.push_back({kind, std::move(text), line_}); }
  bool starts_with(std::string_view text) const { return source_.substr(at_).starts_with(text); }
  char peek(std::size_t ahead = 0) const {
    return at_ + ahead < source_.size() ? source_[at_ + ahead] : '\0';
  }
  void advance(std::size_t bytes) {
    const auto begin = source_.begin() + static_cast<std::ptrdiff_t>(at_);
    line_ += static_cast<int>(std::count(begin, begin + static_cast<std::ptrdiff_t>(bytes), '\n'));
    at_ += bytes;
  }
  void skip_spaces() {
    const std::string_view rest = source_.substr(at_);
    advance(rest.size() - strip(rest, std::nullopt, Side::left).size());
  }

  // Output text before a tag that opens at `tag`; the tag's sign and kind decide what is stripped.
  void add_text(std::size_t tag, char sign, bool is_output) {
    std::string_view text = source_.substr(at_, tag - at_);
    if (sign == '-') {
      text = strip(text, std::nullopt, Side::right);
    } else if (sign != '+' && !is_output) {
      const std::size_t newline = text.rfind('\n');
      const std::size_t line_begin = newline == std::string_view::npos ? 0 : newline + 1;
      const bool blank = strip(text.substr(line_begin), std::nullopt, Side::left).empty();
      if (blank && (line_begin > 0 || at_line_start_)) text = text.substr(0, line_begin);
    }
    if (!text.empty()) add(TokenKind::text, std::string(text));
    advance(tag - at_);
  }

  void lex_text() {
    std::size_t tag = at_;
    const auto opens = [this](std::size_t at) {
      const char next = at + 1 < source_.size() ? source_[at + 1] : '\0';
      return source_[at] == '{' && (next == '{' || next == '%' || next == '#');
    };
    while (tag < source_.size() && !opens(tag)) ++tag;
    if (tag == source_.size()) {
      add(TokenKind::text, std::string(source_.substr(at_)));
      advance(tag - at_);
      return;
    }
    const char kind = source_[tag + 1];
    const char sign = tag + 2 < source_.size() ? source_[tag + 2] : '\0';
    add_text(tag, sign, kind == '{');
    advance(sign == '-' || sign == '+' ? 3 : 2);
    if (kind == '#') {
      skip_comment();
    } else if (kind == '%' && skip_keyword_block("raw")) {
      lex_raw();
    } else {
      lex_tag(kind == '{');
    }
  }

  // The end of a tag: "-" strips all white space after it, a block also eats one newline unless
  // it ends in "+".
  void end_tag(char sign, bool eats_newline) {
    advance(sign == '\0' ? 2 : 3);
    if (sign == '-') {
      skip_spaces();
    } else if (sign != '+' && eats_newline && peek() == '\n') {
      advance(1);
    }
    at_line_start_ = source_[at_ - 1] == '\n';
  }

  // Sign of the closing delimiter at at_ ('\0': none), or nullopt when there is no delimiter.
  std::optional<char> closing(std::string_view delimiter, bool plus_allowed) const {
    if (starts_with(delimiter)) return '\0';
    if ((peek() == '-' || (plus_allowed && peek() == '+')) &&
        source_.substr(at_ + 1).starts_with(delimiter))
      return peek();
    return std::nullopt;
  }

  void skip_comment() {
    const int begin = line_;
    const std::size_t close = source_.find("#}", at_);
    if (close == std::string_view::npos) template_error(begin, "comment without end");
    const char before = source_[close - 1];
    const bool has_sign = close > at_ && (before == '-' || before == '+');
    advance(close - at_ - (has_sign ? 1 : 0));
    end_tag(has_sign ? before : '\0', true);
  }

  // Consumes "raw %}" right after "{%"; false (nothing consumed) for any other block.
  bool skip_keyword_block(std::string_view keyword) {
    const std::size_t at = at_;
    const int line = line_;
    skip_spaces();
    if (starts_with(keyword)) {
      advance(keyword.size());
      skip_spaces();
      const auto sign = closing("%}", keyword != "raw");
      if (sign) {
        end_tag(*sign, keyword != "raw");
        return true;
      }
    }
    at_ = at;
    line_ = line;
    return false;
  }

  void lex_raw() {
    const int begin = line_;
    const std::size_t body = at_;
    for (std::size_t tag = at_; (tag = source_.find("{%", tag)) != std::string_view::npos; ++tag) {
      at_ = tag + 2;
      const char sign = peek();
      if (sign == '-' || sign == '+') ++at_;
      const bool starts_line = at_line_start_;
      if (!skip_keyword_block("endraw")) continue;
      const std::pair after{at_, at_line_start_};
      at_ = body;
      line_ = begin;
      at_line_start_ = starts_line;
      add_text(tag, sign, false);
      advance(after.first - at_);
      at_line_start_ = after.second;
      return;
    }
    template_error(begin, "{{% raw %}} without {{% endraw %}}");
  }

  void lex_tag(bool is_output) {
    const int begin = line_;
    add(is_output ? TokenKind::output_begin : TokenKind::block_begin, "");
    std::string brackets;
    while (true) {
      skip_spaces();
      if (at_ == source_.size()) template_error(begin, "the tag that begins here has no end");
      if (brackets.empty()) {
        if (const auto sign = closing(is_output ? "}}" : "%}", !is_output)) {
          add(is_output ? TokenKind::output_end : TokenKind::block_end, "");
          end_tag(*sign, !is_output);
          return;
        }
      }
      lex_token(brackets);
    }
  }

  void lex_token(std::string& brackets) {
    const char c = peek();
    if (is_name_start(c)) {
      std::size_t bytes = 1;
      while (is_name_char(peek(bytes))) ++bytes;
      add(TokenKind::name, std::string(source_.substr(at_, bytes)));
      at_ += bytes;
    } else if (is_digit(c)) {
      lex_number();
    } else if (c == '\'' || c == '"') {
      lex_string(c);
    } else {
      lex_operator(brackets);
    }
  }

  std::string digits(auto accepts) {
    std::string text;
    while (accepts(peek()) || (peek() == '_' && !text.empty() && accepts(peek(1)))) {
      if (peek() != '_') text += peek();
      ++at_;
    }
    return text;
  }

  void lex_number() {
    const char base = static_cast<char>(peek() == '0' ? peek(1) | 0x20 : 0);
    if (base == 'x' || base == 'o' || base == 'b') {
      at_ += 2;
      const auto accepts = [base](char c) {
        if (base == 'b') return c == '0' || c == '1';
        if (base == 'o') return c >= '0' && c <= '7';
        return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
      };
      add(TokenKind::integer, std::string{'0', base} + digits(accepts));
      return;
    }
    // "x.0.1" is two subscripts, not a float.
    const bool after_dot = !tokens_.empty() && tokens_.back().kind == TokenKind::op &&
                           tokens_.back().text == "." && at_ > 0 && source_[at_ - 1] == '.';
    std::string text = digits(is_digit);
    bool floating = false;
    if (!after_dot && peek() == '.' && is_digit(peek(1))) {
      ++at_;
      text += '.' + digits(is_digit);
      floating = true;
    }
    const std::size_t sign = peek(1) == '+' || peek(1) == '-' ? 1 : 0;
    if (!after_dot && (peek() | 0x20) == 'e' && is_digit(peek(1 + sign))) {
      text += 'e';
      if (sign) text += peek(1);
      at_ += 1 + sign;
      text += digits(is_digit);
      floating = true;
    }
    if (!floating && text[0] == '0' && text.find_first_not_of('0') != std::string::npos)
      template_error(line_, "the number {} begins with 0", text);
    add(floating ? TokenKind::floating : TokenKind::integer, std::move(text));
  }

  void lex_string(char quote) {
    std::size_t end = at_ + 1;
    while (end < source_.size() && source_[end] != quote) end += source_[end] == '\\' ? 2 : 1;
    if (end >= source_.size()) template_error(line_, "the string that begins here has no end");
    add(TokenKind::string, unescape(source_.substr(at_ + 1, end - at_ - 1), line_));
    advance(end + 1 - at_);
  }

  void lex_operator(std::string& brackets) {
    static constexpr std::array<std::string_view, 6> kDouble = {"//", "**", "==", "!=", ">=", "<="};
    for (const std::string_view op : kDouble) {
      if (!starts_with(op)) continue;
      add(TokenKind::op, std::string(op));
      at_ += 2;
      return;
    }
    const char c = peek();
    if (std::string_view("+-/*%~[](){}<>=.:|,;").find(c) == std::string_view::npos || c == '\0')
      template_error(line_, "unexpected character '{}'",
                     source_.substr(at_, decode_utf8(source_, at_).length));
    if (c == '(' || c == '[' || c == '{') {
      brackets += c == '(' ? ')' : c == '[' ? ']' : '}';
    } else if (c == ')' || c == ']' || c == '}') {
      if (brackets.empty() || brackets.back() != c)
        template_error(line_, "unexpected '{}'", std::string_view(&c, 1));
      brackets.pop_back();
    }
    add(TokenKind::op, std::string(1, c));
    ++at_;
  }

  std::string_view source_;
  std::size_t at_ = 0;
  int line_ = 1;
  bool at_line_start_ = true;
  std::vector<Token> tokens_;
};

// Hexadecimal digits of \x, \u, \U.
char32_t hex_escape(std::string_view body, std::size_t at, std::size_t count, int line) {
  char32_t code = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const char c = at + i < body.size() ? body[at + i] : '\0';
    const char lower = static_cast<char>(c | 0x20);
    const bool letter = lower >= 'a' && lower <= 'f';
    if (!is_digit(c) && !letter) template_error(line, "a \\x, \\u or \\U escape lacks digits");
    code = code << 4 | static_cast<char32_t>(letter ? lower - 'a' + 10 : c - '0');
  }
  if (code > 0x10FFFF || (code >= 0xD800 && code <= 0xDFFF))
    template_error(line, "an escape names no Unicode character");
  return code;
}

}  // namespace

std::string unescape(std::string_view body, int line) {
  static constexpr std::string_view kPlain = "\\'\"abfnrtv";
  static constexpr std::string_view kMeaning = "\\'\"\a\b\f\n\r\t\v";
  std::string text;
  for (std::size_t at = 0; at < body.size(); ++at) {
    if (body[at] != '\\') {
      text += body[at];
      continue;
    }
    const char c = ++at < body.size() ? body[at] : '\\';
    const std::size_t width = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    if (const std::size_t plain = kPlain.find(c); plain != std::string_view::npos) {
      text += kMeaning[plain];
    } else if (width > 0) {
      append_utf8(text, hex_escape(body, at + 1, width, line));
      at += width;
    } else if (c >= '0' && c <= '7') {
      char32_t code = 0;
      std::size_t n = 0;
      for (; n < 3 && at + n < body.size() && body[at + n] >= '0' && body[at + n] <= '7'; ++n)
        code = code * 8 + static_cast<char32_t>(body[at + n] - '0');
      append_utf8(text, code);
      at += n - 1;
    } else if (c == 'N') {
      template_error(line, "\\N escapes are not supported");
    } else if (c != '\n') {  // a backslash before a line end joins the lines
      text += '\\';
      text += c;
    }
  }
  return text;
}

std::vector<Token> tokenize(std::string_view source) { return Lexer(source).run(); }

}  // namespace tenfold::jinja
