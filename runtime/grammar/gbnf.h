#pragma once
// GBNF, the grammar notation of llama.cpp:
//
//   # a comment
//   root  ::= item ("," " "? item){0,7}
//   item  ::= "\"" [^"\\\x00-\x1F]* "\"" | [0-9]+ | .
//
// Rules are named with letters, digits, - and _. A line end ends a rule, but not inside
// parentheses, after ::= and after |. Escapes: \n \r \t \\ \" \[ \] \xHH \uHHHH \UHHHHHHHH, each
// one character (code point). Repetition: * + ? {n} {n,} {n,m}.

#include <memory>
#include <string_view>

#include "runtime/grammar/grammar.h"

namespace tenfold {

inline constexpr std::size_t kMaxGrammarText = 1u << 20;

// The grammar whose text is that of the rule `root`. Throws bad_request naming the line, what was
// expected and what was found; and as GrammarBuilder::build(). O(length).
std::shared_ptr<const Grammar> parse_gbnf(std::string_view text);

// The same as an expression within a larger grammar.
GrammarBuilder::Expr add_gbnf(GrammarBuilder& builder, std::string_view text);

}  // namespace tenfold
