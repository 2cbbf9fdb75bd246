#include "runtime/grammar/schema_resolver.h"

#include <algorithm>

namespace tenfold {
namespace {

constexpr std::size_t kMaxLevels = 64;
constexpr std::size_t kMaxValues = 1u << 16;
constexpr std::size_t kMaxWork = 1u << 20;
constexpr int kMaxProofDepth = 6;
constexpr int kMaxNesting = 40;  // of references and alternatives that are followed at once

// Counts a level of the resolver's recursion for as long as it lives.
class Level {
 public:
  Level(int& depth, const std::string& path) : depth_(depth) {
    if (depth >= kMaxNesting) {
      refuse_schema(path,
                    "references, allOf and anyOf that must be merged are nested more than {} deep",
                    kMaxNesting);
    }
    ++depth_;
  }
  Level(const Level&) = delete;
  Level& operator=(const Level&) = delete;
  ~Level() { --depth_; }

 private:
  int& depth_;
};

std::size_t count_values(const OrderedJson& value) {
  std::size_t n = 1;
  if (value.is_structured()) {
    for (const OrderedJson& item : value) n += count_values(item);
  }
  return n;
}

// Level by level, because a deep one could not be copied or walked by recursion.
void check_size(const OrderedJson& root) {
  std::vector<const OrderedJson*> level = {&root}, next;
  std::size_t n_values = 0;
  for (std::size_t depth = 1; !level.empty(); ++depth) {
    if (depth > kMaxLevels) refuse_schema("#", "it is nested deeper than {} levels", kMaxLevels);
    n_values += level.size();
    if (n_values > kMaxValues) refuse_schema("#", "it has more than {} values", kMaxValues);
    next.clear();
    for (const OrderedJson* value : level) {
      if (!value->is_structured()) continue;
      for (const OrderedJson& item : *value) next.push_back(&item);
    }
    level.swap(next);
  }
}

std::string unescape(std::string_view token) {
  std::string name;
  for (std::size_t i = 0; i < token.size(); ++i) {
    if (token[i] == '~' && i + 1 < token.size() && (token[i + 1] == '0' || token[i + 1] == '1')) {
      name += token[++i] == '0' ? '~' : '/';
    } else {
      name += token[i];
    }
  }
  return name;
}

const OrderedJson* member(const OrderedJson& value, const std::string& name) {
  if (value.is_object()) {
    const auto found = value.find(name);
    return found == value.end() ? nullptr : &*found;
  }
  const bool index = value.is_array() && !name.empty() && name.size() <= 6 &&
                     name.find_first_not_of("0123456789") == std::string::npos;
  if (!index) return nullptr;
  const std::size_t at = std::stoul(name);
  return at < value.size() ? &value[at] : nullptr;
}

// What the schema says of the property; true where nothing.
OrderedJson property_of(const OrderedJson& schema, const std::string& name) {
  const auto properties = schema.find("properties");
  if (properties != schema.end() && properties->contains(name)) return (*properties)[name];
  const auto additional = schema.find("additionalProperties");
  return additional == schema.end() ? OrderedJson(true) : *additional;
}

unsigned possible_kinds(const OrderedJson& schema) {
  unsigned kinds = declared_kinds(schema);
  const auto values = schema.find("enum");
  if (values == schema.end()) return kinds;
  unsigned of_values = 0;
  for (const OrderedJson& value : *values) of_values |= kind_of(value);
  return kinds & of_values;
}

bool different_constants(const OrderedJson& a, const OrderedJson& b) {
  const auto mine = a.find("enum");
  const auto theirs = b.find("enum");
  if (mine == a.end() || theirs == b.end()) return false;
  return std::none_of(mine->begin(), mine->end(), [&](const OrderedJson& value) {
    return std::find(theirs->begin(), theirs->end(), value) != theirs->end();
  });
}

}  // namespace

SchemaResolver::SchemaResolver(const OrderedJson& root) : root_(&root) { check_size(root); }

void SchemaResolver::charge(const OrderedJson& schema, const std::string& path) {
  work_ += count_values(schema);
  if (work_ > kMaxWork)
    refuse_schema(path, "it is too large, or its references and allOf multiply it beyond limits");
}

const OrderedJson& SchemaResolver::target(const std::string& ref, const std::string& path) const {
  if (!ref.starts_with('#') || (ref.size() > 1 && ref[1] != '/') ||
      ref.find('%') != std::string::npos) {
    refuse_schema(path, "$ref must be # or #/ and a path within the schema, found {}", quote(ref));
  }
  const OrderedJson* found = root_;
  for (std::size_t at = 1; at < ref.size() && found != nullptr;) {
    const std::size_t end = std::min(ref.find('/', at + 1), ref.size());
    found = member(*found, unescape(std::string_view(ref).substr(at + 1, end - at - 1)));
    at = end;
  }
  if (found == nullptr)
    refuse_schema(path, "$ref names {}, which is not in the schema", quote(ref));
  return *found;
}

std::string SchemaResolver::lone_reference(const OrderedJson& checked) {
  if (checked.size() != 1) return "";
  const auto ref = checked.find("$ref");
  return ref == checked.end() ? "" : ref->get<std::string>();
}

OrderedJson SchemaResolver::flatten(const OrderedJson& schema, const std::string& path) {
  const Level level(depth_, path);
  charge(schema, path);
  if (schema == true) return OrderedJson::object();
  if (schema == false) refuse_schema(path, "false allows no value");
  OrderedJson rest = checked_keywords(schema, path);
  std::vector<std::pair<OrderedJson, std::string>> others;
  if (const auto ref = rest.find("$ref"); ref != rest.end()) {
    const auto name = ref->get<std::string>();
    others.emplace_back(target(name, path), name);
  }
  if (const auto all = rest.find("allOf"); all != rest.end()) {
    for (std::size_t i = 0; i < all->size(); ++i) {
      others.emplace_back((*all)[i], fmt::format("{}/allOf/{}", path, i));
    }
  }
  rest.erase("$ref");
  rest.erase("allOf");
  for (const auto& [other, name] : others) rest = flatten_both(rest, flatten(other, name), path);
  return rest;
}

OrderedJson SchemaResolver::flatten_both(const OrderedJson& flat, const OrderedJson& other,
                                         const std::string& path) {
  charge(flat, path);
  charge(other, path);
  return merge_schemas(flat, other, path);
}

std::vector<OrderedJson> SchemaResolver::alternatives(const OrderedJson& flat,
                                                      const std::string& path) {
  const bool any = flat.contains("anyOf"), one = flat.contains("oneOf");
  if (any && one) refuse_schema(path, "anyOf and oneOf together are not supported");
  if (!any && !one) return {flat};
  const char* key = any ? "anyOf" : "oneOf";
  OrderedJson base = flat;
  base.erase(key);
  std::vector<OrderedJson> result;
  for (std::size_t i = 0; i < flat[key].size(); ++i) {
    const std::string alternative_path = fmt::format("{}/{}/{}", path, key, i);
    result.push_back(flatten_both(base, flatten(flat[key][i], alternative_path), alternative_path));
  }
  return result;
}

bool SchemaResolver::disjoint(const OrderedJson& a, const OrderedJson& b, const std::string& path) {
  if (depth_ >= kMaxProofDepth) return false;  // as of a type that holds itself
  const Level level(depth_, path);
  for (const auto& [split, other] : {std::pair(&a, &b), std::pair(&b, &a)}) {
    if (!split->contains("anyOf") && !split->contains("oneOf")) continue;
    const std::vector<OrderedJson> parts = alternatives(*split, path);
    return std::all_of(parts.begin(), parts.end(), [&, &rest = other](const OrderedJson& part) {
      return disjoint(part, *rest, path);
    });
  }
  const unsigned common = possible_kinds(a) & possible_kinds(b);
  if (common == 0 || different_constants(a, b)) return true;
  return common == json_kind::kObject && disjoint_objects(a, b, path);
}

bool SchemaResolver::disjoint_objects(const OrderedJson& a, const OrderedJson& b,
                                      const std::string& path) {
  for (const auto& [requiring, other] : {std::pair(&a, &b), std::pair(&b, &a)}) {
    const auto required = requiring->find("required");
    if (required == requiring->end()) continue;
    for (const OrderedJson& entry : *required) {
      const auto& name = entry.get_ref<const std::string&>();
      const OrderedJson mine = property_of(*requiring, name), theirs = property_of(*other, name);
      // A value of both schemas has the property, which must then be as each of them says.
      if (mine == false || theirs == false) return true;
      const std::string property_path = child_path(child_path(path, "properties"), name);
      if (disjoint(flatten(mine, property_path), flatten(theirs, property_path), property_path)) {
        return true;
      }
    }
  }
  return false;
}

}  // namespace tenfold
