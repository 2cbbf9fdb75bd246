#include "runtime/grammar/integer_range.h"

#include <algorithm>
#include <string>

#include "kernels/error.h"

namespace tenfold {
namespace {

using Expr = GrammarBuilder::Expr;

Expr digit(GrammarBuilder& b, char first, char last) {
  return b.character(CodePointSet({{static_cast<char32_t>(first), static_cast<char32_t>(last)}}));
}

Expr any_digits(GrammarBuilder& b, std::size_t n) {
  const auto count = static_cast<std::uint32_t>(n);
  return b.repeat(digit(b, '0', '9'), count, count);
}

// Texts of as many digits as `low` and `high` have, between them.
Expr same_length(GrammarBuilder& b, std::string_view low, std::string_view high) {
  std::size_t common = 0;
  while (common < low.size() && low[common] == high[common]) ++common;
  const Expr prefix = b.literal(low.substr(0, common));
  if (common == low.size()) return prefix;
  const char first = low[common], last = high[common];
  low.remove_prefix(common + 1);
  high.remove_prefix(common + 1);
  const std::size_t n = low.size();
  const bool from_zeros = low.find_first_not_of('0') == std::string_view::npos;
  const bool to_nines = high.find_first_not_of('9') == std::string_view::npos;
  const char middle_first = static_cast<char>(from_zeros ? first : first + 1);
  const char middle_last = static_cast<char>(to_nines ? last : last - 1);
  std::vector<Expr> parts;
  if (!from_zeros) {
    parts.push_back(b.sequence({digit(b, first, first), same_length(b, low, std::string(n, '9'))}));
  }
  if (middle_first <= middle_last) {
    parts.push_back(b.sequence({digit(b, middle_first, middle_last), any_digits(b, n)}));
  }
  if (!to_nines) {
    parts.push_back(b.sequence({digit(b, last, last), same_length(b, std::string(n, '0'), high)}));
  }
  return b.sequence({prefix, b.choice(parts)});
}

Expr natural_range(GrammarBuilder& b, std::uint64_t low, std::uint64_t high) {
  const std::string first = std::to_string(low), last = std::to_string(high);
  std::vector<Expr> parts;
  for (std::size_t n = first.size(); n <= last.size(); ++n) {
    const std::string from = n == first.size() ? first : "1" + std::string(n - 1, '0');
    const std::string to = n == last.size() ? last : std::string(n, '9');
    parts.push_back(same_length(b, from, to));
  }
  return b.choice(parts);
}

std::uint64_t magnitude(std::int64_t negative) { return 0 - static_cast<std::uint64_t>(negative); }

}  // namespace

Expr integer_range(GrammarBuilder& b, std::int64_t low, std::int64_t high) {
  if (low > high) {
    throw_error(ErrorCode::bad_request, "there is no integer from {} to {}", low, high);
  }
  std::vector<Expr> parts;
  if (low < 0) {
    const std::uint64_t nearest = high < 0 ? magnitude(high) : 1;
    parts.push_back(b.sequence({b.literal("-"), natural_range(b, nearest, magnitude(low))}));
  }
  if (high >= 0) {
    parts.push_back(natural_range(b, static_cast<std::uint64_t>(std::max<std::int64_t>(low, 0)),
                                  static_cast<std::uint64_t>(high)));
  }
  return b.choice(parts);
}

}  // namespace tenfold
