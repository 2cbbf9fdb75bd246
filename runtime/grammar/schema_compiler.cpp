#include "runtime/grammar/schema_compiler.h"

#include <algorithm>
#include <limits>

#include "runtime/grammar/integer_bounds.h"
#include "runtime/grammar/integer_range.h"
#include "runtime/grammar/string_rules.h"

namespace tenfold {
namespace {

constexpr int kMaxDepth = 64;
constexpr std::size_t kMaxCompiled = 1u << 14;

std::optional<std::uint64_t> count_of(const OrderedJson& flat, const char* keyword) {
  const auto found = flat.find(keyword);
  if (found == flat.end()) return std::nullopt;
  return static_cast<std::uint64_t>(found->get<double>());  // checked: whole, at most 2^53
}

std::optional<std::string> text_of(const OrderedJson& flat, const char* keyword) {
  const auto found = flat.find(keyword);
  if (found == flat.end()) return std::nullopt;
  return found->get<std::string>();
}

// Without a type, the kinds that the keywords are about; any where they are about none.
unsigned kinds_meant(const OrderedJson& flat) {
  if (flat.contains("type")) return declared_kinds(flat);
  unsigned kinds = 0;
  for (const auto& [key, value] : flat.items()) kinds |= kinds_of_keyword(key);
  return kinds == 0 ? json_kind::kAny : kinds;
}

}  // namespace

SchemaCompiler::SchemaCompiler(JsonRules& rules, const OrderedJson& schema)
    : rules_(rules), builder_(rules.builder()), resolver_(schema) {}

GrammarBuilder::Expr SchemaCompiler::compile() {
  const Expr whole = compile(resolver_.root(), "#");
  while (!open_references_.empty()) {
    const std::string ref = std::move(open_references_.back());
    open_references_.pop_back();
    builder_.define(references_.at(ref), compile(resolver_.target(ref, ref), ref));
  }
  return whole;
}

GrammarBuilder::Expr SchemaCompiler::reference(const std::string& ref, const std::string& path) {
  resolver_.target(ref, path);  // throws where there is none
  const auto known = references_.find(ref);
  if (known != references_.end()) return builder_.call(known->second);
  const GrammarBuilder::Rule rule = builder_.declare(ref);
  references_.emplace(ref, rule);
  open_references_.push_back(ref);
  return builder_.call(rule);
}

GrammarBuilder::Expr SchemaCompiler::compile(const OrderedJson& schema, const std::string& path) {
  if (depth_ >= kMaxDepth) {
    refuse_schema(path, "schemas with references that need merging are nested deeper than {}",
                  kMaxDepth);
  }
  if (++n_compiled_ > kMaxCompiled) {
    refuse_schema(path, "it has more than {} schemas when its references are followed",
                  kMaxCompiled);
  }
  if (schema == true) return rules_.value();
  if (schema == false) refuse_schema(path, "false allows no value");
  ++depth_;
  const OrderedJson checked = checked_keywords(schema, path);
  const std::string ref = SchemaResolver::lone_reference(checked);
  const bool one_of_all = checked.size() == 1 && checked.contains("allOf") &&
                          checked["allOf"].size() == 1;  // as some generators wrap a $ref
  const Expr expr = !ref.empty() ? reference(ref, path)
                    : one_of_all ? compile(checked["allOf"][0], path + "/allOf/0")
                                 : alternatives(resolver_.flatten(schema, path), path);
  --depth_;
  return expr;
}

GrammarBuilder::Expr SchemaCompiler::alternatives(const OrderedJson& flat,
                                                  const std::string& path) {
  const bool any = flat.contains("anyOf"), one = flat.contains("oneOf");
  if (!any && !one) return flat_schema(flat, path);
  const std::string key = any ? "anyOf" : "oneOf";
  const bool bare = flat.size() == 1;
  // Merging would unroll references to schemas that hold themselves.
  const std::vector<OrderedJson> merged =
      bare && any ? std::vector<OrderedJson>() : resolver_.alternatives(flat, path);
  for (std::size_t i = 0; one && i < merged.size(); ++i) {
    for (std::size_t j = i + 1; j < merged.size(); ++j) {
      if (resolver_.disjoint(merged[i], merged[j], path)) continue;
      refuse_schema(path,
                    "oneOf is supported where no value can fit two of its alternatives; {} and {} "
                    "are not provably apart (different types, or a required property with "
                    "different constants); use anyOf if either may fit",
                    i, j);
    }
  }
  std::vector<Expr> choices;
  for (std::size_t i = 0; i < flat[key].size(); ++i) {
    const std::string alternative_path = fmt::format("{}/{}/{}", path, key, i);
    choices.push_back(compile(bare ? flat[key][i] : merged[i], alternative_path));
  }
  return builder_.choice(choices);
}

GrammarBuilder::Expr SchemaCompiler::flat_schema(const OrderedJson& flat, const std::string& path) {
  if (flat.contains("enum")) return constants(flat, path);
  const unsigned kinds = kinds_meant(flat);
  if (kinds == json_kind::kAny && !flat.contains("type")) return rules_.value();
  std::vector<Expr> choices;
  for (unsigned kind = 1; kind <= json_kind::kArray; kind <<= 1) {
    if ((kinds & kind) == 0) continue;
    // A number without bounds takes integers too.
    if (kind == json_kind::kInteger && (kinds & json_kind::kFraction) != 0) continue;
    choices.push_back(of_kind(kind, flat, path));
  }
  return builder_.choice(choices);
}

GrammarBuilder::Expr SchemaCompiler::constants(const OrderedJson& flat, const std::string& path) {
  const unsigned kinds = declared_kinds(flat);
  std::vector<Expr> choices;
  for (const OrderedJson& value : flat["enum"]) {
    const unsigned kind = kind_of(value);
    if ((kind & kinds) == 0) continue;
    for (const auto& [key, ignored] : flat.items()) {
      if ((kinds_of_keyword(key) & kind) == 0) continue;
      refuse_schema(path, "enum or const together with {} is not supported", key);
    }
    choices.push_back(rules_.constant(value));
  }
  if (choices.empty()) refuse_schema(path, "no value of its enum or const has its type");
  return builder_.choice(choices);
}

GrammarBuilder::Expr SchemaCompiler::of_kind(unsigned kind, const OrderedJson& flat,
                                             const std::string& path) {
  switch (kind) {
    case json_kind::kNull:
      return rules_.null();
    case json_kind::kBoolean:
      return rules_.boolean();
    case json_kind::kInteger:
      return integer(flat, path);
    case json_kind::kString:
      return string(flat, path);
    case json_kind::kObject:
      return object(flat, path);
    case json_kind::kArray:
      return array(flat, path);
    default:
      break;
  }
  for (const auto& [key, value] : flat.items()) {
    if ((kinds_of_keyword(key) & json_kind::kNumber) == 0) continue;
    refuse_schema(path, "{} is supported for the type integer only, not for numbers", key);
  }
  return rules_.number();
}

GrammarBuilder::Expr SchemaCompiler::integer(const OrderedJson& flat, const std::string& path) {
  const std::optional<IntegerBounds> bounds = integer_bounds(flat, path);
  return bounds ? integer_range(builder_, bounds->low, bounds->high) : rules_.integer();
}

GrammarBuilder::Expr SchemaCompiler::string(const OrderedJson& flat, const std::string& path) {
  const StringLimits limits{count_of(flat, "minLength").value_or(0), count_of(flat, "maxLength"),
                            text_of(flat, "pattern"), text_of(flat, "format")};
  return string_within(rules_, limits, fmt::format("JSON schema, {}", quote(path)));
}

GrammarBuilder::Expr SchemaCompiler::array(const OrderedJson& flat, const std::string& path) {
  const std::uint64_t least = count_of(flat, "minItems").value_or(0);
  std::uint64_t most =
      count_of(flat, "maxItems").value_or(std::numeric_limits<std::uint64_t>::max());
  const OrderedJson prefix =
      flat.contains("prefixItems") ? flat["prefixItems"] : OrderedJson::array();
  const OrderedJson rest = flat.contains("items") ? flat["items"] : OrderedJson(true);
  std::uint64_t n_prefix = prefix.size();
  for (std::uint64_t i = 0; i < n_prefix; ++i) {
    if (prefix[i] == false) n_prefix = most = std::min(most, i);
  }
  if (rest == false) most = std::min(most, n_prefix);
  // After listed items others come only where they must.
  if (!prefix.empty() && !flat.contains("items")) most = std::min(most, std::max(n_prefix, least));
  n_prefix = std::min(n_prefix, most);
  if (least > most)
    refuse_schema(path, "minItems {} is more than the {} items allowed", least, most);
  if (least > kMaxRepetitions) {
    refuse_schema(path, "minItems must be at most {}, found {}", kMaxRepetitions, least);
  }

  Expr tail = builder_.sequence({});
  if (most > n_prefix) {
    const Expr item = builder_.named("an item", compile(rest, path + "/items"));
    const Expr next = builder_.sequence({rules_.comma(), item});
    const bool bounded = flat.contains("maxItems") || (!prefix.empty() && !flat.contains("items"));
    const std::uint64_t first = n_prefix == 0 ? 1 : 0;
    const auto at_least =
        static_cast<std::uint32_t>(least > n_prefix + first ? least - n_prefix - first : 0);
    std::optional<std::uint32_t> at_most;
    if (bounded) {
      at_most = static_cast<std::uint32_t>(
          std::min<std::uint64_t>(most - n_prefix - first, kMaxRepetitions));
    }
    tail = builder_.repeat(next, at_least, at_most);
    if (first == 1) {
      tail = builder_.sequence({item, tail});
      if (least == 0) tail = builder_.optional(tail);
    }
  }
  for (std::uint64_t i = n_prefix; i-- > 0;) {
    const Expr item = compile(prefix[i], fmt::format("{}/prefixItems/{}", path, i));
    tail = builder_.sequence({i == 0 ? builder_.sequence({}) : rules_.comma(), item, tail});
    if (i >= least) tail = builder_.optional(tail);
  }
  return builder_.sequence({builder_.literal("["), tail, builder_.literal("]")});
}

std::vector<SchemaCompiler::Member> SchemaCompiler::members(const OrderedJson& flat,
                                                            const std::string& path) {
  std::vector<Member> list;
  std::unordered_map<std::string, std::size_t> index;
  if (const auto properties = flat.find("properties"); properties != flat.end()) {
    for (const auto& [name, schema] : properties->items()) {
      index.emplace(name, list.size());
      list.push_back({name, schema, false, child_path(path + "/properties", name)});
    }
  }
  if (const auto required = flat.find("required"); required != flat.end()) {
    const auto additional = flat.find("additionalProperties");
    for (const OrderedJson& entry : *required) {
      const auto name = entry.get<std::string>();
      if (index.emplace(name, list.size()).second) {
        list.push_back({name, additional == flat.end() ? OrderedJson(true) : *additional, false,
                        path + "/additionalProperties"});
      }
      Member& m = list[index.at(name)];
      m.required = true;
      if (m.schema == false) {
        refuse_schema(path, "the property {} is required but not allowed", quote(name));
      }
    }
  }
  return list;
}

GrammarBuilder::Expr SchemaCompiler::member(const Member& m) {
  return builder_.named(m.path, builder_.sequence({builder_.literal(quoted_json(m.name)),
                                                   rules_.colon(), compile(m.schema, m.path)}));
}

GrammarBuilder::Expr SchemaCompiler::object(const OrderedJson& flat, const std::string& path) {
  std::vector<Member> list = members(flat, path);
  const auto additional = flat.find("additionalProperties");
  const bool open = additional == flat.end() ? !flat.contains("properties") : *additional != false;
  std::vector<Expr> extra;
  if (open) {
    std::vector<std::string> names;
    names.reserve(list.size());
    for (const Member& m : list) names.push_back(m.name);
    const OrderedJson value = additional == flat.end() ? OrderedJson(true) : *additional;
    extra.push_back(
        builder_.named(path + "/additionalProperties",
                       builder_.sequence({rules_.key_other_than(names), rules_.colon(),
                                          compile(value, path + "/additionalProperties")})));
  }
  std::erase_if(list, [](const Member& m) { return m.schema == false; });
  return builder_.sequence(
      {builder_.literal("{"), members_in_order(list, extra), builder_.literal("}")});
}

// Each member but the first has a comma before it, and any that is not required may be the one that
// is left out. So there is a rule for what follows each member, and a choice of the first one.
GrammarBuilder::Expr SchemaCompiler::members_in_order(const std::vector<Member>& list,
                                                      const std::vector<Expr>& extra) {
  Expr rest = builder_.sequence({});
  std::vector<Expr> starts;  // from back to front
  if (!extra.empty()) {
    rest = builder_.repeat(builder_.sequence({rules_.comma(), extra[0]}), 0, std::nullopt);
    starts.push_back(builder_.sequence({extra[0], rest}));
  }
  starts.insert(starts.begin(), builder_.sequence({}));
  for (std::size_t i = list.size(); i-- > 0;) {
    const Member& m = list[i];
    const Expr text = member(m);
    if (m.required) starts.clear();
    starts.push_back(builder_.sequence({text, rest}));
    const Expr with_comma = builder_.sequence({rules_.comma(), text});
    rest = builder_.named(
        m.path, builder_.sequence({m.required ? with_comma : builder_.optional(with_comma), rest}));
  }
  std::reverse(starts.begin(), starts.end());
  return builder_.choice(starts);
}

}  // namespace tenfold
