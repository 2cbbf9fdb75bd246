#include "runtime/grammar/integer_range.h"

#include <gtest/gtest.h>

#include <limits>
#include <nlohmann/json.hpp>
#include <random>

#include "runtime/grammar/json_schema.h"
#include "runtime/grammar/matcher.h"
#include "tests/support/expect_error.h"

namespace tenfold {
namespace {

using testing::expect_error;

constexpr std::int64_t kLowest = std::numeric_limits<std::int64_t>::min();
constexpr std::int64_t kHighest = std::numeric_limits<std::int64_t>::max();

GrammarMatcher range_matcher(std::int64_t low, std::int64_t high) {
  GrammarBuilder b;
  const auto root = b.declare("root");
  b.define(root, integer_range(b, low, high));
  return GrammarMatcher(b.build(root));
}

bool matches(const GrammarMatcher& matcher, const std::string& text) {
  if (!matcher.accepts(text)) return false;
  GrammarMatcher end = matcher;
  end.advance(text);
  return end.at_end();
}

TEST(IntegerRange, EverySmallRange) {
  for (std::int64_t low = -125; low <= 125; low += 1 + (low + 125) % 3) {
    for (std::int64_t high = low; high <= 125; high += 1 + (high + 125) % 7) {
      const GrammarMatcher matcher = range_matcher(low, high);
      for (std::int64_t n = -135; n <= 135; ++n) {
        ASSERT_EQ(matches(matcher, std::to_string(n)), n >= low && n <= high)
            << n << " in " << low << ".." << high;
      }
      for (const char* text : {"", "-", "-0", "00", "01", "+1", "1.0", "1e1", " 1"}) {
        ASSERT_FALSE(matches(matcher, text)) << text;
      }
    }
  }
}

TEST(IntegerRange, BoundariesOfLargeOnes) {
  std::mt19937_64 rng(5);
  std::vector<std::int64_t> points = {kLowest, kLowest + 1, -1, 0, 1, kHighest - 1, kHighest};
  for (int i = 0; i < 60; ++i) points.push_back(static_cast<std::int64_t>(rng()) >> (rng() % 62));
  for (const std::int64_t low : points) {
    for (const std::int64_t high : points) {
      if (low > high) continue;
      const GrammarMatcher matcher = range_matcher(low, high);
      for (const std::int64_t at : {low, high}) {
        for (const std::int64_t step : {-1000, -1, 0, 1, 1000}) {
          std::int64_t n = 0;
          if (__builtin_add_overflow(at, step, &n)) continue;
          ASSERT_EQ(matches(matcher, std::to_string(n)), n >= low && n <= high)
              << n << " in " << low << ".." << high;
        }
      }
    }
  }
  EXPECT_FALSE(matches(range_matcher(kLowest, kHighest), "9223372036854775808"));
  EXPECT_FALSE(matches(range_matcher(kLowest, kHighest), "-9223372036854775809"));
}

TEST(IntegerRange, RefusesAnEmptyOne) {
  EXPECT_EQ(expect_error(ErrorCode::bad_request, [] { range_matcher(2, 1); }),
            "there is no integer from 2 to 1");
}

// The keywords, against their definition.
TEST(IntegerRange, KeywordsOfASchema) {
  const char* bounds[] = {"-3", "0", "4", "2.5", "-2.5", "12.0", "null"};
  for (const std::string minimum : bounds) {
    for (const std::string maximum : bounds) {
      for (int exclusive = 0; exclusive < 4; ++exclusive) {
        nlohmann::ordered_json schema = {{"type", "integer"}};
        const auto low = nlohmann::ordered_json::parse(minimum);
        const auto high = nlohmann::ordered_json::parse(maximum);
        if (!low.is_null()) schema[exclusive % 2 != 0 ? "exclusiveMinimum" : "minimum"] = low;
        if (!high.is_null()) schema[exclusive / 2 != 0 ? "exclusiveMaximum" : "maximum"] = high;
        std::vector<int> expected, found;
        for (int n = -20; n <= 20; ++n) {
          const bool above = low.is_null() ||
                             (exclusive % 2 != 0 ? n > low.get<double>() : n >= low.get<double>());
          const bool below = high.is_null() || (exclusive / 2 != 0 ? n < high.get<double>()
                                                                   : n <= high.get<double>());
          if (above && below) expected.push_back(n);
        }
        if (expected.empty()) {
          EXPECT_EQ(expect_error(ErrorCode::bad_request, [&] { json_schema_grammar(schema); }),
                    "JSON schema, \"#\": no integer of 64 bits is within its minimum and maximum");
          continue;
        }
        const GrammarMatcher matcher(json_schema_grammar(schema));
        for (int n = -20; n <= 20; ++n) {
          if (matches(matcher, std::to_string(n))) found.push_back(n);
        }
        EXPECT_EQ(found, expected) << schema;
      }
    }
  }
}

TEST(IntegerRange, KeywordsAtTheEndsOf64Bits) {
  const auto grammar = [](const char* schema) {
    return GrammarMatcher(json_schema_grammar(nlohmann::ordered_json::parse(schema)));
  };
  EXPECT_TRUE(matches(grammar(R"({"type": "integer", "minimum": 9223372036854775807})"),
                      "9223372036854775807"));
  EXPECT_TRUE(matches(grammar(R"({"type": "integer", "maximum": -9223372036854775808})"),
                      "-9223372036854775808"));
  EXPECT_TRUE(matches(grammar(R"({"type": "integer", "maximum": 18446744073709551615})"), "12"));
  EXPECT_TRUE(
      matches(grammar(R"({"type": "integer", "maximum": 1e300, "minimum": -1e300})"), "12"));
  for (const char* schema : {R"({"type": "integer", "minimum": 9223372036854775808})",
                             R"({"type": "integer", "exclusiveMinimum": 9223372036854775807})",
                             R"({"type": "integer", "exclusiveMaximum": -9223372036854775808})",
                             R"({"type": "integer", "maximum": -1e300})"}) {
    expect_error(ErrorCode::bad_request, [&] { grammar(schema); });
  }
}

}  // namespace
}  // namespace tenfold
