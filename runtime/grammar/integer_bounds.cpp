#include "runtime/grammar/integer_bounds.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace tenfold {
namespace {

constexpr std::int64_t kLowest = std::numeric_limits<std::int64_t>::min();
constexpr std::int64_t kHighest = std::numeric_limits<std::int64_t>::max();
constexpr std::int64_t kWidest = 999'999'999'999'999'999;

enum class Round { up, down };

struct Rounded {
  std::int64_t value;
  bool exact;         // the bound itself
  bool above, below;  // of 64 bits; the value is then the nearest
};

Rounded rounded(const OrderedJson& bound, Round round) {
  if (bound.is_number_unsigned() &&
      bound.get<std::uint64_t>() > static_cast<std::uint64_t>(kHighest)) {
    return {kHighest, false, true, false};
  }
  if (bound.is_number_integer()) return {bound.get<std::int64_t>(), true, false, false};
  const double exact = bound.get<double>();
  const double whole = round == Round::up ? std::ceil(exact) : std::floor(exact);
  if (whole >= 0x1p63) return {kHighest, false, true, false};
  if (whole < -0x1p63) return {kLowest, false, false, true};
  return {static_cast<std::int64_t>(whole), whole == exact, false, false};
}

}  // namespace

std::optional<IntegerBounds> integer_bounds(const OrderedJson& flat, const std::string& path) {
  std::optional<std::int64_t> low, high;
  bool none = false;
  const auto each = [&](const char* keyword, auto use) {
    const auto found = flat.find(keyword);
    if (found != flat.end()) use(*found);
  };
  const auto raise = [&](const OrderedJson& bound, bool exclusive) {
    const Rounded r = rounded(bound, Round::up);
    const bool next = exclusive && r.exact;
    none = none || r.above || (next && r.value == kHighest);
    if (!none) low = std::max(low.value_or(kLowest), next ? r.value + 1 : r.value);
  };
  const auto lower = [&](const OrderedJson& bound, bool exclusive) {
    const Rounded r = rounded(bound, Round::down);
    const bool next = exclusive && r.exact;
    none = none || r.below || (next && r.value == kLowest);
    if (!none) high = std::min(high.value_or(kHighest), next ? r.value - 1 : r.value);
  };
  each("minimum", [&](const OrderedJson& bound) { raise(bound, false); });
  each("exclusiveMinimum", [&](const OrderedJson& bound) { raise(bound, true); });
  each("maximum", [&](const OrderedJson& bound) { lower(bound, false); });
  each("exclusiveMaximum", [&](const OrderedJson& bound) { lower(bound, true); });
  if (!low && !high && !none) return std::nullopt;
  if (none || (low && high && *low > *high)) {
    refuse_schema(path, "no integer of 64 bits is within its minimum and maximum");
  }
  if (!low) low = *high < -kWidest ? kLowest : -kWidest;
  if (!high) high = *low > kWidest ? kHighest : kWidest;
  return IntegerBounds{*low, *high};
}

}  // namespace tenfold
