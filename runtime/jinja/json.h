#pragma once
// JSON in and out of the template language.

#include <nlohmann/json.hpp>
#include <string_view>

#include "runtime/jinja/value.h"

namespace tenfold::jinja {

// Strings are views into `json` unless they need repair (invalid UTF-8). Json: nlohmann::json or
// ordered_json.
template <typename Json>
Value from_json(Heap& heap, const Json& json);

// json.dumps()
struct JsonStyle {
  std::string_view indent;  // for one level
  bool multiline = false;
  std::string_view item_separator = ", ", key_separator = ": ";
  bool ascii_only = false, sort_keys = false;
};
void append_json(Text& out, const Value& value, const JsonStyle& style, std::size_t level = 0);

}  // namespace tenfold::jinja
