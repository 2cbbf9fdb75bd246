#pragma once
// The keywords of JSON Schema: which are known, what their values must look like, and how two
// schemas become one. Every function throws bad_request beginning: JSON schema, "#/path":

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "kernels/error.h"
#include "runtime/files/quote.h"

namespace tenfold {

using OrderedJson = nlohmann::ordered_json;

// path: a JSON pointer as a fragment, "#/properties/a".
template <typename... Args>
[[noreturn]] void refuse_schema(std::string_view path, fmt::format_string<Args...> format,
                                Args&&... args) {
  throw_error(ErrorCode::bad_request, "JSON schema, {}: {}", quote(path),
              fmt::format(format, std::forward<Args>(args)...));
}

// The path of a member or item.
std::string child_path(std::string_view path, std::string_view name);

// Kinds of JSON values as bits; a number is `integer` where it has no fraction, else `fraction`.
namespace json_kind {
inline constexpr unsigned kNull = 1, kBoolean = 2, kInteger = 4, kFraction = 8, kString = 16,
                          kObject = 32, kArray = 64, kNumber = kInteger | kFraction, kAny = 127;
}
unsigned kind_of(const OrderedJson& value);
// The kinds that "type" allows; any where there is none.
unsigned declared_kinds(const OrderedJson& schema);
// The kinds that a keyword constrains; 0 for those that constrain all.
unsigned kinds_of_keyword(std::string_view keyword);

// `schema` must be an object; each keyword must be a known one with a value of its form. Returns
// it without those that say nothing about values (title, $defs, ...). `const` becomes an `enum`.
OrderedJson checked_keywords(const OrderedJson& schema, const std::string& path);

// A schema for the values that both allow; checked ones without $ref and allOf. What would take
// both at once is refused: two patterns, formats, anyOf, oneOf or prefixItems that differ.
OrderedJson merge_schemas(const OrderedJson& a, const OrderedJson& b, const std::string& path);

}  // namespace tenfold
