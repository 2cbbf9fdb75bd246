#include "runtime/grammar/json_schema.h"

#include "runtime/files/json_file.h"
#include "runtime/grammar/schema_compiler.h"

namespace tenfold {
namespace {

template <typename Add>
std::shared_ptr<const Grammar> whole_grammar(Add add) {
  GrammarBuilder builder;
  JsonRules rules(builder);
  const GrammarBuilder::Rule whole = builder.declare("the whole text");
  builder.define(whole, add(rules));
  return builder.build(whole);
}

}  // namespace

GrammarBuilder::Expr add_json_schema(JsonRules& rules, const nlohmann::ordered_json& schema) {
  return SchemaCompiler(rules, schema).compile();
}

std::shared_ptr<const Grammar> json_schema_grammar(const nlohmann::ordered_json& schema) {
  return whole_grammar([&](JsonRules& rules) { return add_json_schema(rules, schema); });
}

std::shared_ptr<const Grammar> json_object_grammar() {
  return whole_grammar([](JsonRules& rules) { return rules.object(); });
}

nlohmann::ordered_json parse_json_schema(std::string_view text, std::string_view name) {
  constexpr std::uint64_t kMaxValues = 1u << 16;
  parse_json(text, name, kMaxValues);
  return nlohmann::ordered_json::parse(text);
}

}  // namespace tenfold
