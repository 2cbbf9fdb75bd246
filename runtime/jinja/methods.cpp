// Methods of strings, dicts, lists and the loop variable. None of them changes its object, as in
// Jinja2's immutable sandbox.

#include <algorithm>

#include "runtime/jinja/builtins.h"
#include "runtime/jinja/eval.h"
#include "runtime/jinja/ops.h"
#include "runtime/jinja/text.h"
#include "runtime/utf8.h"

namespace tenfold::jinja {
namespace {

std::string_view str(const Value& self) { return *self.as<std::string_view>(); }

template <Side side>
Value str_strip(Interpreter& jinja, const Value& self, const Args& args) {
  const Parameters p("strip", args, {"chars"});
  return strip(jinja.heap(), str(self), p.optional_text(0), side);
}

template <Case how>
Value str_case(Interpreter& jinja, const Value& self, const Args& args) {
  const Parameters p("case method", args, {});
  return change_case(jinja.heap(), str(self), how);
}

Value str_split(Interpreter& jinja, const Value& self, const Args& args) {
  const Parameters p("split", args, {"sep", "maxsplit"});
  Heap& heap = jinja.heap();
  return heap.list(split(heap, str(self), p.optional_text(0), p.integer(1, -1)));
}

Value str_rsplit(Interpreter& jinja, const Value& self, const Args& args) {
  const Parameters p("rsplit", args, {"sep", "maxsplit"});
  Heap& heap = jinja.heap();
  return heap.list(split_from_right(heap, str(self), p.optional_text(0), p.integer(1, -1)));
}

Value str_splitlines(Interpreter& jinja, const Value& self, const Args& args) {
  const Parameters p("splitlines", args, {"keepends"});
  return jinja.heap().list(split_lines(jinja.heap(), str(self), p.flag(0)));
}

Value str_partition(Interpreter& jinja, const Value& self, const Args& args) {
  const Parameters p("partition", args, {"sep"}, 1);
  Heap& heap = jinja.heap();
  List parts = split(heap, str(self), p.text(0), 1);
  const bool found = parts.size() == 2;
  if (!found) heap.push(parts, std::string_view());
  parts.insert(parts.begin() + 1, found ? Value(p.text(0)) : Value(std::string_view()));
  return heap.tuple(std::move(parts));
}

// The part of the text that optional start and end positions leave.
Value part(Heap& heap, const Value& self, const Parameters& p) {
  if (!p.has(1) && !p.has(2)) return self;
  return slice(heap, self, p.get_or(1, None{}), p.get_or(2, None{}), None{});
}

template <bool at_end>
Value str_affix(Interpreter& jinja, const Value& self, const Args& args) {
  const Parameters p(at_end ? "endswith" : "startswith", args, {"prefix", "start", "end"}, 1);
  const Value kept = part(jinja.heap(), self, p);
  const std::string_view text = str(kept);
  const auto matches = [text, &jinja](std::string_view affix) {
    jinja.heap().spend(affix.size() / 64);
    return at_end ? text.ends_with(affix) : text.starts_with(affix);
  };
  if (!p.get(0).is<TupleRef>()) return matches(p.text(0));
  for (const Value& affix : *p.get(0).sequence()) {
    if (!affix.is_string()) fail("startswith() and endswith() need strings");
    if (matches(str(affix))) return true;
  }
  return false;
}

template <bool at_end>
Value str_remove(Interpreter& jinja, const Value& self, const Args& args) {
  const Parameters p(at_end ? "removesuffix" : "removeprefix", args, {"affix"}, 1);
  std::string_view text = str(self);
  const std::string_view affix = p.text(0);
  jinja.heap().spend(affix.size() / 64);
  if (at_end && text.ends_with(affix)) text.remove_suffix(affix.size());
  if (!at_end && text.starts_with(affix)) text.remove_prefix(affix.size());
  return text;
}

Value str_replace(Interpreter& jinja, const Value& self, const Args& args) {
  const Parameters p("replace", args, {"old", "new", "count"}, 2);
  return replace(jinja.heap(), str(self), p.text(0), p.text(1), p.integer(2, -1));
}

Value str_join(Interpreter& jinja, const Value& self, const Args& args) {
  const Parameters p("join", args, {"iterable"}, 1);
  Text out(jinja.heap());
  bool first = true;
  for (const Value& value : items_of(jinja.heap(), p.get(0))) {
    if (!value.is_string()) fail("join() needs strings, found '{}'", type_name(value));
    if (!first) out.append(str(self));
    first = false;
    out.append(str(value));
  }
  return out.finish();
}

template <bool last, bool must_exist>
Value str_find(Interpreter& jinja, const Value& self, const Args& args) {
  const Parameters p("find", args, {"sub"}, 1);
  const std::string_view text = str(self), needle = p.text(0);
  jinja.heap().spend(last ? text.size() / 4 * (needle.size() / 16 + 1) : text.size() / 16);
  const std::size_t at = last ? text.rfind(needle) : find_text(text, needle);
  if (at != std::string_view::npos) return static_cast<std::int64_t>(length(text.substr(0, at)));
  if (must_exist) fail("'{}' is not part of the string", needle.substr(0, 100));
  return std::int64_t{-1};
}

Value str_count(Interpreter& jinja, const Value& self, const Args& args) {
  const Parameters p("count", args, {"sub"}, 1);
  const std::string_view text = str(self), needle = p.text(0);
  if (needle.empty()) return static_cast<std::int64_t>(length(text)) + 1;
  jinja.heap().spend(text.size() / 16);
  std::int64_t count = 0;
  for (std::size_t at = 0; (at = find_text(text, needle, at)) != std::string_view::npos;
       at += needle.size())
    ++count;
  return count;
}

bool is_digit(char32_t c) { return c >= '0' && c <= '9'; }
bool is_alnum(char32_t c) { return is_digit(c) || is_letter(c); }

template <bool (*predicate)(char32_t)>
Value str_all(Interpreter& jinja, const Value& self, const Args& args) {
  const Parameters p("str method", args, {});
  const std::string_view text = str(self);
  jinja.heap().spend(text.size() / 4);
  for (std::size_t at = 0; at < text.size();) {
    const Utf8Char c = decode_utf8(text, at);
    if (!predicate(c.code)) return false;
    at += c.length;
  }
  return !text.empty();
}

Value str_isupper(Interpreter& jinja, const Value& self, const Args&) {
  return find_test("upper")(jinja, self, {});
}

Value str_islower(Interpreter& jinja, const Value& self, const Args&) {
  return find_test("lower")(jinja, self, {});
}

// Sides to fill: left, right or both, as rjust, ljust and center.
template <Side side>
Value str_pad(Interpreter& jinja, const Value& self, const Args& args) {
  const Parameters p("justify", args, {"width", "fillchar"}, 1);
  const std::string_view fill = p.has(1) ? p.text(1) : " ";
  if (fill.size() != 1) fail("only one ASCII character can fill");
  const auto size = static_cast<std::int64_t>(length(str(self)));
  const std::int64_t width = std::max(p.integer(0, 0), size);
  const auto missing = static_cast<std::size_t>(width - size);
  // Where Python's center() puts the odd one.
  const std::size_t half = missing / 2 + (missing & static_cast<std::size_t>(width) & 1);
  const std::size_t left = side == Side::left ? missing : side == Side::both ? half : 0;
  Text out(jinja.heap());
  out.append(left, fill[0]);
  out.append(str(self));
  out.append(missing - left, fill[0]);
  return out.finish();
}

Value str_zfill(Interpreter& jinja, const Value& self, const Args& args) {
  const Parameters p("zfill", args, {"width"}, 1);
  std::string_view text = str(self);
  const auto size = static_cast<std::int64_t>(length(text));
  const std::int64_t width = std::max(p.integer(0, 0), size);
  Text out(jinja.heap());
  const bool sign = text.starts_with('-') || text.starts_with('+');
  out.append(text.substr(0, sign ? 1 : 0));
  out.append(static_cast<std::size_t>(width - size), '0');
  out.append(text.substr(sign ? 1 : 0));
  return out.finish();
}

Value str_format(Interpreter& jinja, const Value& self, const Args& args) {
  return brace_format(jinja.heap(), str(self), args);
}

constexpr std::array<Builtin, 35> kStringMethods = {{
    {"capitalize", str_case<Case::capitalize>},
    {"casefold", str_case<Case::lower>},
    {"center", str_pad<Side::both>},
    {"count", str_count},
    {"endswith", str_affix<true>},
    {"find", str_find<false, false>},
    {"format", str_format},
    {"index", str_find<false, true>},
    {"isalnum", str_all<is_alnum>},
    {"isalpha", str_all<is_letter>},
    {"isdecimal", str_all<is_digit>},
    {"isdigit", str_all<is_digit>},
    {"islower", str_islower},
    {"isnumeric", str_all<is_digit>},
    {"isspace", str_all<is_space>},
    {"isupper", str_isupper},
    {"join", str_join},
    {"ljust", str_pad<Side::right>},
    {"lower", str_case<Case::lower>},
    {"lstrip", str_strip<Side::left>},
    {"partition", str_partition},
    {"removeprefix", str_remove<false>},
    {"removesuffix", str_remove<true>},
    {"replace", str_replace},
    {"rfind", str_find<true, false>},
    {"rjust", str_pad<Side::left>},
    {"rsplit", str_rsplit},
    {"rstrip", str_strip<Side::right>},
    {"split", str_split},
    {"splitlines", str_splitlines},
    {"startswith", str_affix<false>},
    {"strip", str_strip<Side::both>},
    {"title", str_case<Case::title>},
    {"upper", str_case<Case::upper>},
    {"zfill", str_zfill},
}};

Value dict_get(Interpreter& jinja, const Value& self, const Args& args) {
  const Parameters p("get", args, {"key", "default"}, 1);
  const Value* found = find(jinja.heap(), *self.dict(), p.get(0));
  return found ? *found : p.get_or(1, None{});
}

template <bool keys, bool values>
Value dict_view(Interpreter& jinja, const Value& self, const Args& args) {
  const Parameters p("dict method", args, {});
  Heap& heap = jinja.heap();
  List result;
  for (const auto& [key, value] : self.dict()->entries) {
    List pair;
    if (keys && values) {
      heap.push(pair, key);
      heap.push(pair, value);
    }
    heap.push(result, keys && values ? heap.tuple(std::move(pair)) : keys ? key : value);
  }
  return heap.list(std::move(result));
}

Value dict_copy(Interpreter& jinja, const Value& self, const Args& args) {
  const Parameters p("copy", args, {});
  Dict copy;
  for (const auto& [key, value] : self.dict()->entries) {
    jinja.heap().charge(2 * sizeof(Value));
    copy.entries.emplace_back(key, value);
  }
  return jinja.heap().dict(std::move(copy));
}

constexpr std::array<Builtin, 5> kDictMethods = {{
    {"copy", dict_copy},
    {"get", dict_get},
    {"items", dict_view<true, true>},
    {"keys", dict_view<true, false>},
    {"values", dict_view<false, true>},
}};

Value list_index(Interpreter& jinja, const Value& self, const Args& args) {
  const Parameters p("index", args, {"value"}, 1);
  const List& items = *self.sequence();
  for (std::size_t i = 0; i < items.size(); ++i)
    if (equal(jinja.heap(), items[i], p.get(0))) return static_cast<std::int64_t>(i);
  fail("index() does not find the value");
}

Value list_count(Interpreter& jinja, const Value& self, const Args& args) {
  const Parameters p("count", args, {"value"}, 1);
  std::int64_t count = 0;
  for (const Value& value : *self.sequence()) count += equal(jinja.heap(), value, p.get(0)) ? 1 : 0;
  return count;
}

constexpr std::array<Builtin, 2> kListMethods = {{{"count", list_count}, {"index", list_index}}};

Value loop_cycle(Interpreter&, const Value& self, const Args& args) {
  if (args.positional.empty()) fail("loop.cycle() needs at least one value");
  return args.positional[(*self.as<Loop*>())->index % args.positional.size()];
}

Value loop_changed(Interpreter& jinja, const Value& self, const Args& args) {
  Loop& loop = **self.as<Loop*>();
  Heap& heap = jinja.heap();
  List now;
  for (const Value& value : args.positional) heap.push(now, value);
  const Value kept = heap.tuple(std::move(now));
  const bool same = loop.changed && equal(heap, kept, TupleRef{loop.changed});
  loop.changed = kept.sequence();
  return !same;
}

constexpr std::array<Builtin, 2> kLoopMethods = {
    {{"changed", loop_changed}, {"cycle", loop_cycle}}};

}  // namespace

Native find_method(const Value& object, std::string_view name) {
  if (object.is_string()) return find_builtin(kStringMethods, name);
  if (object.dict()) return find_builtin(kDictMethods, name);
  if (object.sequence()) return find_builtin(kListMethods, name);
  if (object.is<Loop*>()) return find_builtin(kLoopMethods, name);
  return nullptr;
}

}  // namespace tenfold::jinja
