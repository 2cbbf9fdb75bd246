// Attributes, subscripts and slices of jinja_ops.h.

#include <algorithm>
#include <limits>
#include <optional>

#include "runtime/jinja/builtins.h"
#include "runtime/jinja/ops.h"
#include "runtime/jinja/text.h"

namespace tenfold::jinja {
namespace {

std::string_view owner_name(const Value& object) {
  return object.is<None>() ? "None" : type_name(object);
}

std::optional<Value> bound_method(Heap& heap, const Value& object, std::string_view name) {
  const Native native = find_method(object, name);
  if (!native) return std::nullopt;
  return Value(heap.function({name, native, object, nullptr, nullptr}));
}

std::optional<Value> loop_attribute(const Loop& loop, std::string_view name) {
  const auto count = static_cast<std::int64_t>(loop.items->size());
  const auto index = static_cast<std::int64_t>(loop.index);
  if (name == "index") return index + 1;
  if (name == "index0") return index;
  if (name == "revindex") return count - index;
  if (name == "revindex0") return count - index - 1;
  if (name == "first") return index == 0;
  if (name == "last") return index + 1 == count;
  if (name == "length") return count;
  if (name == "depth") return std::int64_t{1};
  if (name == "depth0") return std::int64_t{0};
  if (name == "previtem" && index > 0) return (*loop.items)[loop.index - 1];
  if (name == "nextitem" && index + 1 < count) return (*loop.items)[loop.index + 1];
  return std::nullopt;
}

// Python's position in a sequence of `size`; nullopt when outside.
std::optional<std::size_t> position(std::int64_t index, std::size_t size) {
  const auto count = static_cast<std::int64_t>(size);
  if (index < -count || index >= count) return std::nullopt;
  return static_cast<std::size_t>(index < 0 ? index + count : index);
}

std::optional<Value> element(const Value& object, std::int64_t index) {
  if (const List* items = object.sequence()) {
    const auto at = position(index, items->size());
    if (at) return (*items)[*at];
  } else if (const auto* text = object.as<std::string_view>()) {
    const auto at = position(index, length(*text));
    if (!at) return std::nullopt;
    const std::size_t begin = offset_of(*text, *at);
    return text->substr(begin, offset_of(text->substr(begin), 1));
  }
  return std::nullopt;
}

// A bound of a slice, clamped as Python does.
std::int64_t bound(const Value& value, std::int64_t fallback, std::int64_t low, std::int64_t high,
                   std::int64_t size) {
  if (value.is<None>()) return fallback;
  std::int64_t index = 0;
  if (!value.integer(index)) fail("a slice needs integers, found '{}'", type_name(value));
  if (index < 0) index = index < -size ? low : index + size;
  return std::clamp(index, low, high);
}

}  // namespace

Value attribute(Heap& heap, const Value& object, std::string_view name) {
  if (const auto* u = object.as<Undefined>()) throw Failure(undefined_message(*u));
  if (const auto method = bound_method(heap, object, name)) return *method;
  const Dict* variables = object.dict();
  if (const auto* space = object.as<Namespace*>()) variables = &(*space)->variables;
  if (variables) {
    if (const Value* found = find(heap, *variables, name)) return *found;
  } else if (const auto* loop = object.as<Loop*>()) {
    if (const auto found = loop_attribute(**loop, name)) return *found;
  }
  return Undefined{name, owner_name(object)};
}

Value item(Heap& heap, const Value& object, const Value& key) {
  if (const auto* u = object.as<Undefined>()) throw Failure(undefined_message(*u));
  if (const Dict* dict = object.dict()) {
    if (const Value* found = find(heap, *dict, key)) return *found;
  }
  std::int64_t index = 0;
  if (key.integer(index)) {
    if (object.is_string()) heap.spend(object.as<std::string_view>()->size() / 16);
    if (const auto found = element(object, index)) return *found;
  }
  if (const auto* name = key.as<std::string_view>()) {
    if (!object.dict()) return attribute(heap, object, *name);
    if (const auto method = bound_method(heap, object, *name)) return *method;
  }
  return Undefined{to_str(heap, key), owner_name(object)};
}

Value slice(Heap& heap, const Value& object, const Value& begin, const Value& end,
            const Value& step) {
  if (const auto* u = object.as<Undefined>()) throw Failure(undefined_message(*u));
  const bool is_text = object.is_string();
  if (!is_text && !object.sequence()) return Undefined{"[:]", owner_name(object)};
  std::int64_t stride = 1;
  if (!step.is<None>() && !step.integer(stride))
    fail("a slice needs integers, found '{}'", type_name(step));
  if (stride == 0) fail("the step of a slice cannot be 0");
  const auto size = static_cast<std::int64_t>(size_of(heap, object));
  const bool forward = stride > 0;
  const std::int64_t low = forward ? 0 : -1, high = forward ? size : size - 1;
  const std::int64_t first = bound(begin, forward ? 0 : size - 1, low, high, size);
  const std::int64_t last = bound(end, forward ? size : -1, low, high, size);
  if (is_text && stride == 1) {
    const std::string_view text = *object.as<std::string_view>();
    heap.spend(text.size() / 16);
    const std::size_t from = offset_of(text, static_cast<std::size_t>(first));
    const std::size_t to = offset_of(text, static_cast<std::size_t>(last));
    return text.substr(from, to > from ? to - from : 0);
  }
  const List& all = items_of(heap, object);
  // A stride beyond the size takes one item; clamping keeps the sums below from overflowing.
  stride = std::clamp(stride, -size - 1, size + 1);
  List taken;
  for (std::int64_t i = first; forward ? i < last : i > last; i += stride)
    heap.push(taken, all[static_cast<std::size_t>(i)]);
  if (!is_text)
    return object.is<ListRef>() ? heap.list(std::move(taken)) : heap.tuple(std::move(taken));
  Text text(heap);
  for (const Value& character : taken) text.append(*character.as<std::string_view>());
  return text.finish();
}

}  // namespace tenfold::jinja
