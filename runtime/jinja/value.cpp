#include "runtime/jinja/value.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <limits>

#include "runtime/jinja/text.h"

namespace tenfold::jinja {

const List* Value::sequence() const {
  if (const auto* list = as<ListRef>()) return list->items;
  if (const auto* tuple = as<TupleRef>()) return tuple->items;
  return nullptr;
}

const Dict* Value::dict() const {
  const auto* found = as<const Dict*>();
  return found ? *found : nullptr;
}

const std::int64_t* Value::integer(std::int64_t& storage) const {
  if (const auto* i = as<std::int64_t>()) {
    storage = *i;
  } else if (const auto* b = as<bool>()) {
    storage = *b ? 1 : 0;
  } else {
    return nullptr;
  }
  return &storage;
}

void Heap::spend(std::uint64_t steps) {
  steps_ += std::min(steps, kMaxSteps);
  if (steps_ > kMaxSteps) fail("the template takes more than {} steps", kMaxSteps);
}

void Heap::spend_loop_step() {
  if (++loop_steps_ > kMaxLoopSteps) fail("the loops take more than {} steps", kMaxLoopSteps);
}

void Heap::charge(std::size_t bytes) {
  if (bytes > kMaxHeapBytes - bytes_)
    fail("the template needs more than {} MiB of memory", kMaxHeapBytes >> 20);
  bytes_ += bytes;
}

std::string_view Heap::text(std::string_view text) {
  charge(text.size() + sizeof(std::string));
  return strings_.emplace_back(text);
}

std::string_view Heap::keep(std::string text) {
  charge(sizeof(std::string));
  return strings_.emplace_back(std::move(text));
}

void Heap::push(List& list, const Value& value) {
  spend(1);
  charge(sizeof(Value));
  list.push_back(value);
}

Value Heap::list(List items) {
  charge(sizeof(List));
  return ListRef{&lists_.emplace_back(std::move(items))};
}

Value Heap::tuple(List items) {
  charge(sizeof(List));
  return TupleRef{&lists_.emplace_back(std::move(items))};
}

Value Heap::dict(Dict dict) {
  charge(sizeof(Dict));
  return static_cast<const Dict*>(&dicts_.emplace_back(std::move(dict)));
}

Namespace* Heap::make_namespace() {
  charge(sizeof(Namespace));
  return &namespaces_.emplace_back();
}

Loop* Heap::loop(const List& items) {
  charge(sizeof(Loop));
  return &loops_.emplace_back(Loop{&items, 0, nullptr});
}

const Function* Heap::function(Function function) {
  charge(sizeof(Function));
  return &functions_.emplace_back(function);
}

Scope* Heap::scope(Scope* parent) {
  charge(sizeof(Scope));
  return &scopes_.emplace_back(Scope{parent, {}});
}

Heap::Depth::Depth(Heap& heap) : heap_(heap) {
  if (heap.depth_ >= kMaxDepth) fail("nested more than {} levels deep", kMaxDepth);
  ++heap.depth_;
}

void Text::grow(std::size_t bytes) {
  if (bytes > kMaxTextBytes - text_.size())
    fail("a string grows beyond {} MiB", kMaxTextBytes >> 20);
  heap_->charge(bytes);
  heap_->spend(bytes / 64);
}

void Text::append(std::string_view piece) {
  grow(piece.size());
  text_.append(piece);
}

void Text::append(std::size_t count, char c) {
  grow(count);
  text_.append(count, c);
}

bool truthy(const Value& value) {
  if (value.is<Undefined>() || value.is<None>()) return false;
  if (const auto* b = value.as<bool>()) return *b;
  if (const auto* i = value.as<std::int64_t>()) return *i != 0;
  if (const auto* d = value.as<double>()) return *d != 0;
  if (const auto* s = value.as<std::string_view>()) return !s->empty();
  if (const List* items = value.sequence()) return !items->empty();
  if (const Dict* dict = value.dict()) return !dict->entries.empty();
  return true;
}

std::string_view type_name(const Value& value) {
  if (value.is<Undefined>()) return "Undefined";
  if (value.is<None>()) return "NoneType";
  if (value.is<bool>()) return "bool";
  if (value.is<std::int64_t>()) return "int";
  if (value.is<double>()) return "float";
  if (value.is_string()) return "str";
  if (value.is<ListRef>()) return "list";
  if (value.is<TupleRef>()) return "tuple";
  if (value.is<const Dict*>()) return "dict";
  if (value.is<Namespace*>()) return "namespace";
  if (value.is<Loop*>()) return "loop";
  return "function";
}

std::string undefined_message(const Undefined& value) {
  if (value.owner.empty()) return fmt::format("'{}' is undefined", value.name);
  return fmt::format("'{}' has no attribute or element '{}'", value.owner, value.name);
}

double to_double(const Value& number) {
  if (const auto* d = number.as<double>()) return *d;
  std::int64_t integer = 0;
  if (number.integer(integer)) return static_cast<double>(integer);
  fail("a number was expected, found '{}'", type_name(number));
}

namespace {

bool equal_items(Heap& heap, const List& a, const List& b) {
  if (a.size() != b.size()) return false;
  for (std::size_t i = 0; i < a.size(); ++i)
    if (!equal(heap, a[i], b[i])) return false;
  return true;
}

bool equal_dicts(Heap& heap, const Dict& a, const Dict& b) {
  if (a.entries.size() != b.entries.size()) return false;
  for (const auto& [key, value] : a.entries) {
    const Value* other = find(heap, b, key);
    if (!other || !equal(heap, value, *other)) return false;
  }
  return true;
}

template <typename T>
bool same_reference(const Value& a, const Value& b) {
  const auto* left = a.as<T>();
  const auto* right = b.as<T>();
  return left && right && *left == *right;
}

}  // namespace

bool equal(Heap& heap, const Value& a, const Value& b) {
  const Heap::Depth depth(heap);
  heap.spend(1);
  std::int64_t ai = 0, bi = 0;
  if (a.integer(ai) && b.integer(bi)) return ai == bi;
  if (a.is_number() && b.is_number()) return to_double(a) == to_double(b);
  const auto* as = a.as<std::string_view>();
  const auto* bs = b.as<std::string_view>();
  if (as && bs) {
    heap.spend(as->size() / 64);
    return *as == *bs;
  }
  if (a.is<ListRef>() && b.is<ListRef>()) return equal_items(heap, *a.sequence(), *b.sequence());
  if (a.is<TupleRef>() && b.is<TupleRef>()) return equal_items(heap, *a.sequence(), *b.sequence());
  if (a.dict() && b.dict()) return equal_dicts(heap, *a.dict(), *b.dict());
  return (a.is<None>() && b.is<None>()) || (a.is<Undefined>() && b.is<Undefined>()) ||
         same_reference<Namespace*>(a, b) || same_reference<Loop*>(a, b) ||
         same_reference<const Function*>(a, b);
}

bool less(Heap& heap, const Value& a, const Value& b) {
  const Heap::Depth depth(heap);
  heap.spend(1);
  std::int64_t ai = 0, bi = 0;
  if (a.integer(ai) && b.integer(bi)) return ai < bi;
  if (a.is_number() && b.is_number()) return to_double(a) < to_double(b);
  const auto* as = a.as<std::string_view>();
  const auto* bs = b.as<std::string_view>();
  if (as && bs) {
    heap.spend(as->size() / 64);
    return *as < *bs;  // byte order of UTF-8 is code point order
  }
  if ((a.is<ListRef>() && b.is<ListRef>()) || (a.is<TupleRef>() && b.is<TupleRef>())) {
    const List &left = *a.sequence(), &right = *b.sequence();
    for (std::size_t i = 0; i < left.size() && i < right.size(); ++i)
      if (!equal(heap, left[i], right[i])) return less(heap, left[i], right[i]);
    return left.size() < right.size();
  }
  if (const auto* u = a.as<Undefined>()) throw Failure(undefined_message(*u));
  if (const auto* u = b.as<Undefined>()) throw Failure(undefined_message(*u));
  fail("'{}' and '{}' have no order", type_name(a), type_name(b));
}

std::string float_repr(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  // Python writes an exponent below 1e-4 and from 1e16 on.
  const double magnitude = std::fabs(value);
  const bool scientific = value != 0 && (magnitude < 1e-4 || magnitude >= 1e16);
  std::array<char, 64> buffer;
  const auto format = scientific ? std::chars_format::scientific : std::chars_format::fixed;
  const auto end = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value, format).ptr;
  std::string text(buffer.data(), end);
  if (!scientific && text.find('.') == std::string::npos) text += ".0";
  return text;
}

namespace {

void append_items(Text& out, const List& items) {
  for (std::size_t i = 0; i < items.size(); ++i) {
    if (i > 0) out.append(", ");
    append_repr(out, items[i]);
  }
}

void append_dict(Text& out, const Dict& dict) {
  out.append("{");
  for (std::size_t i = 0; i < dict.entries.size(); ++i) {
    if (i > 0) out.append(", ");
    append_repr(out, dict.entries[i].first);
    out.append(": ");
    append_repr(out, dict.entries[i].second);
  }
  out.append("}");
}

}  // namespace

void append_repr(Text& out, const Value& value) {
  const Heap::Depth depth(out.heap());
  out.heap().spend(1);
  if (const auto* s = value.as<std::string_view>()) {
    append_quoted(out, *s);
  } else if (value.is<ListRef>()) {
    out.append("[");
    append_items(out, *value.sequence());
    out.append("]");
  } else if (value.is<TupleRef>()) {
    out.append("(");
    append_items(out, *value.sequence());
    out.append(value.sequence()->size() == 1 ? ",)" : ")");
  } else if (const Dict* dict = value.dict()) {
    append_dict(out, *dict);
  } else if (value.is<Undefined>()) {
    out.append("Undefined");
  } else {
    append_str(out, value);
  }
}

void append_str(Text& out, const Value& value) {
  if (value.is<Undefined>()) return;
  if (value.is<None>()) {
    out.append("None");
  } else if (const auto* b = value.as<bool>()) {
    out.append(*b ? "True" : "False");
  } else if (const auto* i = value.as<std::int64_t>()) {
    out.append(fmt::format("{}", *i));
  } else if (const auto* d = value.as<double>()) {
    out.append(float_repr(*d));
  } else if (const auto* s = value.as<std::string_view>()) {
    out.append(*s);
  } else if (value.sequence() || value.dict()) {
    append_repr(out, value);
  } else {
    out.append(fmt::format("<{}>", type_name(value)));
  }
}

std::string_view to_str(Heap& heap, const Value& value) {
  if (const auto* s = value.as<std::string_view>()) return *s;
  Text text(heap);
  append_str(text, value);
  return text.finish();
}

const Value* find(Heap& heap, const Dict& dict, const Value& key) {
  for (const auto& [k, value] : dict.entries)
    if (equal(heap, k, key)) return &value;
  return nullptr;
}

void assign(Heap& heap, Dict& dict, const Value& key, const Value& value) {
  if (key.is<ListRef>() || key.dict()) fail("a '{}' cannot be a dict key", type_name(key));
  for (auto& [k, v] : dict.entries) {
    if (!equal(heap, k, key)) continue;
    v = value;
    return;
  }
  heap.charge(2 * sizeof(Value));
  dict.entries.emplace_back(key, value);
}

}  // namespace tenfold::jinja
