#include "runtime/grammar/regex.h"

#include <fmt/format.h>

#include <charconv>

#include "kernels/error.h"
#include "runtime/files/quote.h"
#include "runtime/grammar/grammar.h"
#include "runtime/utf8.h"

namespace tenfold {
namespace {

constexpr std::size_t kMaxPattern = 1u << 14;
constexpr int kMaxDepth = 50;

CodePointSet one(char32_t code) { return CodePointSet({{code, code}}); }

CodePointSet digits() { return CodePointSet({{'0', '9'}}); }
CodePointSet word_characters() {
  return CodePointSet({{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}});
}
CodePointSet spaces() {
  return CodePointSet({{'\t', '\r'},
                       {' ', ' '},
                       {0xA0, 0xA0},
                       {0x1680, 0x1680},
                       {0x2000, 0x200A},
                       {0x2028, 0x2029},
                       {0x202F, 0x202F},
                       {0x205F, 0x205F},
                       {0x3000, 0x3000},
                       {0xFEFF, 0xFEFF}});
}
CodePointSet line_ends() { return CodePointSet({{'\n', '\n'}, {'\r', '\r'}, {0x2028, 0x2029}}); }

// \d and its like; nullopt where the letter is none.
std::optional<CodePointSet> class_escape(char letter) {
  switch (letter) {
    case 'd':
      return digits();
    case 'D':
      return digits().complement();
    case 'w':
      return word_characters();
    case 'W':
      return word_characters().complement();
    case 's':
      return spaces();
    case 'S':
      return spaces().complement();
    default:
      return std::nullopt;
  }
}

RegexNode set_node(CodePointSet set) {
  RegexNode node;
  node.kind = RegexNode::Kind::set;
  node.set = std::move(set);
  return node;
}

class RegexParser {
 public:
  RegexParser(std::string_view text, std::string_view where) : text_(text), where_(where) {}

  std::vector<RegexBranch> parse() {
    if (text_.size() > kMaxPattern) {
      throw_error(ErrorCode::bad_request, "{}: the pattern has {} bytes, expected at most {}",
                  where_, text_.size(), kMaxPattern);
    }
    if (!is_valid_utf8(text_)) fail("it is not UTF-8");
    std::vector<RegexBranch> branches;
    do {
      RegexBranch branch;
      branch.from_start = take("^");
      branch.body = parse_sequence(0);
      branch.to_end = take("$");
      branches.push_back(std::move(branch));
    } while (take("|"));
    if (at_ < text_.size()) {
      fail(text_[at_] == ')' ? "a ) closes no group"
                             : "$ is supported at the end of the whole or of an alternative");
    }
    return branches;
  }

 private:
  [[noreturn]] void fail(std::string_view problem) const {
    throw_error(ErrorCode::bad_request, "{}: the pattern {} is not supported (at byte {}): {}",
                where_, quote(text_), at_, problem);
  }

  bool looking_at(std::string_view token) const { return text_.substr(at_).starts_with(token); }
  bool take(std::string_view token) {
    if (!looking_at(token)) return false;
    at_ += token.size();
    return true;
  }

  RegexNode parse_alternatives(int depth) {
    RegexNode node;
    node.kind = RegexNode::Kind::choice;
    do {
      node.children.push_back(parse_sequence(depth));
    } while (take("|"));
    return node;
  }

  RegexNode parse_sequence(int depth) {
    RegexNode node;
    while (at_ < text_.size() && !looking_at("|") && !looking_at(")") && !looking_at("$")) {
      node.children.push_back(parse_repetition(parse_atom(depth)));
    }
    if (depth > 0 && looking_at("$")) fail("$ within a group");
    return node;
  }

  RegexNode parse_atom(int depth) {
    switch (text_[at_]) {
      case '^':
        fail("^ is supported at the beginning of the whole or of an alternative");
      case '*':
      case '+':
      case '?':
      case '{':
        fail("there is nothing to repeat");
      case '.':
        ++at_;
        return set_node(line_ends().complement());
      case '[':
        return set_node(parse_class());
      case '(':
        return parse_group(depth);
      case '\\':
        if (at_ + 1 < text_.size()) {
          if (const auto set = class_escape(text_[at_ + 1])) {
            at_ += 2;
            return set_node(*set);
          }
        }
        return set_node(one(parse_escape()));
      default:
        return set_node(one(parse_plain()));
    }
  }

  char32_t parse_plain() {
    const Utf8Char c = decode_utf8(text_, at_);
    at_ += c.length;
    return c.code;
  }

  RegexNode parse_group(int depth) {
    if (depth >= kMaxDepth) fail("groups are nested too deeply");
    ++at_;
    if (looking_at("?=") || looking_at("?!") || looking_at("?<=") || looking_at("?<!")) {
      fail("lookahead and lookbehind");
    }
    if (looking_at("?") && !take("?:")) {
      const std::size_t end = looking_at("?<") ? text_.find('>', at_) : std::string_view::npos;
      if (end == std::string_view::npos) fail("a group that begins with (?");
      at_ = end + 1;  // a named group; nothing can refer to it
    }
    RegexNode inside = parse_alternatives(depth + 1);
    if (!take(")")) fail("expected ) at the end of the group");
    return inside;
  }

  RegexNode parse_repetition(RegexNode atom) {
    RegexNode node;
    if (take("*")) {
      node.least = 0;
      node.most = std::nullopt;
    } else if (take("+")) {
      node.most = std::nullopt;
    } else if (take("?")) {
      node.least = 0;
    } else if (take("{")) {
      parse_counts(node);
    } else {
      return atom;
    }
    take("?");  // lazy
    if (looking_at("*") || looking_at("+") || looking_at("?") || looking_at("{")) {
      fail("a repetition of a repetition");
    }
    node.kind = RegexNode::Kind::repeat;
    node.children.push_back(std::move(atom));
    return node;
  }

  void parse_counts(RegexNode& node) {
    node.least = parse_count();
    node.most = node.least;
    if (take(",")) node.most = looking_at("}") ? std::nullopt : std::optional(parse_count());
    if (!take("}")) fail("expected } at the end of a number of repetitions");
    if (node.most && *node.most < node.least) fail("a repetition ends below where it begins");
  }

  std::uint32_t parse_count() {
    std::uint32_t count = 0;
    const char* begin = text_.data() + at_;
    const auto [end, error] = std::from_chars(begin, text_.data() + text_.size(), count);
    if (error == std::errc::invalid_argument) fail("expected a number of repetitions");
    if (error != std::errc{} || count > kMaxRepetitions) {
      fail(fmt::format("more than {} repetitions", kMaxRepetitions));
    }
    at_ += static_cast<std::size_t>(end - begin);
    return count;
  }

  CodePointSet parse_class() {
    ++at_;
    const bool negated = take("^");
    std::vector<CodePointSet::Range> ranges;
    while (!take("]")) {
      if (at_ >= text_.size()) fail("expected ] at the end of the class");
      parse_class_item(ranges);
    }
    const CodePointSet listed(ranges);
    CodePointSet set = negated ? listed.complement() : listed;
    if (set.empty()) fail("a class without characters");
    return set;
  }

  void parse_class_item(std::vector<CodePointSet::Range>& ranges) {
    if (looking_at("\\") && at_ + 1 < text_.size()) {
      if (const auto set = class_escape(text_[at_ + 1])) {
        at_ += 2;
        ranges.insert(ranges.end(), set->ranges().begin(), set->ranges().end());
        if (looking_at("-") && !looking_at("-]")) fail("a range that begins with a class");
        return;
      }
    }
    const char32_t first = parse_class_character();
    if (!looking_at("-") || looking_at("-]")) return ranges.push_back({first, first});
    ++at_;
    if (looking_at("\\") && at_ + 1 < text_.size() && class_escape(text_[at_ + 1])) {
      fail("a range that ends with a class");
    }
    const char32_t last = parse_class_character();
    if (last < first) fail("a range ends below where it begins");
    ranges.push_back({first, last});
  }

  char32_t parse_class_character() {
    if (at_ >= text_.size()) fail("expected ] at the end of the class");
    if (looking_at("\\b")) {  // in a class a backspace
      at_ += 2;
      return 8;
    }
    return looking_at("\\") ? parse_escape() : parse_plain();
  }

  // A backslash and what stands for one character.
  char32_t parse_escape() {
    ++at_;
    if (at_ >= text_.size()) fail("a backslash at the end");
    const char c = text_[at_];
    constexpr std::string_view kLetters = "nrtfv", kMeanings = "\n\r\t\f\v";
    const std::size_t simple = kLetters.find(c);
    if (simple != std::string_view::npos) {
      ++at_;
      return static_cast<char32_t>(kMeanings[simple]);
    }
    if (c == 'x' || c == 'u') return parse_hex_escape(c == 'x' ? 2 : 4);
    if (c == '0' && !(at_ + 1 < text_.size() && text_[at_ + 1] >= '0' && text_[at_ + 1] <= '9')) {
      ++at_;
      return 0;
    }
    const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
    if (letter || c == '_') fail(fmt::format("the escape \\{}", c));
    return parse_plain();
  }

  char32_t parse_hex_escape(std::size_t n_digits) {
    ++at_;
    if (n_digits == 4 && take("{")) {
      const std::size_t end = text_.find('}', at_);
      if (end == std::string_view::npos || end == at_ || end - at_ > 6) fail("expected \\u{HEX}");
      const char32_t code = scalar(parse_hex(end - at_));
      ++at_;
      return code;
    }
    const char32_t code = parse_hex(n_digits);
    const bool pair = code >= 0xD800 && code < 0xDC00 && take("\\u");
    if (!pair) return scalar(code);
    const char32_t low = parse_hex(4);
    if (low < 0xDC00 || low > 0xDFFF) fail("half of a surrogate pair");
    return 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
  }

  char32_t parse_hex(std::size_t n_digits) {
    std::uint32_t code = 0;
    const std::string_view digits_text = text_.substr(at_, n_digits);
    const char* end = digits_text.data() + digits_text.size();
    const auto [stop, error] = std::from_chars(digits_text.data(), end, code, 16);
    if (digits_text.size() != n_digits || error != std::errc{} || stop != end) {
      fail(fmt::format("expected {} hexadecimal digits", n_digits));
    }
    at_ += n_digits;
    return code;
  }

  char32_t scalar(char32_t code) const {
    if (code > 0x10FFFF) fail("a character beyond U+10FFFF");
    if (code >= 0xD800 && code < 0xE000) fail("half of a surrogate pair");
    return code;
  }

  std::string_view text_, where_;
  std::size_t at_ = 0;
};

}  // namespace

std::vector<RegexBranch> parse_regex(std::string_view pattern, std::string_view where) {
  return RegexParser(pattern, where).parse();
}

}  // namespace tenfold
