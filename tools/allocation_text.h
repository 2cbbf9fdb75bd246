#pragma once
// What a bit budget gave to each matrix, as a table for a terminal.

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "quantizer/plan.h"

namespace tenfold {

// A line for each layer, a column for each matrix: "2", or "2 +20%3" where a fifth of the columns
// has 3. rules: of single layers; others are left out.
std::string allocation_table(const std::vector<Rule>& rules);

// What the layers were expected to add to the loss and what they add; empty where the summary of a
// file (quantizer/allocate) does not say.
std::string allocation_sentence(const nlohmann::json& summary);

}  // namespace tenfold
