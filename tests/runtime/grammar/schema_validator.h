#pragma once
// JSON Schema by its definition, for values that are there: an oracle for the grammars. Written
// from the specification, knows the keywords that the grammars know.

#include <nlohmann/json_fwd.hpp>

namespace tenfold::testing {

// Throws std::runtime_error for a keyword it does not know.
bool is_valid(const nlohmann::ordered_json& value, const nlohmann::ordered_json& schema,
              const nlohmann::ordered_json& root);

}  // namespace tenfold::testing
