#include "runtime/grammar/json_rules.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "kernels/error.h"
#include "runtime/utf8.h"

namespace tenfold {
namespace {

using Expr = GrammarBuilder::Expr;

constexpr std::size_t kMaxKeyCharacters = 1000;  // of a key that additional keys must differ from

CodePointSet chars(const std::vector<CodePointSet::Range>& ranges) { return CodePointSet(ranges); }

CodePointSet digits(char32_t first) { return chars({{first, '9'}}); }

CodePointSet hex_digits() { return chars({{'0', '9'}, {'a', 'f'}, {'A', 'F'}}); }

// What a JSON string cannot hold as it is.
CodePointSet needs_escape() { return chars({{0, 0x1F}, {'"', '"'}, {'\\', '\\'}}); }

Expr whole_number(GrammarBuilder& b) {
  return b.sequence({b.character(digits('1')), b.repeat(b.character(digits('0')), 0, 17)});
}

Expr make_number(GrammarBuilder& b) {
  const Expr fraction = b.sequence({b.literal("."), b.repeat(b.character(digits('0')), 1, 17)});
  const Expr exponent = b.sequence({b.character(chars({{'e', 'e'}, {'E', 'E'}})),
                                    b.optional(b.character(chars({{'+', '+'}, {'-', '-'}}))),
                                    b.repeat(b.character(digits('0')), 1, 2)});
  return b.named("a JSON number", b.sequence({b.optional(b.literal("-")),
                                              b.choice({b.literal("0"), whole_number(b)}),
                                              b.optional(fraction), b.optional(exponent)}));
}

Expr make_integer(GrammarBuilder& b) {
  return b.named(
      "a JSON integer",
      b.choice({b.literal("0"), b.sequence({b.optional(b.literal("-")), whole_number(b)})}));
}

Expr make_string_character(GrammarBuilder& b) {
  const Expr hex = b.character(hex_digits());
  const CodePointSet d = chars({{'d', 'd'}, {'D', 'D'}});
  const Expr four = b.choice(
      {b.sequence({b.character(hex_digits().minus(d)), b.repeat(hex, 3, 3)}),
       b.sequence({b.character(d), b.character(chars({{'0', '7'}})), b.repeat(hex, 2, 2)})});
  const CodePointSet simple = chars({{'"', '"'},
                                     {'\\', '\\'},
                                     {'/', '/'},
                                     {'b', 'b'},
                                     {'f', 'f'},
                                     {'n', 'n'},
                                     {'r', 'r'},
                                     {'t', 't'}});
  const Expr escape = b.sequence(
      {b.literal("\\"), b.choice({b.character(simple), b.sequence({b.literal("u"), four})})});
  return b.named("a character of a JSON string",
                 b.choice({b.character(needs_escape().complement()), escape}));
}

}  // namespace

JsonRules::JsonRules(GrammarBuilder& b)
    : builder_(&b),
      comma_(b.sequence({b.literal(","), b.optional(b.literal(" "))})),
      colon_(b.sequence({b.literal(":"), b.optional(b.literal(" "))})),
      number_(make_number(b)),
      integer_(make_integer(b)),
      boolean_(b.choice({b.literal("true"), b.literal("false")})),
      null_(b.literal("null")),
      string_character_(make_string_character(b)),
      string_(b.named("a JSON string",
                      b.sequence({b.literal("\""), b.repeat(string_character_, 0, std::nullopt),
                                  b.literal("\"")}))) {}

Expr JsonRules::value(int depth) {
  for (auto d = static_cast<int>(values_.size()); d <= depth; ++d) {
    values_.push_back(builder_->named(
        "a JSON value",
        builder_->choice({string_, number_, boolean_, null_, object(d), array(d)})));
  }
  return values_[static_cast<std::size_t>(depth)];
}

Expr JsonRules::object(int depth) {
  GrammarBuilder& b = *builder_;
  if (depth == 0) return b.literal("{}");
  const Expr member = b.named("a JSON member", b.sequence({string_, colon_, value(depth - 1)}));
  const Expr members =
      b.sequence({member, b.repeat(b.sequence({comma_, member}), 0, std::nullopt)});
  return b.sequence({b.literal("{"), b.optional(members), b.literal("}")});
}

Expr JsonRules::array(int depth) {
  GrammarBuilder& b = *builder_;
  if (depth == 0) return b.literal("[]");
  const Expr item = value(depth - 1);
  const Expr items = b.sequence({item, b.repeat(b.sequence({comma_, item}), 0, std::nullopt)});
  return b.sequence({b.literal("["), b.optional(items), b.literal("]")});
}

Expr JsonRules::control_escapes(const std::vector<char32_t>& controls) {
  std::vector<CodePointSet::Range> low[2];
  for (const char32_t code : controls) {
    const char32_t digit = code % 16;
    const char32_t hex = digit < 10 ? U'0' + digit : U'a' + (digit - 10);
    low[code / 16].push_back({hex, hex});
  }
  std::vector<Expr> alternatives;
  for (std::size_t high = 0; high < 2; ++high) {
    if (low[high].empty()) continue;
    alternatives.push_back(builder_->sequence({builder_->literal(high == 0 ? "\\u000" : "\\u001"),
                                               builder_->character(CodePointSet(low[high]))}));
  }
  return builder_->choice(alternatives);
}

Expr JsonRules::canonical_character(const CodePointSet& set) {
  const auto known = canonical_.find(set);
  if (known != canonical_.end()) return known->second;
  GrammarBuilder& b = *builder_;
  std::vector<Expr> alternatives;
  const CodePointSet plain = set.minus(needs_escape());
  if (!plain.empty()) alternatives.push_back(b.character(plain));
  std::vector<char32_t> controls;
  for (char32_t code = 0; code < 0x80; ++code) {
    if (!set.contains(code) || !needs_escape().contains(code)) continue;
    constexpr std::string_view kShort = "\"\\\b\f\n\r\t", kLetters = "\"\\bfnrt";
    const std::size_t at = kShort.find(static_cast<char>(code));
    if (at == std::string_view::npos) {
      controls.push_back(code);
    } else {
      alternatives.push_back(b.literal(std::string("\\") + kLetters[at]));
    }
  }
  if (!controls.empty()) alternatives.push_back(control_escapes(controls));
  if (alternatives.empty()) return b.character(set);  // throws
  const Expr expr = b.named("a character", b.choice(alternatives));
  canonical_.emplace(set, expr);
  return expr;
}

// What may follow the first `at` characters of `names`, which share them, so that the whole is none
// of the names. Sorted, without doubles.
Expr JsonRules::other_rest(std::span<const std::u32string> names, std::size_t at) {
  GrammarBuilder& b = *builder_;
  std::vector<Expr> alternatives;
  std::vector<CodePointSet::Range> continued;
  std::size_t i = 0;
  if (names[0].size() == at) {
    ++i;  // the shortest comes first
  } else {
    alternatives.push_back(b.sequence({}));
  }
  while (i < names.size()) {
    const char32_t code = names[i][at];
    std::size_t end = i;
    while (end < names.size() && names[end][at] == code) ++end;
    continued.push_back({code, code});
    alternatives.push_back(b.sequence({canonical_character(chars({{code, code}})),
                                       other_rest(names.subspan(i, end - i), at + 1)}));
    i = end;
  }
  const CodePointSet others = CodePointSet(continued).complement();
  alternatives.push_back(
      b.sequence({canonical_character(others),
                  b.repeat(canonical_character(CodePointSet::all()), 0, std::nullopt)}));
  return b.named("the rest of an additional key", b.choice(alternatives));
}

Expr JsonRules::key_other_than(const std::vector<std::string>& names) {
  if (names.empty()) return string_;
  std::vector<std::u32string> texts;
  for (const std::string& name : names) {
    std::u32string& text = texts.emplace_back();
    for (std::size_t at = 0; at < name.size();) {
      const Utf8Char c = decode_utf8(name, at);
      text.push_back(c.code);
      at += c.length;
    }
    if (text.size() > kMaxKeyCharacters) {
      throw_error(ErrorCode::bad_request,
                  "beside additional properties a property's name may have {} characters, found {}",
                  kMaxKeyCharacters, text.size());
    }
  }
  std::sort(texts.begin(), texts.end());
  texts.erase(std::unique(texts.begin(), texts.end()), texts.end());
  return builder_->sequence(
      {builder_->literal("\""), other_rest(texts, 0), builder_->literal("\"")});
}

Expr JsonRules::constant(const nlohmann::ordered_json& value) {
  GrammarBuilder& b = *builder_;
  if (value.is_string()) return b.literal(quoted_json(value.get_ref<const std::string&>()));
  if (!value.is_structured()) return b.literal(value.dump());
  const bool is_object = value.is_object();
  std::vector<Expr> parts = {b.literal(is_object ? "{" : "[")};
  for (auto item = value.begin(); item != value.end(); ++item) {
    if (item != value.begin()) parts.push_back(comma_);
    if (is_object) {
      parts.push_back(b.literal(quoted_json(item.key())));
      parts.push_back(colon_);
    }
    parts.push_back(constant(*item));
  }
  parts.push_back(b.literal(is_object ? "}" : "]"));
  return b.sequence(parts);
}

std::string quoted_json(std::string_view text) {
  if (!is_valid_utf8(text)) {
    throw_error(ErrorCode::bad_request, "a text in a JSON schema is not UTF-8");
  }
  return nlohmann::json(text).dump();
}

}  // namespace tenfold
