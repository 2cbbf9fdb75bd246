#include "runtime/grammar/gbnf.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <unordered_map>

#include "kernels/error.h"
#include "runtime/utf8.h"

namespace tenfold {
namespace {

constexpr int kMaxGroupDepth = 100;

bool is_name_char(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
         c == '_';
}

int hex_value(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

class GbnfParser {
 public:
  GbnfParser(GrammarBuilder& builder, std::string_view text) : builder_(builder), text_(text) {}

  GrammarBuilder::Expr parse() {
    if (text_.size() > kMaxGrammarText) {
      throw_error(ErrorCode::bad_request, "the grammar has {} bytes, expected at most {}",
                  text_.size(), kMaxGrammarText);
    }
    const std::size_t broken = first_invalid_utf8(text_);
    if (broken != std::string_view::npos) {
      at_ = broken;
      fail("UTF-8 text");
    }
    skip_blanks(true);
    while (at_ < text_.size()) parse_rule();
    const auto root = rules_.find("root");
    if (root == rules_.end() || !builder_.is_defined(root->second)) {
      throw_error(ErrorCode::bad_request, "the grammar has no rule root, where a text begins");
    }
    for (const auto& [name, line] : first_use_) {
      if (builder_.is_defined(rules_.at(name))) continue;
      throw_error(ErrorCode::bad_request,
                  "grammar, line {}: the rule {} is used but defined nowhere", line, name);
    }
    return builder_.call(root->second);
  }

 private:
  using Expr = GrammarBuilder::Expr;

  std::size_t line() const {
    const auto before = text_.substr(0, std::min(at_, text_.size()));
    return 1 + static_cast<std::size_t>(std::ranges::count(before, '\n'));
  }

  std::string found() const {
    if (at_ >= text_.size()) return "the end";
    if (text_[at_] == '\n' || text_[at_] == '\r') return "the end of the line";
    const Utf8Char c = decode_utf8(text_, at_);
    const bool shown = c.valid && c.code >= 0x20 && (c.code < 0x7F || c.code > 0x9F);
    return shown ? std::string(text_.substr(at_, c.length))
                 : fmt::format("byte 0x{:02X}", static_cast<unsigned char>(text_[at_]));
  }

  [[noreturn]] void fail(std::string_view expected) const {
    throw_error(ErrorCode::bad_request, "grammar, line {}: expected {}, found {}", line(), expected,
                found());
  }

  bool looking_at(std::string_view token) const { return text_.substr(at_).starts_with(token); }

  bool take(std::string_view token) {
    if (!looking_at(token)) return false;
    at_ += token.size();
    return true;
  }

  void skip_blanks(bool also_lines) {
    while (at_ < text_.size()) {
      const char c = text_[at_];
      if (c == '#') {
        at_ = std::min(text_.find('\n', at_), text_.size());
      } else if (c == ' ' || c == '\t' || (also_lines && (c == '\n' || c == '\r'))) {
        ++at_;
      } else {
        return;
      }
    }
  }

  std::string_view parse_name() {
    const std::size_t begin = at_;
    while (at_ < text_.size() && is_name_char(text_[at_])) ++at_;
    if (at_ == begin) fail("the name of a rule");
    return text_.substr(begin, at_ - begin);
  }

  GrammarBuilder::Rule rule(std::string_view name) {
    const auto known = rules_.find(std::string(name));
    if (known != rules_.end()) return known->second;
    return rules_.emplace(std::string(name), builder_.declare(std::string(name))).first->second;
  }

  void parse_rule() {
    const std::size_t begin = at_;
    const std::string_view name = parse_name();
    const GrammarBuilder::Rule rule_id = rule(name);
    if (builder_.is_defined(rule_id)) {
      at_ = begin;
      throw_error(ErrorCode::bad_request, "grammar, line {}: the rule {} is defined twice", line(),
                  name);
    }
    skip_blanks(false);
    if (!take("::=")) fail("::=");
    skip_blanks(true);
    builder_.define(rule_id, parse_alternatives(0));
    if (at_ < text_.size() && text_[at_] != '\n' && text_[at_] != '\r') {
      fail("an element, | or the end of the line");
    }
    skip_blanks(true);
  }

  Expr parse_alternatives(int depth) {
    std::vector<Expr> alternatives = {parse_sequence(depth)};
    while (take("|")) {
      skip_blanks(true);
      alternatives.push_back(parse_sequence(depth));
    }
    return builder_.choice(alternatives);
  }

  Expr parse_sequence(int depth) {
    std::vector<Expr> parts;
    while (at_ < text_.size()) {
      const char c = text_[at_];
      if (c == '|' || c == ')' || c == '\n' || c == '\r') break;
      parts.push_back(parse_repetitions(parse_element(depth), depth));
    }
    return builder_.sequence(parts);
  }

  Expr parse_element(int depth) {
    const char c = text_[at_];
    if (c == '"') return parse_literal();
    if (c == '[') return parse_class();
    if (take(".")) return builder_.character(CodePointSet::all());
    if (c == '(') return parse_group(depth);
    if (!is_name_char(c)) fail("a literal, [, (, . or the name of a rule");
    const std::size_t line_of_use = line_cheaply();
    const std::string name(parse_name());
    first_use_.try_emplace(name, line_of_use);
    return builder_.call(rule(name));
  }

  // Counting lines from the start for each name would be quadratic.
  std::size_t line_cheaply() {
    counted_lines_ += static_cast<std::size_t>(
        std::ranges::count(text_.substr(counted_to_, at_ - counted_to_), '\n'));
    counted_to_ = at_;
    return 1 + counted_lines_;
  }

  Expr parse_group(int depth) {
    if (depth >= kMaxGroupDepth) {
      throw_error(ErrorCode::bad_request,
                  "grammar, line {}: parentheses are nested deeper than {} levels", line(),
                  kMaxGroupDepth);
    }
    ++at_;
    skip_blanks(true);
    const Expr inside = parse_alternatives(depth + 1);
    if (!take(")")) fail("| or )");
    return inside;
  }

  Expr parse_repetitions(Expr expr, int depth) {
    const bool in_group = depth > 0;
    for (int times = 0;; ++times) {
      skip_blanks(in_group);
      if (take("*")) {
        expr = builder_.repeat(expr, 0, std::nullopt);
      } else if (take("+")) {
        expr = builder_.repeat(expr, 1, std::nullopt);
      } else if (take("?")) {
        expr = builder_.optional(expr);
      } else if (take("{")) {
        expr = parse_counts(expr);
      } else {
        return expr;
      }
    }
  }

  Expr parse_counts(Expr expr) {
    skip_blanks(false);
    const std::uint32_t least = parse_count();
    std::optional<std::uint32_t> most = least;
    skip_blanks(false);
    if (take(",")) {
      skip_blanks(false);
      most = looking_at("}") ? std::nullopt : std::optional(parse_count());
      skip_blanks(false);
    }
    if (!take("}")) fail("}");
    if (most && *most < least) {
      throw_error(ErrorCode::bad_request,
                  "grammar, line {}: the repetition {{{},{}}} must not end below where it begins",
                  line(), least, *most);
    }
    return builder_.repeat(expr, least, most);
  }

  std::uint32_t parse_count() {
    std::uint32_t count = 0;
    const char* begin = text_.data() + at_;
    const auto [end, error] = std::from_chars(begin, text_.data() + text_.size(), count);
    if (error == std::errc::invalid_argument) fail("a number of repetitions");
    if (error != std::errc{} || count > kMaxRepetitions) {
      throw_error(ErrorCode::bad_request,
                  "grammar, line {}: expected at most {} repetitions, found {}", line(),
                  kMaxRepetitions, std::string_view(begin, end));
    }
    at_ += static_cast<std::size_t>(end - begin);
    return count;
  }

  Expr parse_literal() {
    ++at_;
    std::string bytes;
    while (!looking_at("\"")) append_utf8(bytes, parse_char("the end of the literal, \""));
    ++at_;
    return builder_.literal(bytes);
  }

  Expr parse_class() {
    ++at_;
    const bool negated = take("^");
    std::vector<CodePointSet::Range> ranges;
    while (!looking_at("]")) {
      const char32_t first = parse_char("the end of the class, ]");
      char32_t last = first;
      if (looking_at("-") && !looking_at("-]")) {
        ++at_;
        last = parse_char("the end of the range");
      }
      if (last < first) {
        throw_error(ErrorCode::bad_request,
                    "grammar, line {}: a range of characters must not end (U+{:04X}) below where "
                    "it begins (U+{:04X})",
                    line(), static_cast<unsigned>(last), static_cast<unsigned>(first));
      }
      ranges.push_back({first, last});
    }
    const CodePointSet listed(ranges);
    const CodePointSet set = negated ? listed.complement() : listed;
    if (set.empty()) fail("a character before the end of the class");
    ++at_;
    return builder_.character(set);
  }

  char32_t parse_char(std::string_view or_end) {
    if (at_ >= text_.size() || text_[at_] == '\n') fail(or_end);
    if (text_[at_] != '\\') {
      const Utf8Char c = decode_utf8(text_, at_);
      at_ += c.length;
      return c.code;
    }
    ++at_;
    const char escape = at_ < text_.size() ? text_[at_] : '\0';
    constexpr std::string_view kEscapes = "nrt\\\"[]", kMeanings = "\n\r\t\\\"[]";
    const std::size_t simple = kEscapes.find(escape);
    if (escape != '\0' && simple != std::string_view::npos) {
      ++at_;
      return static_cast<char32_t>(kMeanings[simple]);
    }
    const int digits = escape == 'x' ? 2 : escape == 'u' ? 4 : escape == 'U' ? 8 : 0;
    if (digits == 0) fail("n, r, t, \\, \", [, ], x, u or U after a backslash");
    ++at_;
    return parse_hex(digits);
  }

  char32_t parse_hex(int digits) {
    const std::size_t begin = at_;
    std::uint32_t code = 0;
    for (int i = 0; i < digits; ++i, ++at_) {
      const int value = at_ < text_.size() ? hex_value(text_[at_]) : -1;
      if (value < 0) fail(fmt::format("{} hexadecimal digits", digits));
      code = code << 4 | static_cast<std::uint32_t>(value);
    }
    if (code > 0x10FFFF || (code >= 0xD800 && code < 0xE000)) {
      throw_error(ErrorCode::bad_request,
                  "grammar, line {}: expected a Unicode character, found the escape of {}", line(),
                  text_.substr(begin, at_ - begin));
    }
    return static_cast<char32_t>(code);
  }

  GrammarBuilder& builder_;
  std::string_view text_;
  std::size_t at_ = 0;
  std::size_t counted_to_ = 0, counted_lines_ = 0;
  std::unordered_map<std::string, GrammarBuilder::Rule> rules_;
  std::map<std::string, std::size_t> first_use_;  // line
};

}  // namespace

GrammarBuilder::Expr add_gbnf(GrammarBuilder& builder, std::string_view text) {
  return GbnfParser(builder, text).parse();
}

std::shared_ptr<const Grammar> parse_gbnf(std::string_view text) {
  GrammarBuilder builder;
  const GrammarBuilder::Rule whole = builder.declare("the whole text");
  builder.define(whole, add_gbnf(builder, text));
  return builder.build(whole);
}

}  // namespace tenfold
