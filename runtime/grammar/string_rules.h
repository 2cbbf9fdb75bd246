#pragma once
// JSON strings whose decoded text has a length, a pattern or a format.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "runtime/grammar/json_rules.h"

namespace tenfold {

struct StringLimits {
  std::uint64_t min_length = 0;  // characters (code points)
  std::optional<std::uint64_t> max_length;
  std::optional<std::string> pattern;  // regex.h; found anywhere where it is not anchored
  std::optional<std::string> format;   // date, time, date-time, uuid, ipv4, email
};

// The strings (free without pattern and format, else canonical) within the limits; a max_length
// above kMaxRepetitions becomes that. Throws bad_request, beginning with `where`, for other
// formats, for pattern and format together, and where a pattern's own length is not within the
// limits and it is more than one repeated class.
GrammarBuilder::Expr string_within(JsonRules& rules, const StringLimits& limits,
                                   std::string_view where);

}  // namespace tenfold
