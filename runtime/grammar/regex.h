#pragma once
// The regular expressions of JSON Schema's `pattern` (ECMA-262 with the u flag), those that are
// regular: literals, ., classes, \d \D \w \W \s \S, escapes, groups, alternatives, repetitions
// (greedy or lazy, the same set of texts), ^ at the beginning and $ at the end of the whole or of
// one of its alternatives. Lookaround, back references, \b, \B, \p and flags are refused.

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "runtime/grammar/code_points.h"

namespace tenfold {

struct RegexNode {
  enum class Kind { set, sequence, choice, repeat };
  Kind kind = Kind::sequence;
  CodePointSet set;                 // one character
  std::vector<RegexNode> children;  // of a repeat: one
  std::uint32_t least = 1;
  std::optional<std::uint32_t> most = 1;  // nullopt: any number
};

struct RegexBranch {
  bool from_start = false, to_end = false;
  RegexNode body;
};

// A text matches where one of the branches does. Throws bad_request, saying what was expected or
// is not supported; `where` begins the message.
std::vector<RegexBranch> parse_regex(std::string_view pattern, std::string_view where);

}  // namespace tenfold
