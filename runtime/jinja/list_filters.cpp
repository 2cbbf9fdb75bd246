// Filters on sequences and mappings. Where Jinja2 makes a generator, these make a list.

#include <algorithm>

#include "runtime/jinja/builtins.h"
#include "runtime/jinja/eval.h"
#include "runtime/jinja/ops.h"
#include "runtime/jinja/text.h"

namespace tenfold::jinja {
namespace {

// The path of `attribute=`: "a.b.0" or a number. none stands for the item itself. A fallback
// replaces what is missing at each step of the path, as in Jinja2.
Value dig(Heap& heap, Value value, const Value& path, const Value& fallback = None{}) {
  if (path.is<None>()) return value;
  const auto* text = path.as<std::string_view>();
  const auto step = [&](const Value& key) {
    const Value found = item(heap, value, key);
    return found.is<Undefined>() && !fallback.is<None>() ? fallback : found;
  };
  if (!text) return step(path);
  for (const Value& part : split(heap, *text, ".", -1)) {
    const std::string_view name = *part.as<std::string_view>();
    const bool number = !name.empty() && name.size() < 10 &&
                        name.find_first_not_of("0123456789") == std::string_view::npos;
    value = step(number ? Value(std::int64_t{std::stol(std::string(name))}) : part);
  }
  return value;
}

Value folded(Heap& heap, const Value& value, bool case_sensitive) {
  if (case_sensitive || !value.is_string()) return value;
  return change_case(heap, *value.as<std::string_view>(), Case::lower);
}

std::optional<Value> extreme(Interpreter& jinja, const Value& input, const Args& args,
                             bool largest) {
  const Parameters p(largest ? "max" : "min", args, {"case_sensitive", "attribute"});
  Heap& heap = jinja.heap();
  std::optional<Value> best, best_key;
  for (const Value& value : items_of(heap, input)) {
    const Value key = folded(heap, dig(heap, value, p.get_or(1, None{})), p.flag(0));
    if (best_key && !(largest ? less(heap, *best_key, key) : less(heap, key, *best_key))) continue;
    best = value;
    best_key = key;
  }
  return best;
}

Value filter_max(Interpreter& jinja, const Value& input, const Args& args) {
  return extreme(jinja, input, args, true).value_or(Undefined{"max", "empty sequence"});
}

Value filter_min(Interpreter& jinja, const Value& input, const Args& args) {
  return extreme(jinja, input, args, false).value_or(Undefined{"min", "empty sequence"});
}

Value filter_sum(Interpreter& jinja, const Value& input, const Args& args) {
  const Parameters p("sum", args, {"attribute", "start"});
  Heap& heap = jinja.heap();
  Value total = p.get_or(1, std::int64_t{0});
  if (total.is_string()) fail("sum() does not join strings");
  for (const Value& value : items_of(heap, input))
    total = apply_binary(heap, Op::add, total, dig(heap, value, p.get_or(0, None{})));
  return total;
}

Value filter_first(Interpreter& jinja, const Value& input, const Args& args) {
  const Parameters p("first", args, {});
  const List& items = items_of(jinja.heap(), input);
  return items.empty() ? Value(Undefined{"first", "empty sequence"}) : items.front();
}

Value filter_last(Interpreter& jinja, const Value& input, const Args& args) {
  const Parameters p("last", args, {});
  const List& items = items_of(jinja.heap(), input);
  return items.empty() ? Value(Undefined{"last", "empty sequence"}) : items.back();
}

Value filter_join(Interpreter& jinja, const Value& input, const Args& args) {
  const Parameters p("join", args, {"d", "attribute"});
  Heap& heap = jinja.heap();
  const std::string_view separator = p.has(0) ? to_str(heap, p.get(0)) : "";
  Text out(heap);
  bool first = true;
  for (const Value& value : items_of(heap, input)) {
    if (!first) out.append(separator);
    first = false;
    append_str(out, dig(heap, value, p.get_or(1, None{})));
  }
  return out.finish();
}

Value filter_list(Interpreter& jinja, const Value& input, const Args& args) {
  const Parameters p("list", args, {});
  List items;
  for (const Value& value : items_of(jinja.heap(), input)) jinja.heap().push(items, value);
  return jinja.heap().list(std::move(items));
}

Value filter_reverse(Interpreter& jinja, const Value& input, const Args& args) {
  const Parameters p("reverse", args, {});
  const Value source = input.is_string() ? input : filter_list(jinja, input, {});
  return slice(jinja.heap(), source, None{}, None{}, std::int64_t{-1});
}

List sorted(Heap& heap, const List& items, const std::vector<Value>& keys, bool reverse) {
  std::vector<std::size_t> order(items.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return reverse ? less(heap, keys[b], keys[a]) : less(heap, keys[a], keys[b]);
  });
  List result;
  for (const std::size_t i : order) heap.push(result, items[i]);
  return result;
}

Value filter_sort(Interpreter& jinja, const Value& input, const Args& args) {
  const Parameters p("sort", args, {"reverse", "case_sensitive", "attribute"});
  Heap& heap = jinja.heap();
  const List& items = items_of(heap, input);
  List keys;
  for (const Value& value : items) {
    List parts;  // "a,b" sorts by a, then by b
    const Value path = p.get_or(2, None{});
    if (const auto* text = path.as<std::string_view>()) {
      for (const Value& part : split(heap, *text, ",", -1))
        heap.push(parts, folded(heap, dig(heap, value, part), p.flag(1)));
    } else {
      heap.push(parts, folded(heap, dig(heap, value, path), p.flag(1)));
    }
    heap.push(keys, heap.list(std::move(parts)));
  }
  return heap.list(sorted(heap, items, keys, p.flag(0)));
}

Value filter_dictsort(Interpreter& jinja, const Value& input, const Args& args) {
  const Parameters p("dictsort", args, {"case_sensitive", "by", "reverse"});
  Heap& heap = jinja.heap();
  const std::string_view by = p.has(1) ? p.text(1) : "key";
  if (by != "key" && by != "value") fail("dictsort() sorts by key or value, found '{}'", by);
  if (!input.dict()) fail("dictsort() needs a dict, found '{}'", type_name(input));
  List items, keys;
  for (const auto& [key, value] : input.dict()->entries) {
    List pair;
    heap.push(pair, key);
    heap.push(pair, value);
    heap.push(keys, folded(heap, by == "key" ? key : value, p.flag(0)));
    heap.push(items, heap.tuple(std::move(pair)));
  }
  return heap.list(sorted(heap, items, keys, p.flag(2)));
}

Value filter_items(Interpreter& jinja, const Value& input, const Args& args) {
  const Parameters p("items", args, {});
  if (input.is<Undefined>()) return jinja.heap().list({});
  if (!input.dict()) fail("items() needs a dict, found '{}'", type_name(input));
  return find_method(input, "items")(jinja, input, {});
}

Value filter_unique(Interpreter& jinja, const Value& input, const Args& args) {
  const Parameters p("unique", args, {"case_sensitive", "attribute"});
  Heap& heap = jinja.heap();
  List seen, result;
  for (const Value& value : items_of(heap, input)) {
    const Value key = folded(heap, dig(heap, value, p.get_or(1, None{})), p.flag(0));
    const bool known = std::any_of(seen.begin(), seen.end(),
                                   [&](const Value& other) { return equal(heap, other, key); });
    if (known) continue;
    heap.push(seen, key);
    heap.push(result, value);
  }
  return heap.list(std::move(result));
}

// args without the first `count` positional ones.
Args rest_of(const Args& args, std::size_t count) {
  Args rest = args;
  rest.positional.erase(rest.positional.begin(),
                        rest.positional.begin() + static_cast<std::ptrdiff_t>(count));
  return rest;
}

std::string_view name_argument(std::string_view filter, const Args& args, std::size_t i) {
  const auto* name =
      i < args.positional.size() ? args.positional[i].as<std::string_view>() : nullptr;
  if (!name) fail("{}() needs a name", filter);
  return *name;
}

Value filter_map(Interpreter& jinja, const Value& input, const Args& args) {
  Heap& heap = jinja.heap();
  List result;
  if (args.positional.empty()) {
    const Parameters p("map", args, {"attribute", "default"}, 1);
    for (const Value& value : items_of(heap, input))
      heap.push(result, dig(heap, value, p.get(0), p.get_or(1, None{})));
    return heap.list(std::move(result));
  }
  const std::string_view name = name_argument("map", args, 0);
  const Native filter = find_filter(name);
  if (!filter) fail("there is no filter '{}'", name);
  const Args rest = rest_of(args, 1);
  const Heap::Depth depth(heap);
  for (const Value& value : items_of(heap, input)) heap.push(result, filter(jinja, value, rest));
  return heap.list(std::move(result));
}

// select, reject (by_attribute: selectattr, rejectattr)
template <bool wanted, bool by_attribute>
Value filter_select(Interpreter& jinja, const Value& input, const Args& args) {
  Heap& heap = jinja.heap();
  constexpr std::size_t kTest = by_attribute ? 1 : 0;
  if (by_attribute && args.positional.empty()) fail("selectattr() needs an attribute");
  Native test = nullptr;
  Args rest;
  if (args.positional.size() > kTest) {
    const std::string_view name = name_argument("select", args, kTest);
    test = find_test(name);
    if (!test) fail("there is no test '{}'", name);
    rest = rest_of(args, kTest + 1);
  }
  List result;
  for (const Value& value : items_of(heap, input)) {
    const Value subject = by_attribute ? dig(heap, value, args.positional[0]) : value;
    if (truthy(test ? test(jinja, subject, rest) : subject) == wanted) heap.push(result, value);
  }
  return heap.list(std::move(result));
}

Value filter_attr(Interpreter& jinja, const Value& input, const Args& args) {
  const Parameters p("attr", args, {"name"}, 1);
  const Value found = attribute(jinja.heap(), input, p.text(0));
  // |attr() looks at attributes only, never at keys.
  return input.dict() && !found.is<const Function*>() ? Value(Undefined{p.text(0), "dict"}) : found;
}

constexpr std::array<Builtin, 18> kFilters = {{
    {"attr", filter_attr},
    {"dictsort", filter_dictsort},
    {"first", filter_first},
    {"items", filter_items},
    {"join", filter_join},
    {"last", filter_last},
    {"list", filter_list},
    {"map", filter_map},
    {"max", filter_max},
    {"min", filter_min},
    {"reject", filter_select<false, false>},
    {"rejectattr", filter_select<false, true>},
    {"reverse", filter_reverse},
    {"select", filter_select<true, false>},
    {"selectattr", filter_select<true, true>},
    {"sort", filter_sort},
    {"sum", filter_sum},
    {"unique", filter_unique},
}};

}  // namespace

std::span<const Builtin> list_filters() { return kFilters; }

}  // namespace tenfold::jinja
