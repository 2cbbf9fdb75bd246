#pragma once
// A JSON schema made plain: references followed, allOf merged, alternatives compared. The schema
// outlives the resolver.

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "runtime/grammar/schema_keywords.h"

namespace tenfold {

class SchemaResolver {
 public:
  // Throws bad_request where the schema has more than 64 levels or 2^16 values.
  explicit SchemaResolver(const OrderedJson& root);
  const OrderedJson& root() const noexcept { return *root_; }

  // What a $ref (# or #/a/json/pointer) refers to. Throws bad_request where that is nothing.
  const OrderedJson& target(const std::string& ref, const std::string& path) const;

  // The reference where the checked schema is nothing but one (also as the only one of an allOf),
  // else "".
  static std::string lone_reference(const OrderedJson& checked);

  // The same values as a checked object without $ref and allOf. `false` is refused.
  OrderedJson flatten(const OrderedJson& schema, const std::string& path);
  // Both at once.
  OrderedJson flatten_both(const OrderedJson& flat, const OrderedJson& other,
                           const std::string& path);
  // The alternatives of anyOf or oneOf as flat schemas with what stands beside it; the schema
  // itself where it has neither. Both together are refused.
  std::vector<OrderedJson> alternatives(const OrderedJson& flat, const std::string& path);

  // Whether it is proven that no value fits both flat schemas: by their types, their constants, or
  // a property that one requires and that is different in the other or excluded by it.
  bool disjoint(const OrderedJson& a, const OrderedJson& b, const std::string& path);

 private:
  // Counts what is copied, against schemas that multiply themselves.
  void charge(const OrderedJson& schema, const std::string& path);
  bool disjoint_objects(const OrderedJson& a, const OrderedJson& b, const std::string& path);

  const OrderedJson* root_;
  std::size_t work_ = 0;
  int depth_ = 0;
};

}  // namespace tenfold
