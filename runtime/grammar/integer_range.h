#pragma once
// The decimal integers of a range as an expression.

#include <cstdint>

#include "runtime/grammar/grammar.h"

namespace tenfold {

// Each integer from `low` to `high` in its one JSON spelling (no leading zeros, no -0, no
// exponent). Throws bad_request where low > high. O(digits^2) elements.
GrammarBuilder::Expr integer_range(GrammarBuilder& builder, std::int64_t low, std::int64_t high);

}  // namespace tenfold
