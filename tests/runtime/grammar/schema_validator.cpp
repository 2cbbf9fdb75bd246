#include "tests/runtime/grammar/schema_validator.h"

#include <cmath>
#include <nlohmann/json.hpp>
#include <regex>
#include <set>
#include <stdexcept>
#include <string>

#include "runtime/utf8.h"

namespace tenfold::testing {
namespace {

using Json = nlohmann::ordered_json;

std::wstring wide(const std::string& text) {
  std::wstring result;
  for (std::size_t at = 0; at < text.size();) {
    const Utf8Char c = decode_utf8(text, at);
    result += static_cast<wchar_t>(c.code);
    at += c.length;
  }
  return result;
}

bool is_whole(const Json& value) {
  return value.is_number() && std::floor(value.get<double>()) == value.get<double>();
}

bool has_type(const Json& value, const std::string& type) {
  if (type == "integer") return value.is_number_integer() || is_whole(value);
  if (type == "number") return value.is_number();
  if (type == "null") return value.is_null();
  if (type == "boolean") return value.is_boolean();
  if (type == "string") return value.is_string();
  if (type == "object") return value.is_object();
  if (type == "array") return value.is_array();
  throw std::runtime_error("type " + type);
}

bool is_date(const std::string& text) {
  if (!std::regex_match(text, std::regex("\\d{4}-\\d\\d-\\d\\d"))) return false;
  const int year = std::stoi(text), month = std::stoi(text.substr(5)),
            day = std::stoi(text.substr(8));
  if (year < 1 || month < 1 || month > 12 || day < 1) return false;
  const bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
  const int days[] = {31, leap ? 29 : 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
  return day <= days[month - 1];
}

bool is_time(const std::string& text) {
  std::smatch m;
  const std::regex form("(\\d\\d):(\\d\\d):(\\d\\d)(\\.\\d+)?(Z|[+-](\\d\\d):(\\d\\d))");
  if (!std::regex_match(text, m, form)) return false;
  const auto below = [&](std::size_t group, int limit) {
    return m[group].length() == 0 || std::stoi(m[group].str()) < limit;
  };
  return below(1, 24) && below(2, 60) && below(3, 60) && below(6, 24) && below(7, 60);
}

bool is_address(const std::string& text) {
  std::smatch m;
  if (!std::regex_match(text, m, std::regex("(\\d+)\\.(\\d+)\\.(\\d+)\\.(\\d+)"))) return false;
  for (std::size_t i = 1; i <= 4; ++i) {
    if (m[i].length() > 3 || std::to_string(std::stoi(m[i].str())) != m[i] ||
        std::stoi(m[i].str()) > 255) {
      return false;
    }
  }
  return true;
}

bool is_email(const std::string& text) {
  const std::size_t at = text.find('@');
  const std::regex local("[\\w+-]+(\\.[\\w+-]+)*");
  const std::regex domain("([A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?\\.)+[A-Za-z]+");
  return at != std::string::npos && at <= 64 && text.size() <= 254 &&
         std::regex_match(text.substr(0, at), local) &&
         std::regex_match(text.substr(at + 1), domain);
}

bool has_format(const std::string& text, const std::string& format) {
  if (format == "date") return is_date(text);
  if (format == "time") return is_time(text);
  if (format == "ipv4") return is_address(text);
  if (format == "email") return is_email(text);
  if (format == "date-time") {
    return text.size() > 11 && text[10] == 'T' && is_date(text.substr(0, 10)) &&
           is_time(text.substr(11));
  }
  if (format == "uuid") {
    const std::regex form(
        "[\\da-fA-F]{8}-[\\da-fA-F]{4}-[\\da-fA-F]{4}-[\\da-fA-F]{4}-[\\da-fA-F]{12}");
    return std::regex_match(text, form);
  }
  throw std::runtime_error("format " + format);
}

std::size_t n_valid(const Json& value, const Json& schemas, const Json& root) {
  std::size_t n = 0;
  for (const Json& schema : schemas) n += is_valid(value, schema, root) ? 1 : 0;
  return n;
}

bool is_listed(const std::string& name, const Json& schema) {
  return schema.contains("properties") && schema["properties"].contains(name);
}

bool object_holds(const std::string& key, const Json& rule, const Json& value, const Json& schema,
                  const Json& root) {
  if (!value.is_object()) return true;
  for (const auto& [name, member] : value.items()) {
    if (key == "properties" && is_listed(name, schema) && !is_valid(member, rule[name], root)) {
      return false;
    }
    if (key == "additionalProperties" && !is_listed(name, schema) &&
        !is_valid(member, rule, root)) {
      return false;
    }
  }
  if (key != "required") return true;
  return std::all_of(rule.begin(), rule.end(),
                     [&](const Json& name) { return value.contains(name.get<std::string>()); });
}

bool array_holds(const std::string& key, const Json& rule, const Json& value, const Json& schema,
                 const Json& root) {
  if (!value.is_array()) return true;
  if (key == "minItems") return value.size() >= rule.get<std::size_t>();
  if (key == "maxItems") return value.size() <= rule.get<std::size_t>();
  const std::size_t n_prefix = schema.contains("prefixItems") ? schema["prefixItems"].size() : 0;
  for (std::size_t i = 0; i < value.size(); ++i) {
    if (key == "prefixItems" && i < n_prefix && !is_valid(value[i], rule[i], root)) return false;
    if (key == "items" && i >= n_prefix && !is_valid(value[i], rule, root)) return false;
  }
  return true;
}

bool string_holds(const std::string& key, const Json& rule, const Json& value) {
  if (!value.is_string()) return true;
  const auto text = value.get<std::string>();
  if (key == "minLength") return wide(text).size() >= rule.get<std::size_t>();
  if (key == "maxLength") return wide(text).size() <= rule.get<std::size_t>();
  if (key == "format") return has_format(text, rule.get<std::string>());
  return std::regex_search(wide(text), std::wregex(wide(rule.get<std::string>())));
}

bool number_holds(const std::string& key, const Json& rule, const Json& value) {
  if (!value.is_number()) return true;
  if (key == "minimum") return value >= rule;
  if (key == "maximum") return value <= rule;
  return key == "exclusiveMinimum" ? value > rule : value < rule;
}

bool holds(const std::string& key, const Json& rule, const Json& value, const Json& schema,
           const Json& root) {
  static const std::set<std::string> kObject = {"properties", "additionalProperties", "required"};
  static const std::set<std::string> kArray = {"minItems", "maxItems", "prefixItems", "items"};
  static const std::set<std::string> kString = {"minLength", "maxLength", "format", "pattern"};
  static const std::set<std::string> kNumber = {"minimum", "maximum", "exclusiveMinimum",
                                                "exclusiveMaximum"};
  static const std::set<std::string> kNotes = {"title", "description", "$defs",   "definitions",
                                               "$id",   "$schema",     "default", "examples"};
  if (kObject.contains(key)) return object_holds(key, rule, value, schema, root);
  if (kArray.contains(key)) return array_holds(key, rule, value, schema, root);
  if (kString.contains(key)) return string_holds(key, rule, value);
  if (kNumber.contains(key)) return number_holds(key, rule, value);
  if (kNotes.contains(key)) return true;
  if (key == "const") return value == rule;
  if (key == "enum") return std::find(rule.begin(), rule.end(), value) != rule.end();
  if (key == "anyOf") return n_valid(value, rule, root) > 0;
  if (key == "oneOf") return n_valid(value, rule, root) == 1;
  if (key == "allOf") return n_valid(value, rule, root) == rule.size();
  if (key == "$ref") {
    const Json::json_pointer pointer(rule.get<std::string>().substr(1));
    return is_valid(value, root.at(pointer), root);
  }
  if (key != "type") throw std::runtime_error("keyword " + key);
  if (rule.is_string()) return has_type(value, rule.get<std::string>());
  return std::any_of(rule.begin(), rule.end(),
                     [&](const Json& type) { return has_type(value, type.get<std::string>()); });
}

}  // namespace

bool is_valid(const Json& value, const Json& schema, const Json& root) {
  if (schema.is_boolean()) return schema.get<bool>();
  for (const auto& [key, rule] : schema.items()) {
    if (!holds(key, rule, value, schema, root)) return false;
  }
  return true;
}

}  // namespace tenfold::testing
