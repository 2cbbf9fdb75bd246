#include "runtime/jinja/json.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "runtime/utf8.h"

namespace tenfold::jinja {
namespace {

std::string_view valid_text(Heap& heap, std::string_view text) {
  return is_valid_utf8(text) ? text : heap.text(sanitize_utf8(text));
}

Value from_unsigned(std::uint64_t number) {
  if (number <= static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()))
    return static_cast<std::int64_t>(number);
  return static_cast<double>(number);
}

}  // namespace

template <typename Json>
Value from_json(Heap& heap, const Json& json) {
  const Heap::Depth depth(heap);
  switch (json.type()) {
    case Json::value_t::boolean:
      return json.template get<bool>();
    case Json::value_t::number_integer:
      return json.template get<std::int64_t>();
    case Json::value_t::number_unsigned:
      return from_unsigned(json.template get<std::uint64_t>());
    case Json::value_t::number_float:
      return json.template get<double>();
    case Json::value_t::string:
      return valid_text(heap, json.template get_ref<const std::string&>());
    case Json::value_t::array: {
      List items;
      for (const Json& element : json) heap.push(items, from_json(heap, element));
      return heap.list(std::move(items));
    }
    case Json::value_t::object: {
      Dict dict;
      for (const auto& [key, value] : json.items()) {
        heap.charge(2 * sizeof(Value));
        dict.entries.emplace_back(valid_text(heap, key), from_json(heap, value));
      }
      return heap.dict(std::move(dict));
    }
    default:
      return None{};
  }
}

template Value from_json(Heap&, const nlohmann::json&);
template Value from_json(Heap&, const nlohmann::ordered_json&);

namespace {

void append_unit(Text& out, std::uint32_t unit) { out.append(fmt::format("\\u{:04x}", unit)); }

void append_json_string(Text& out, std::string_view text, bool ascii_only) {
  out.append(1, '"');
  for (std::size_t at = 0; at < text.size();) {
    const Utf8Char c = decode_utf8(text, at);
    const auto code = static_cast<std::uint32_t>(c.code);
    switch (code) {
      case '"':
        out.append("\\\"");
        break;
      case '\\':
        out.append("\\\\");
        break;
      case '\n':
        out.append("\\n");
        break;
      case '\r':
        out.append("\\r");
        break;
      case '\t':
        out.append("\\t");
        break;
      case '\b':
        out.append("\\b");
        break;
      case '\f':
        out.append("\\f");
        break;
      default:
        if (code >= 0x20 && (code < 0x80 || !ascii_only)) {
          out.append(text.substr(at, c.length));
        } else if (code >= 0x10000) {
          append_unit(out, 0xD800 + ((code - 0x10000) >> 10));
          append_unit(out, 0xDC00 + (code & 0x3FF));
        } else {
          append_unit(out, code);
        }
    }
    at += c.length;
  }
  out.append(1, '"');
}

void append_scalar(Text& out, const Value& value, const JsonStyle& style) {
  if (const auto* text = value.as<std::string_view>()) {
    append_json_string(out, *text, style.ascii_only);
  } else if (value.is<None>()) {
    out.append("null");
  } else if (const auto* b = value.as<bool>()) {
    out.append(*b ? "true" : "false");
  } else if (const auto* d = value.as<double>()) {
    out.append(std::isnan(*d)   ? "NaN"
               : std::isinf(*d) ? (*d < 0 ? "-Infinity" : "Infinity")
                                : float_repr(*d));
  } else if (value.is<std::int64_t>()) {
    append_str(out, value);
  } else if (const auto* u = value.as<Undefined>()) {
    throw Failure(undefined_message(*u) + " and cannot become JSON");
  } else {
    fail("a '{}' cannot become JSON", type_name(value));
  }
}

void append_key(Text& out, const Value& key, const JsonStyle& style) {
  if (key.is_string()) return append_scalar(out, key, style);
  if (key.sequence()) fail("a '{}' cannot be a JSON key", type_name(key));
  out.append(1, '"');
  append_scalar(out, key, style);
  out.append(1, '"');
}

void break_line(Text& out, const JsonStyle& style, std::size_t level) {
  if (!style.multiline) return;
  out.append("\n");
  for (std::size_t i = 0; i < level; ++i) out.append(style.indent);
}

void append_object(Text& out, const Dict& dict, const JsonStyle& style, std::size_t level) {
  auto entries = dict.entries;
  if (style.sort_keys) {
    std::stable_sort(entries.begin(), entries.end(), [&out](const auto& a, const auto& b) {
      return less(out.heap(), a.first, b.first);
    });
  }
  out.append("{");
  for (std::size_t i = 0; i < entries.size(); ++i) {
    if (i > 0) out.append(style.item_separator);
    break_line(out, style, level + 1);
    append_key(out, entries[i].first, style);
    out.append(style.key_separator);
    append_json(out, entries[i].second, style, level + 1);
  }
  if (!entries.empty()) break_line(out, style, level);
  out.append("}");
}

void append_array(Text& out, const List& items, const JsonStyle& style, std::size_t level) {
  out.append("[");
  for (std::size_t i = 0; i < items.size(); ++i) {
    if (i > 0) out.append(style.item_separator);
    break_line(out, style, level + 1);
    append_json(out, items[i], style, level + 1);
  }
  if (!items.empty()) break_line(out, style, level);
  out.append("]");
}

}  // namespace

void append_json(Text& out, const Value& value, const JsonStyle& style, std::size_t level) {
  const Heap::Depth depth(out.heap());
  out.heap().spend(1);
  if (const List* items = value.sequence()) {
    append_array(out, *items, style, level);
  } else if (const Dict* dict = value.dict()) {
    append_object(out, *dict, style, level);
  } else {
    append_scalar(out, value, style);
  }
}

}  // namespace tenfold::jinja
