#pragma once
// minimum, maximum, exclusiveMinimum and exclusiveMaximum of a schema for integers.

#include <cstdint>
#include <optional>
#include <string>

#include "runtime/grammar/schema_keywords.h"

namespace tenfold {

struct IntegerBounds {
  std::int64_t low, high;  // inclusive
};

// nullopt: none is given. A side that is not given is 18 digits wide, or reaches to the end of 64
// bits where the other is beyond that. Throws bad_request where there is no such integer of 64
// bits.
std::optional<IntegerBounds> integer_bounds(const OrderedJson& flat, const std::string& path);

}  // namespace tenfold
