// Filters that make numbers.

#include <charconv>
#include <cmath>
#include <string>

#include "runtime/jinja/builtins.h"
#include "runtime/jinja/eval.h"
#include "runtime/jinja/ops.h"
#include "runtime/jinja/text.h"

namespace tenfold::jinja {
namespace {

std::optional<std::int64_t> parse_int(std::string_view text, std::int64_t base) {
  text = strip(text, std::nullopt, Side::both);
  const bool negative = text.starts_with('-');
  if (negative || text.starts_with('+')) text.remove_prefix(1);
  const char letter = base == 16 ? 'x' : base == 8 ? 'o' : base == 2 ? 'b' : '\0';
  if (letter && text.size() > 2 && text[0] == '0' && (text[1] | 0x20) == letter)
    text.remove_prefix(2);
  if (text.starts_with('-') || base < 2 || base > 36) return std::nullopt;
  const std::string signed_text = (negative ? "-" : "") + std::string(text);
  std::int64_t value = 0;
  const char* end = signed_text.data() + signed_text.size();
  const auto result = std::from_chars(signed_text.data(), end, value, static_cast<int>(base));
  if (result.ec != std::errc() || result.ptr != end) return std::nullopt;
  return value;
}

std::optional<double> parse_float(std::string_view text) {
  text = strip(text, std::nullopt, Side::both);
  if (text.starts_with('+')) text.remove_prefix(1);
  if (text.starts_with('+')) return std::nullopt;
  double value = 0;
  const auto result = std::from_chars(text.data(), text.data() + text.size(), value);
  if (result.ec != std::errc() || result.ptr != text.data() + text.size()) return std::nullopt;
  return value;
}

std::optional<std::int64_t> truncated(double value) {
  if (!(value > -9.2e18 && value < 9.2e18)) return std::nullopt;
  return static_cast<std::int64_t>(value);
}

Value filter_int(Interpreter& jinja, const Value& input, const Args& args) {
  const Parameters p("int", args, {"default", "base"});
  const Value fallback = p.get_or(0, std::int64_t{0});
  std::int64_t integer = 0;
  if (input.integer(integer)) return integer;
  if (const auto* u = input.as<Undefined>()) throw Failure(undefined_message(*u));
  std::optional<std::int64_t> result;
  if (const auto* number = input.as<double>()) {
    result = truncated(*number);
  } else if (const auto* text = input.as<std::string_view>()) {
    jinja.heap().spend(text->size() / 4);
    result = parse_int(*text, p.integer(1, 10));
    if (const auto parsed = parse_float(*text); !result && parsed) result = truncated(*parsed);
  }
  return result ? Value(*result) : fallback;
}

Value filter_float(Interpreter& jinja, const Value& input, const Args& args) {
  const Parameters p("float", args, {"default"});
  if (input.is_number()) return to_double(input);
  if (const auto* u = input.as<Undefined>()) throw Failure(undefined_message(*u));
  std::optional<double> result;
  if (const auto* text = input.as<std::string_view>()) {
    jinja.heap().spend(text->size() / 4);
    result = parse_float(*text);
  }
  return result ? Value(*result) : p.get_or(0, 0.0);
}

Value filter_abs(Interpreter&, const Value& input, const Args& args) {
  const Parameters p("abs", args, {});
  if (const auto* number = input.as<double>()) return std::fabs(*number);
  std::int64_t integer = 0;
  if (input.integer(integer)) return integer < 0 ? apply_unary(Op::negate, integer) : integer;
  return to_double(input);
}

Value filter_round(Interpreter&, const Value& input, const Args& args) {
  const Parameters p("round", args, {"precision", "method"});
  const std::int64_t precision = p.integer(0, 0);
  const std::string_view method = p.has(1) ? p.text(1) : "common";
  if (precision < -300 || precision > 300) fail("round() to {} digits is not supported", precision);
  const double number = to_double(input);
  if (!std::isfinite(number)) return number;
  const double scale = std::pow(10.0, static_cast<double>(precision));
  if (method == "ceil") return std::ceil(number * scale) / scale;
  if (method == "floor") return std::floor(number * scale) / scale;
  if (method != "common") fail("round() knows common, ceil and floor, found '{}'", method);
  std::int64_t integer = 0;
  if (precision >= 0 && input.integer(integer)) return integer;  // as Python's round()
  if (precision < 0) {
    const double rounded = std::nearbyint(number * scale) / scale;
    return input.integer(integer) ? Value(static_cast<std::int64_t>(rounded)) : Value(rounded);
  }
  // Decimal rounding of the exact value, which printing does and scaling would not.
  return parse_float(fmt::format("{:.{}f}", number, precision)).value_or(number);
}

Value filter_length(Interpreter& jinja, const Value& input, const Args& args) {
  const Parameters p("length", args, {});
  return static_cast<std::int64_t>(size_of(jinja.heap(), input));
}

constexpr std::array<Builtin, 6> kFilters = {{
    {"abs", filter_abs},
    {"count", filter_length},
    {"float", filter_float},
    {"int", filter_int},
    {"length", filter_length},
    {"round", filter_round},
}};

}  // namespace

std::span<const Builtin> number_filters() { return kFilters; }

}  // namespace tenfold::jinja
