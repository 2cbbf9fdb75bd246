#include "runtime/jinja/ops.h"

#include <cmath>
#include <limits>
#include <optional>

#include "kernels/checked.h"
#include "runtime/jinja/text.h"

namespace tenfold::jinja {
namespace {

constexpr std::string_view kOverflow = "an integer grows beyond 64 bits";

std::string_view symbol(Op op) {
  switch (op) {
    case Op::add:
      return "+";
    case Op::subtract:
      return "-";
    case Op::multiply:
      return "*";
    case Op::divide:
      return "/";
    case Op::floor_divide:
      return "//";
    case Op::modulo:
      return "%";
    default:
      return "**";
  }
}

[[noreturn]] void no_operator(Op op, const Value& a, const Value& b) {
  if (const auto* u = a.as<Undefined>()) throw Failure(undefined_message(*u));
  if (const auto* u = b.as<Undefined>()) throw Failure(undefined_message(*u));
  fail("'{}' does not work on '{}' and '{}'", symbol(op), type_name(a), type_name(b));
}

std::int64_t floor_divide(std::int64_t a, std::int64_t b) {
  if (b == -1) {
    std::int64_t negated = 0;
    if (__builtin_sub_overflow(std::int64_t{0}, a, &negated)) fail("{}", kOverflow);
    return negated;
  }
  return a / b - (a % b != 0 && (a < 0) != (b < 0) ? 1 : 0);
}

std::int64_t floor_modulo(std::int64_t a, std::int64_t b) {
  if (b == -1) return 0;
  const std::int64_t rest = a % b;
  return rest != 0 && (rest < 0) != (b < 0) ? rest + b : rest;
}

std::int64_t int_power(std::int64_t base, std::int64_t exponent) {
  std::int64_t result = 1;
  bool overflow = false;
  while (exponent > 0) {
    if (exponent & 1) overflow |= __builtin_mul_overflow(result, base, &result);
    exponent >>= 1;
    if (exponent > 0) overflow |= __builtin_mul_overflow(base, base, &base);
    if (overflow) fail("{}", kOverflow);
  }
  return result;
}

Value int_op(Op op, std::int64_t a, std::int64_t b) {
  std::int64_t result = 0;
  bool overflow = false;
  switch (op) {
    case Op::add:
      overflow = __builtin_add_overflow(a, b, &result);
      break;
    case Op::subtract:
      overflow = __builtin_sub_overflow(a, b, &result);
      break;
    case Op::multiply:
      overflow = __builtin_mul_overflow(a, b, &result);
      break;
    case Op::power:
      if (b < 0 && a == 0) fail("division by zero");
      if (b < 0) return std::pow(static_cast<double>(a), static_cast<double>(b));
      return int_power(a, b);
    default:
      if (b == 0) fail("division by zero");
      if (op == Op::divide) return static_cast<double>(a) / static_cast<double>(b);
      return op == Op::modulo ? floor_modulo(a, b) : floor_divide(a, b);
  }
  if (overflow) fail("{}", kOverflow);
  return result;
}

double float_power(double a, double b) {
  const double result = std::pow(a, b);
  const bool finite = std::isfinite(a) && std::isfinite(b);
  if (finite && !std::isfinite(result)) fail("the result of '**' is not a finite number");
  return result;
}

Value float_op(Op op, double a, double b) {
  switch (op) {
    case Op::add:
      return a + b;
    case Op::subtract:
      return a - b;
    case Op::multiply:
      return a * b;
    case Op::power:
      return float_power(a, b);
    default:
      break;
  }
  if (b == 0) fail("division by zero");
  if (op == Op::divide) return a / b;
  double rest = std::fmod(a, b);
  if (rest != 0 && (rest < 0) != (b < 0)) rest += b;
  if (op == Op::modulo) return rest == 0 ? std::copysign(0.0, b) : rest;
  return std::round((a - rest) / b);
}

std::size_t repeated_size(std::size_t size, std::int64_t count, std::size_t limit) {
  if (count <= 0) return 0;
  const auto total = checked_mul(size, static_cast<std::uint64_t>(count));
  if (!total || *total > limit) fail("'*' makes a value that is too large");
  return static_cast<std::size_t>(*total);
}

std::optional<Value> repeat(Heap& heap, const Value& value, const Value& times) {
  std::int64_t count = 0;
  if (!times.integer(count)) return std::nullopt;
  if (const auto* text = value.as<std::string_view>()) {
    const std::size_t size = repeated_size(text->size(), count, kMaxTextBytes);
    heap.charge(size);
    heap.spend(size / 64);
    std::string result;
    result.reserve(size);
    while (result.size() < size) result.append(*text);
    return heap.keep(std::move(result));
  }
  const List* items = value.sequence();
  if (!items) return std::nullopt;
  const std::size_t size = repeated_size(items->size(), count, kMaxHeapBytes / sizeof(Value));
  List result;
  while (result.size() < size) heap.push(result, (*items)[result.size() % items->size()]);
  return value.is<ListRef>() ? heap.list(std::move(result)) : heap.tuple(std::move(result));
}

std::optional<Value> join(Heap& heap, const Value& a, const Value& b) {
  const auto* left = a.as<std::string_view>();
  const auto* right = b.as<std::string_view>();
  if (left && right) {
    Text text(heap);
    text.append(*left);
    text.append(*right);
    return text.finish();
  }
  const bool lists = a.is<ListRef>() && b.is<ListRef>();
  if (!lists && !(a.is<TupleRef>() && b.is<TupleRef>())) return std::nullopt;
  List items;
  for (const List* part : {a.sequence(), b.sequence()})
    for (const Value& value : *part) heap.push(items, value);
  return lists ? heap.list(std::move(items)) : heap.tuple(std::move(items));
}

}  // namespace

Value apply_binary(Heap& heap, Op op, const Value& a, const Value& b) {
  std::int64_t ai = 0, bi = 0;
  if (a.integer(ai) && b.integer(bi)) return int_op(op, ai, bi);
  if (a.is_number() && b.is_number()) return float_op(op, to_double(a), to_double(b));
  std::optional<Value> result;
  if (op == Op::add) {
    result = join(heap, a, b);
  } else if (op == Op::multiply) {
    result = repeat(heap, a, b);
    if (!result) result = repeat(heap, b, a);
  } else if (op == Op::modulo && a.is_string()) {
    const List single{b};
    const bool many = b.is<TupleRef>();
    result = percent_format(heap, *a.as<std::string_view>(), many ? *b.sequence() : single);
  }
  if (!result) no_operator(op, a, b);
  return *result;
}

Value apply_unary(Op op, const Value& value) {
  if (op == Op::logic_not) return !truthy(value);
  std::int64_t integer = 0;
  if (value.integer(integer))
    return op == Op::negate ? int_op(Op::subtract, 0, integer) : Value(integer);
  if (const auto* number = value.as<double>()) return op == Op::negate ? -*number : *number;
  if (const auto* u = value.as<Undefined>()) throw Failure(undefined_message(*u));
  fail("a sign does not work on '{}'", type_name(value));
}

bool contains(Heap& heap, const Value& container, const Value& item) {
  if (const auto* text = container.as<std::string_view>()) {
    const auto* needle = item.as<std::string_view>();
    if (!needle) fail("'in' a string needs a string, found '{}'", type_name(item));
    heap.spend(text->size() / 64);
    return find_text(*text, *needle) != std::string_view::npos;
  }
  if (const Dict* dict = container.dict()) {
    if (item.is<ListRef>() || item.dict()) fail("a '{}' cannot be a dict key", type_name(item));
    return find(heap, *dict, item) != nullptr;
  }
  for (const Value& candidate : items_of(heap, container))
    if (equal(heap, candidate, item)) return true;
  return false;
}

bool compare(Heap& heap, Op op, const Value& a, const Value& b) {
  switch (op) {
    case Op::equal:
      return equal(heap, a, b);
    case Op::not_equal:
      return !equal(heap, a, b);
    case Op::less:
      return less(heap, a, b);
    case Op::greater:
      return less(heap, b, a);
    case Op::less_equal:
      return less(heap, a, b) || equal(heap, a, b);
    case Op::greater_equal:
      return less(heap, b, a) || equal(heap, a, b);
    case Op::in:
      return contains(heap, b, a);
    default:
      return !contains(heap, b, a);
  }
}

const List& items_of(Heap& heap, const Value& value) {
  if (const List* items = value.sequence()) return *items;
  List items;
  if (const Dict* dict = value.dict()) {
    for (const auto& entry : dict->entries) heap.push(items, entry.first);
  } else if (const auto* text = value.as<std::string_view>()) {
    items = characters(heap, *text);
  } else if (!value.is<Undefined>()) {
    fail("'{}' cannot be iterated", type_name(value));
  }
  return *heap.list(std::move(items)).sequence();
}

std::size_t size_of(Heap& heap, const Value& value) {
  if (const List* items = value.sequence()) return items->size();
  if (const Dict* dict = value.dict()) return dict->entries.size();
  if (const auto* text = value.as<std::string_view>()) {
    heap.spend(text->size() / 16);
    return length(*text);
  }
  if (value.is<Undefined>()) return 0;
  fail("'{}' has no length", type_name(value));
}

}  // namespace tenfold::jinja
