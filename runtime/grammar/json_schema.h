#pragma once
// JSON Schema as a grammar: every text of the grammar is JSON that the schema allows. The grammar
// may allow less than the schema (docs/structured_output.md says where), never more: a keyword that
// cannot be honoured is refused by its name and place, not skipped.

#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string_view>

#include "runtime/grammar/grammar.h"
#include "runtime/grammar/json_rules.h"

namespace tenfold {

// The texts of values that `schema` (an object, true or false) allows, as an expression within a
// larger grammar: a caller puts literals around it or makes it one of several. Throws bad_request,
// a sentence that begins: JSON schema, "#/path":
GrammarBuilder::Expr add_json_schema(JsonRules& rules, const nlohmann::ordered_json& schema);

std::shared_ptr<const Grammar> json_schema_grammar(const nlohmann::ordered_json& schema);

// Any JSON object, nested up to kMaxFreeDepth deep.
std::shared_ptr<const Grammar> json_object_grammar();

// Reads a schema with the checks of parse_json(): UTF-8, no key twice, at most 64 levels. `name`:
// what messages call the text. Throws bad_file.
nlohmann::ordered_json parse_json_schema(std::string_view text, std::string_view name);

}  // namespace tenfold
