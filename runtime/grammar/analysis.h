#pragma once
// What the builder finds out about a network of nodes before anyone runs it.

#include "runtime/grammar/grammar.h"

namespace tenfold {

// Fills in `nullable` and `rank` of each rule, O(nodes). Throws bad_request, naming a rule, where
// one begins with itself or can never end.
void analyse(Grammar& grammar);

}  // namespace tenfold
