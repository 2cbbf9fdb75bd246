#pragma once
// The texts of JSON values as expressions of a grammar.
//
// Blanks: at most one space after a comma and after a colon, nothing else, so that no model can go
// on with white space for ever. Two spellings of strings: *free* ones take every valid escape but
// surrogates (\uD800 to \uDFFF; a character beyond U+FFFF is written as itself). *Canonical* ones
// spell each text in one way, as nlohmann::json does: characters as themselves, \" \\ \b \f \n \r
// \t, other control characters as \u00xx. Where the text matters, strings are canonical.

#include <map>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/grammar/grammar.h"

namespace tenfold {

inline constexpr int kMaxFreeDepth = 16;  // of objects and arrays that no schema describes

class JsonRules {
 public:
  using Expr = GrammarBuilder::Expr;

  // The builder outlives this object. What is asked for twice is built once.
  explicit JsonRules(GrammarBuilder& builder);
  GrammarBuilder& builder() const noexcept { return *builder_; }

  Expr comma() const { return comma_; }
  Expr colon() const { return colon_; }
  // Numbers of up to 18 digits before and 17 after the point, and exponents of up to 2.
  Expr number() const { return number_; }
  Expr integer() const { return integer_; }
  Expr boolean() const { return boolean_; }
  Expr null() const { return null_; }
  Expr string() const { return string_; }                      // free
  Expr string_character() const { return string_character_; }  // one of a free string
  Expr value(int depth = kMaxFreeDepth);                       // depth 0: {} and [] at most
  Expr object(int depth = kMaxFreeDepth);
  Expr array(int depth = kMaxFreeDepth);

  // One character of a canonical string; an empty set is refused.
  Expr canonical_character(const CodePointSet& set);
  // A canonical string that is none of `names`; a free one where there are none.
  Expr key_other_than(const std::vector<std::string>& names);
  // Exactly this value (strings canonical, members in order).
  Expr constant(const nlohmann::ordered_json& value);

 private:
  Expr control_escapes(const std::vector<char32_t>& controls);
  Expr other_rest(std::span<const std::u32string> names, std::size_t at);

  GrammarBuilder* builder_;
  Expr comma_, colon_, number_, integer_, boolean_, null_, string_character_, string_;
  std::vector<Expr> values_;  // by depth
  std::map<CodePointSet, Expr> canonical_;
};

// The canonical spelling, with quotes. Throws bad_request where the text is not UTF-8.
std::string quoted_json(std::string_view text);

}  // namespace tenfold
