// What may follow `is`.

#include "runtime/jinja/builtins.h"
#include "runtime/jinja/eval.h"
#include "runtime/jinja/ops.h"
#include "runtime/jinja/text.h"

namespace tenfold::jinja {
namespace {

template <bool (*predicate)(const Value&)>
Value simple(Interpreter&, const Value& value, const Args& args) {
  const Parameters p("test", args, {});
  return predicate(value);
}

bool is_defined(const Value& v) { return !v.is<Undefined>(); }
bool is_undefined(const Value& v) { return v.is<Undefined>(); }
bool is_none(const Value& v) { return v.is<None>(); }
bool is_boolean(const Value& v) { return v.is<bool>(); }
bool is_true(const Value& v) { return v.is<bool>() && *v.as<bool>(); }
bool is_false(const Value& v) { return v.is<bool>() && !*v.as<bool>(); }
bool is_integer(const Value& v) { return v.is<std::int64_t>(); }
bool is_float(const Value& v) { return v.is<double>(); }
bool is_number(const Value& v) { return v.is_number(); }
bool is_string(const Value& v) { return v.is_string(); }
bool is_mapping(const Value& v) { return v.dict() != nullptr; }
bool is_iterable(const Value& v) {
  return v.sequence() || v.dict() || v.is_string() || v.is<Undefined>() || v.is<Loop*>();
}
bool is_sequence(const Value& v) {
  return v.sequence() || v.dict() || v.is_string() || v.is<Undefined>();
}
bool is_callable(const Value& v) { return v.is<const Function*>(); }
bool is_filter(const Value& v) {
  return v.is_string() && find_filter(*v.as<std::string_view>()) != nullptr;
}
bool is_test(const Value& v) {
  return v.is_string() && find_test(*v.as<std::string_view>()) != nullptr;
}

// Modulo in Python's sense; Undefined and other types fail.
Value modulo(Interpreter& jinja, const Value& value, const Value& by) {
  if (value.is_string()) fail("a number was expected, found 'str'");
  return apply_binary(jinja.heap(), Op::modulo, value, by);
}

Value test_even(Interpreter& jinja, const Value& value, const Args&) {
  return to_double(modulo(jinja, value, std::int64_t{2})) == 0;
}

Value test_odd(Interpreter& jinja, const Value& value, const Args&) {
  return to_double(modulo(jinja, value, std::int64_t{2})) == 1;
}

Value test_divisibleby(Interpreter& jinja, const Value& value, const Args& args) {
  const Parameters p("divisibleby", args, {"num"}, 1);
  return to_double(modulo(jinja, value, p.get(0))) == 0;
}

template <Op op>
Value test_compare(Interpreter& jinja, const Value& value, const Args& args) {
  const Parameters p("test", args, {"other"}, 1);
  return compare(jinja.heap(), op, value, p.get(0));
}

// Identity. Numbers and strings have none that a template could rely on, so they compare.
Value test_sameas(Interpreter& jinja, const Value& value, const Args& args) {
  const Parameters p("sameas", args, {"other"}, 1);
  const Value& other = p.get(0);
  if (value.sequence()) return value.sequence() == other.sequence();
  if (value.dict()) return value.dict() == other.dict();
  return type_name(value) == type_name(other) && equal(jinja.heap(), value, other);
}

template <Case how>
Value test_case(Interpreter& jinja, const Value& value, const Args& args) {
  const Parameters p("test", args, {});
  const std::string_view text = to_str(jinja.heap(), value);
  const std::string_view other =
      change_case(jinja.heap(), text, how == Case::upper ? Case::lower : Case::upper);
  return text == change_case(jinja.heap(), text, how) && text != other;
}

constexpr std::array<Builtin, 38> kTests = {{
    {"!=", test_compare<Op::not_equal>},
    {"<", test_compare<Op::less>},
    {"<=", test_compare<Op::less_equal>},
    {"==", test_compare<Op::equal>},
    {">", test_compare<Op::greater>},
    {">=", test_compare<Op::greater_equal>},
    {"boolean", simple<is_boolean>},
    {"callable", simple<is_callable>},
    {"defined", simple<is_defined>},
    {"divisibleby", test_divisibleby},
    {"eq", test_compare<Op::equal>},
    {"equalto", test_compare<Op::equal>},
    {"even", test_even},
    {"false", simple<is_false>},
    {"filter", simple<is_filter>},
    {"float", simple<is_float>},
    {"ge", test_compare<Op::greater_equal>},
    {"greaterthan", test_compare<Op::greater>},
    {"gt", test_compare<Op::greater>},
    {"in", test_compare<Op::in>},
    {"integer", simple<is_integer>},
    {"iterable", simple<is_iterable>},
    {"le", test_compare<Op::less_equal>},
    {"lessthan", test_compare<Op::less>},
    {"lower", test_case<Case::lower>},
    {"lt", test_compare<Op::less>},
    {"mapping", simple<is_mapping>},
    {"ne", test_compare<Op::not_equal>},
    {"none", simple<is_none>},
    {"number", simple<is_number>},
    {"odd", test_odd},
    {"sameas", test_sameas},
    {"sequence", simple<is_sequence>},
    {"string", simple<is_string>},
    {"test", simple<is_test>},
    {"true", simple<is_true>},
    {"undefined", simple<is_undefined>},
    {"upper", test_case<Case::upper>},
}};

}  // namespace

Native find_test(std::string_view name) { return find_builtin(kTests, name); }

}  // namespace tenfold::jinja
