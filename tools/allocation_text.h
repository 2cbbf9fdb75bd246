#pragma once
// What a bit budget gave to each matrix, as a table for a terminal.

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "quantizer/plan.h"

namespace tenfold {

// A line for each layer, a column for each matrix: "2", or "2 +20%3" where a fifth of the columns
// has 3. rules: of single layers; others are left out.
std::string allocation_table(const std::vector<Rule>& rules);

// "expected to raise the loss by 0.12 nats a token; it does by 0.14"; empty where the summary of a
// file (quantizer/allocate) says nothing.
std::string allocation_sentence(const nlohmann::json& summary);

}  // namespace tenfold
