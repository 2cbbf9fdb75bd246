#pragma once
// Compiles one JSON schema into expressions. A $ref becomes a call of a rule, so that schemas may
// hold themselves.

#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "runtime/grammar/json_rules.h"
#include "runtime/grammar/schema_resolver.h"

namespace tenfold {

class SchemaCompiler {
 public:
  using Expr = GrammarBuilder::Expr;

  // Both outlive the compiler.
  SchemaCompiler(JsonRules& rules, const OrderedJson& schema);
  Expr compile();  // once

 private:
  // `path` is where the schema stands, for messages.
  Expr compile(const OrderedJson& schema, const std::string& path);
  Expr reference(const std::string& ref, const std::string& path);
  Expr alternatives(const OrderedJson& flat, const std::string& path);
  Expr flat_schema(const OrderedJson& flat, const std::string& path);
  Expr constants(const OrderedJson& flat, const std::string& path);
  Expr of_kind(unsigned kind, const OrderedJson& flat, const std::string& path);
  Expr integer(const OrderedJson& flat, const std::string& path);
  Expr string(const OrderedJson& flat, const std::string& path);
  Expr array(const OrderedJson& flat, const std::string& path);
  Expr object(const OrderedJson& flat, const std::string& path);

  struct Member {
    std::string name;
    OrderedJson schema;
    bool required;
    std::string path;
  };
  std::vector<Member> members(const OrderedJson& flat, const std::string& path);
  Expr member(const Member& m);
  Expr members_in_order(const std::vector<Member>& list, const std::vector<Expr>& extra);

  JsonRules& rules_;
  GrammarBuilder& builder_;
  SchemaResolver resolver_;
  int depth_ = 0;
  std::size_t n_compiled_ = 0;
  std::unordered_map<std::string, GrammarBuilder::Rule> references_;
  std::vector<std::string> open_references_;  // declared, not yet defined
};

}  // namespace tenfold
