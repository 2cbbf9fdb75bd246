#include "runtime/jinja/builtins.h"

#include <algorithm>
#include <array>
#include <ctime>

#include "kernels/error.h"
#include "runtime/jinja/eval.h"
#include "runtime/jinja/ops.h"
#include "runtime/utf8.h"

namespace tenfold::jinja {

Parameters::Parameters(std::string_view function, const Args& args,
                       std::initializer_list<std::string_view> names, std::size_t required)
    : function_(function), names_(names), values_(names.size(), nullptr) {
  if (args.positional.size() > names_.size())
    fail("{}() takes at most {} arguments, found {}", function, names_.size(),
         args.positional.size());
  for (std::size_t i = 0; i < args.positional.size(); ++i) values_[i] = &args.positional[i];
  for (const auto& [name, value] : args.named) {
    const auto at = std::find(names_.begin(), names_.end(), name);
    if (at == names_.end()) fail("{}() has no parameter '{}'", function, name);
    const Value*& slot = values_[static_cast<std::size_t>(at - names_.begin())];
    if (slot) fail("{}() got '{}' twice", function, name);
    slot = &value;
  }
  for (std::size_t i = 0; i < required; ++i)
    if (!values_[i]) fail("{}() needs '{}'", function, names_[i]);
}

bool Parameters::flag(std::size_t i, bool fallback) const {
  return has(i) ? truthy(get(i)) : fallback;
}

std::int64_t Parameters::integer(std::size_t i, std::int64_t fallback) const {
  if (!has(i) || get(i).is<None>()) return fallback;
  std::int64_t value = 0;
  if (!get(i).integer(value))
    fail("{}() needs an integer for '{}', found '{}'", function_, names_[i], type_name(get(i)));
  return value;
}

std::string_view Parameters::text(std::size_t i) const {
  const auto* text = get(i).as<std::string_view>();
  if (!text)
    fail("{}() needs a string for '{}', found '{}'", function_, names_[i], type_name(get(i)));
  return *text;
}

std::optional<std::string_view> Parameters::optional_text(std::size_t i) const {
  if (!has(i) || get(i).is<None>()) return std::nullopt;
  return text(i);
}

namespace {

constexpr std::int64_t kMaxRange = 100'000;  // as Jinja2's sandbox

Value global_range(Interpreter& jinja, const Value&, const Args& args) {
  const Parameters p("range", args, {"start", "stop", "step"}, 1);
  const std::int64_t first = p.integer(0, 0), second = p.integer(1, 0), step = p.integer(2, 1);
  const std::int64_t begin = p.has(1) ? first : 0, end = p.has(1) ? second : first;
  if (step == 0) fail("range() needs a step other than 0");
  List items;
  for (std::int64_t i = begin; step > 0 ? i < end : i > end;) {
    if (items.size() >= kMaxRange) fail("range() makes more than {} items", kMaxRange);
    jinja.heap().push(items, i);
    if (__builtin_add_overflow(i, step, &i)) break;
  }
  return jinja.heap().list(std::move(items));
}

// From a mapping or pairs, and keyword arguments.
void fill(Heap& heap, Dict& dict, std::string_view function, const Args& args) {
  if (args.positional.size() > 1) fail("{}() takes at most 1 argument", function);
  if (!args.positional.empty()) {
    const Value& source = args.positional[0];
    if (const Dict* other = source.dict()) {
      for (const auto& [key, value] : other->entries) assign(heap, dict, key, value);
    } else {
      for (const Value& pair : items_of(heap, source)) {
        const List& parts = items_of(heap, pair);
        if (parts.size() != 2) fail("{}() needs pairs, found {} items", function, parts.size());
        assign(heap, dict, parts[0], parts[1]);
      }
    }
  }
  for (const auto& [name, value] : args.named) assign(heap, dict, name, value);
}

Value global_dict(Interpreter& jinja, const Value&, const Args& args) {
  Dict dict;
  fill(jinja.heap(), dict, "dict", args);
  return jinja.heap().dict(std::move(dict));
}

Value global_namespace(Interpreter& jinja, const Value&, const Args& args) {
  Namespace* space = jinja.heap().make_namespace();
  fill(jinja.heap(), space->variables, "namespace", args);
  return space;
}

Value global_raise_exception(Interpreter& jinja, const Value&, const Args& args) {
  const Parameters p("raise_exception", args, {"message"}, 1);
  throw Error(ErrorCode::bad_request, std::string(to_str(jinja.heap(), p.get(0))));
}

Value global_strftime_now(Interpreter& jinja, const Value&, const Args& args) {
  const Parameters p("strftime_now", args, {"format"}, 1);
  const std::string format(p.text(0));
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  std::array<char, 512> buffer;
  const std::size_t size = std::strftime(buffer.data(), buffer.size(), format.c_str(), &local);
  return jinja.heap().text(sanitize_utf8(std::string_view(buffer.data(), size)));
}

constexpr std::array<Builtin, 5> kGlobals = {{
    {"dict", global_dict},
    {"namespace", global_namespace},
    {"raise_exception", global_raise_exception},
    {"range", global_range},
    {"strftime_now", global_strftime_now},
}};

}  // namespace

Native find_builtin(std::span<const Builtin> table, std::string_view name) {
  const auto found = std::find_if(table.begin(), table.end(),
                                  [name](const Builtin& entry) { return entry.name == name; });
  return found == table.end() ? nullptr : found->native;
}

Native find_global(std::string_view name) { return find_builtin(kGlobals, name); }

Native find_filter(std::string_view name) {
  for (const auto table : {text_filters(), number_filters(), list_filters()})
    if (const Native native = find_builtin(table, name)) return native;
  return nullptr;
}

}  // namespace tenfold::jinja
