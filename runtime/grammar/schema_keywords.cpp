#include "runtime/grammar/schema_keywords.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace tenfold {
namespace {

enum class Form {
  annotation,
  schema,
  schemas,
  schema_map,
  text,
  texts,
  type,
  values,
  value,
  count,
  number
};

struct Keyword {
  std::string_view name;
  Form form;
  unsigned kinds = 0;
};

constexpr auto kKeywords = std::to_array<Keyword>({
    {"$schema", Form::annotation},
    {"$id", Form::annotation},
    {"$comment", Form::annotation},
    {"$defs", Form::annotation},
    {"definitions", Form::annotation},
    {"title", Form::annotation},
    {"description", Form::annotation},
    {"default", Form::annotation},
    {"example", Form::annotation},
    {"examples", Form::annotation},
    {"deprecated", Form::annotation},
    {"readOnly", Form::annotation},
    {"writeOnly", Form::annotation},
    {"$ref", Form::text},
    {"type", Form::type},
    {"enum", Form::values},
    {"const", Form::value},
    {"allOf", Form::schemas},
    {"anyOf", Form::schemas},
    {"oneOf", Form::schemas},
    {"properties", Form::schema_map, json_kind::kObject},
    {"required", Form::texts, json_kind::kObject},
    {"additionalProperties", Form::schema, json_kind::kObject},
    {"items", Form::schema, json_kind::kArray},
    {"prefixItems", Form::schemas, json_kind::kArray},
    {"minItems", Form::count, json_kind::kArray},
    {"maxItems", Form::count, json_kind::kArray},
    {"minLength", Form::count, json_kind::kString},
    {"maxLength", Form::count, json_kind::kString},
    {"pattern", Form::text, json_kind::kString},
    {"format", Form::text, json_kind::kString},
    {"minimum", Form::number, json_kind::kNumber},
    {"maximum", Form::number, json_kind::kNumber},
    {"exclusiveMinimum", Form::number, json_kind::kNumber},
    {"exclusiveMaximum", Form::number, json_kind::kNumber},
});

const Keyword* find_keyword(std::string_view name) {
  const auto found = std::ranges::find(kKeywords, name, &Keyword::name);
  return found == kKeywords.end() ? nullptr : &*found;
}

constexpr std::array<std::pair<std::string_view, unsigned>, 7> kTypes = {{
    {"null", json_kind::kNull},
    {"boolean", json_kind::kBoolean},
    {"integer", json_kind::kInteger},
    {"number", json_kind::kNumber},
    {"string", json_kind::kString},
    {"object", json_kind::kObject},
    {"array", json_kind::kArray},
}};

bool is_schema(const OrderedJson& value) { return value.is_object() || value.is_boolean(); }

unsigned kinds_named(const OrderedJson& name) {
  if (!name.is_string()) return 0;
  for (const auto& [type, kinds] : kTypes) {
    if (name.get_ref<const std::string&>() == type) return kinds;
  }
  return 0;
}

template <typename Test>
bool all_items(const OrderedJson& value, Test test) {
  return value.is_array() && std::all_of(value.begin(), value.end(), test);
}

bool is_text(const OrderedJson& value) { return value.is_string(); }

// "" where the value has the form, else what was expected.
std::string_view expected_form(Form form, const OrderedJson& value) {
  switch (form) {
    case Form::annotation:
    case Form::value:
      return "";
    case Form::schema:
      return is_schema(value) ? "" : "a schema (an object, true or false)";
    case Form::schemas:
      return all_items(value, is_schema) && !value.empty() ? "" : "an array of schemas";
    case Form::schema_map:
      return value.is_object() && std::all_of(value.begin(), value.end(), is_schema)
                 ? ""
                 : "an object of schemas";
    case Form::text:
      return value.is_string() ? "" : "a string";
    case Form::texts:
      return all_items(value, is_text) ? "" : "an array of strings";
    case Form::type: {
      const auto names_one = [](const OrderedJson& name) { return kinds_named(name) != 0; };
      return names_one(value) || (all_items(value, names_one) && !value.empty())
                 ? ""
                 : "null, boolean, integer, number, string, object, array, or an array of these";
    }
    case Form::values:
      return value.is_array() && !value.empty() ? "" : "an array of values";
    case Form::count: {
      const bool whole = kind_of(value) == json_kind::kInteger;
      const double number = value.is_number() ? value.get<double>() : -1;
      return whole && number >= 0 && number <= 0x1p53 ? "" : "a whole number, at least 0";
    }
    case Form::number:
      return value.is_number() ? "" : "a number";
  }
  return "";
}

OrderedJson type_of_kinds(unsigned kinds) {
  OrderedJson types = OrderedJson::array();
  for (const auto& [type, of_type] : kTypes) {
    const bool part_of_number =
        of_type == json_kind::kInteger && (kinds & json_kind::kFraction) != 0;
    if ((kinds & of_type) == of_type && !part_of_number) types.push_back(type);
  }
  return types;
}

OrderedJson common_values(const OrderedJson& a, const OrderedJson& b, const std::string& path) {
  OrderedJson both = OrderedJson::array();
  for (const OrderedJson& value : a) {
    if (std::find(b.begin(), b.end(), value) != b.end()) both.push_back(value);
  }
  if (both.empty()) refuse_schema(path, "no value is in each of its enum and const");
  return both;
}

OrderedJson both_schemas(const OrderedJson& a, const OrderedJson& b) {
  if (a == true || b == false) return b;
  if (b == true || a == false || a == b) return a;
  OrderedJson both;
  both["allOf"] = OrderedJson::array({a, b});
  return both;
}

OrderedJson member_or(const OrderedJson& object, const char* key, const OrderedJson& fallback) {
  const auto found = object.find(key);
  return found == object.end() ? fallback : *found;
}

// What `schema` says about the property.
OrderedJson property_schema(const OrderedJson& schema, const std::string& name) {
  const auto properties = schema.find("properties");
  if (properties != schema.end()) {
    const auto property = properties->find(name);
    if (property != properties->end()) return *property;
  }
  return member_or(schema, "additionalProperties", true);
}

void merge_objects(const OrderedJson& a, const OrderedJson& b, OrderedJson& result) {
  OrderedJson properties = OrderedJson::object();
  for (const OrderedJson* side : {&a, &b}) {
    const OrderedJson mine = member_or(*side, "properties", OrderedJson::object());
    for (const auto& [name, ignored] : mine.items()) {
      if (!properties.contains(name)) {
        properties[name] = both_schemas(property_schema(a, name), property_schema(b, name));
      }
    }
  }
  if (a.contains("properties") || b.contains("properties")) {
    result["properties"] = std::move(properties);
  }
  if (a.contains("additionalProperties") || b.contains("additionalProperties")) {
    result["additionalProperties"] = both_schemas(member_or(a, "additionalProperties", true),
                                                  member_or(b, "additionalProperties", true));
  }
}

void merge_items(const OrderedJson& a, const OrderedJson& b, const std::string& path,
                 OrderedJson& result) {
  const auto says_items = [](const OrderedJson& s) {
    return s.contains("items") || s.contains("prefixItems");
  };
  if (!says_items(b)) return;
  const auto same = [&](const char* key) {
    return member_or(a, key, nullptr) == member_or(b, key, nullptr);
  };
  if (!says_items(a)) {
    for (const char* key : {"items", "prefixItems"}) {
      if (b.contains(key)) result[key] = b[key];
    }
  } else if (!a.contains("prefixItems") && !b.contains("prefixItems")) {
    result["items"] = both_schemas(a["items"], b["items"]);
  } else if (!same("prefixItems") || !same("items")) {
    refuse_schema(path,
                  "prefixItems together with other items (of allOf, anyOf or $ref) is not "
                  "supported");
  }
}

void merge_keyword(const std::string& key, const OrderedJson& value, const std::string& path,
                   OrderedJson& result) {
  OrderedJson& mine = result[key];
  if (key == "type") {
    const unsigned kinds = declared_kinds(result) & declared_kinds({{"type", value}});
    if (kinds == 0) refuse_schema(path, "its types allow no value together");
    mine = type_of_kinds(kinds);
  } else if (key == "enum") {
    mine = common_values(mine, value, path);
  } else if (key == "required") {
    mine.insert(mine.end(), value.begin(), value.end());
  } else if (key == "minItems" || key == "minLength" || key == "minimum" ||
             key == "exclusiveMinimum") {
    mine = std::max(mine, value);
  } else if (key == "maxItems" || key == "maxLength" || key == "maximum" ||
             key == "exclusiveMaximum") {
    mine = std::min(mine, value);
  } else if (mine != value) {
    refuse_schema(
        path, "two different {} at once (of allOf, anyOf, oneOf or $ref) are not supported", key);
  }
}

}  // namespace

std::string child_path(std::string_view path, std::string_view name) {
  std::string result = fmt::format("{}/", path);
  for (const char c : name) {
    if (c == '~') {
      result += "~0";
    } else if (c == '/') {
      result += "~1";
    } else {
      result += c;
    }
  }
  return result;
}

unsigned kind_of(const OrderedJson& value) {
  if (value.is_null()) return json_kind::kNull;
  if (value.is_boolean()) return json_kind::kBoolean;
  if (value.is_string()) return json_kind::kString;
  if (value.is_object()) return json_kind::kObject;
  if (value.is_array()) return json_kind::kArray;
  if (value.is_number_integer()) return json_kind::kInteger;
  const double number = value.is_number() ? value.get<double>() : 0.5;
  return std::floor(number) == number ? json_kind::kInteger : json_kind::kFraction;
}

unsigned declared_kinds(const OrderedJson& schema) {
  const auto type = schema.find("type");
  if (type == schema.end()) return json_kind::kAny;
  if (type->is_string()) return kinds_named(*type);
  unsigned kinds = 0;
  for (const OrderedJson& name : *type) kinds |= kinds_named(name);
  return kinds;
}

unsigned kinds_of_keyword(std::string_view keyword) {
  const Keyword* known = find_keyword(keyword);
  return known == nullptr ? 0 : known->kinds;
}

OrderedJson checked_keywords(const OrderedJson& schema, const std::string& path) {
  if (!schema.is_object()) refuse_schema(path, "expected a schema (an object, true or false)");
  OrderedJson result = OrderedJson::object();
  for (const auto& [key, value] : schema.items()) {
    const Keyword* keyword = find_keyword(key);
    if (keyword == nullptr) refuse_schema(path, "the keyword {} is not supported", quote(key));
    const std::string_view expected = expected_form(keyword->form, value);
    if (!expected.empty()) refuse_schema(path, "{} must be {}", key, expected);
    if (keyword->form == Form::annotation) continue;
    const bool constant = key == "const";
    const char* name = constant ? "enum" : key.c_str();
    const OrderedJson values = constant ? OrderedJson::array({value}) : value;
    if (result.contains(name)) {  // both enum and const
      merge_keyword(name, values, path, result);
    } else {
      result[name] = values;
    }
  }
  return result;
}

OrderedJson merge_schemas(const OrderedJson& a, const OrderedJson& b, const std::string& path) {
  OrderedJson result = a;
  merge_objects(a, b, result);
  merge_items(a, b, path, result);
  for (const auto& [key, value] : b.items()) {
    if (key == "properties" || key == "additionalProperties" || key == "items" ||
        key == "prefixItems") {
      continue;
    }
    if (result.contains(key)) {
      merge_keyword(key, value, path, result);
    } else {
      result[key] = value;
    }
  }
  return result;
}

}  // namespace tenfold
