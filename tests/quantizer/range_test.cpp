// Properties of group grids at every width, min kind and range.

#include "quantizer/range.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "kernels/half.h"
#include "tests/support/random.h"

namespace tenfold {
namespace {

constexpr int kWidths[] = {1, 2, 3, 4, 8};
constexpr MinKind kMinKinds[] = {MinKind::zero, MinKind::midrise, MinKind::f16};

// Bell-shaped, one-sided, with an outlier, constant, zero, tiny, and short groups.
std::vector<std::vector<float>> groups() {
  std::vector<std::vector<float>> list;
  for (const std::size_t n : {1, 5, 32, 128, 576}) {
    std::vector<float> bell(n);
    for (std::uint32_t k = 0; k < 8; ++k) {
      const auto part = random_floats(n, 10 * static_cast<std::uint32_t>(n) + k, 0.02f);
      for (std::size_t i = 0; i < n; ++i) bell[i] += part[i];
    }
    list.push_back(bell);
    for (float& w : bell) w = std::fabs(w) + 0.01f;
    list.push_back(bell);
    for (float& w : bell) w = -w;
    bell[n / 2] = 3.0f;
    list.push_back(bell);
  }
  list.emplace_back(64, 0.0f);
  list.emplace_back(64, -0.37f);
  list.push_back(random_floats(64, 1, 1e-7f));
  list.push_back(random_floats(64, 2, 1e5f));
  return list;
}

double error_of(const std::vector<float>& weights, const Grid& grid, int bits) {
  std::vector<std::uint8_t> codes(weights.size());
  encode_group(weights, grid, bits, codes.data());
  double sum = 0;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    EXPECT_LT(codes[i], 1 << bits);
    const double value = static_cast<double>(grid.scale) * codes[i] + grid.min;
    sum += (weights[i] - value) * (weights[i] - value);
  }
  return sum;
}

template <typename Check>
void for_each_case(Check check) {
  for (const int bits : kWidths) {
    for (const MinKind kind : kMinKinds) {
      for (const RangeKind range : {RangeKind::minmax, RangeKind::mse}) {
        int index = 0;
        for (const auto& weights : groups()) {
          SCOPED_TRACE(::testing::Message()
                       << bits << " bits, min kind " << static_cast<int>(kind) << ", range "
                       << static_cast<int>(range) << ", group " << index++);
          check(weights, GridKind{bits, kind, range});
        }
      }
    }
  }
}

TEST(Range, GridsAreWhatTheFileHolds) {
  for_each_case([](const std::vector<float>& weights, const GridKind& kind) {
    const Grid grid = fit_group(weights, kind);
    EXPECT_GE(grid.scale, 0.0f);
    EXPECT_EQ(grid.scale, f16_to_f32(grid.scale_bits));
    const float top = static_cast<float>((1 << kind.bits) - 1);
    float min = f16_to_f32(grid.min_bits);
    if (kind.min_kind == MinKind::midrise) min = -grid.scale * (top * 0.5f);
    if (kind.min_kind == MinKind::zero) {
      EXPECT_LE(static_cast<float>(grid.min_bits), top);
      min = -grid.scale * static_cast<float>(grid.min_bits);
    }
    EXPECT_EQ(grid.min, min);
    // Squares of single-precision differences, summed in another order.
    const double exact = error_of(weights, grid, kind.bits);
    double squares = 0;
    for (const float w : weights) squares += static_cast<double>(w) * w;
    EXPECT_NEAR(grid.error, exact, 1e-5 * exact + 1e-12 * squares);
  });
}

TEST(Range, ErrorsInsideTheRangeAreHalfAStepAtMost) {
  for_each_case([](const std::vector<float>& weights, const GridKind& kind) {
    const Grid grid = fit_group(weights, kind);
    std::vector<std::uint8_t> codes(weights.size());
    encode_group(weights, grid, kind.bits, codes.data());
    const float end = grid.min + grid.scale * static_cast<float>((1 << kind.bits) - 1);
    for (std::size_t i = 0; i < weights.size(); ++i) {
      if (weights[i] < grid.min || weights[i] > end) continue;
      const float value = grid.scale * codes[i] + grid.min;
      ASSERT_LE(std::fabs(weights[i] - value), 0.5f * grid.scale * (1 + 1e-5f) + 1e-12f);
    }
  });
}

TEST(Range, MinmaxHoldsEveryWeight) {
  for_each_case([](const std::vector<float>& weights, const GridKind& kind) {
    if (kind.range != RangeKind::minmax || kind.bits == 1) return;
    const Grid grid = fit_group(weights, kind);
    const float top = static_cast<float>((1 << kind.bits) - 1);
    const float end = grid.min + grid.scale * top;
    // Rounding of scale (and min) to f16, half a step for an integer zero point, f16's limits.
    const float rounding = (top * grid.scale + std::fabs(grid.min)) * 0x1p-10f + 2 * 0x1p-24f * top;
    const float slack = rounding + (kind.min_kind == MinKind::zero ? 0.5f * grid.scale : 0.0f);
    const auto [low, high] = std::minmax_element(weights.begin(), weights.end());
    if (grid.scale_bits == 0x7bff || std::fabs(*low) > 65504.0f) return;
    EXPECT_LE(grid.min, *low + slack);
    EXPECT_GE(end, *high - slack);
  });
}

TEST(Range, MseIsNeverWorseThanMinmax) {
  for_each_case([](const std::vector<float>& weights, const GridKind& kind) {
    if (kind.range != RangeKind::mse) return;
    const Grid minmax = fit_group(weights, {kind.bits, kind.min_kind, RangeKind::minmax});
    EXPECT_LE(fit_group(weights, kind).error, minmax.error);
  });
}

TEST(Range, ZeroRangesIncludeZero) {
  const std::vector<float> positive = {1.0f, 2.0f, 3.0f, 4.0f};
  const Grid low = fit_group(positive, {4, MinKind::zero, RangeKind::minmax});
  EXPECT_EQ(low.min_bits, 0);
  const std::vector<float> negative = {-1.0f, -2.0f, -3.0f, -4.0f};
  const Grid high = fit_group(negative, {4, MinKind::zero, RangeKind::minmax});
  EXPECT_EQ(high.min_bits, 15);
}

// Values that lie on a grid with an f16 scale are kept.
TEST(Range, GridValuesAreExact) {
  for (const int bits : {2, 3, 4, 8}) {
    for (const MinKind kind : kMinKinds) {
      for (const RangeKind range : {RangeKind::minmax, RangeKind::mse}) {
        const int top = (1 << bits) - 1;
        const float min = kind == MinKind::midrise ? -0.25f * static_cast<float>(top) * 0.5f
                                                   : -0.25f * static_cast<float>(top / 3);
        std::vector<float> weights;
        for (int code = 0; code <= top; ++code) {
          weights.push_back(0.25f * static_cast<float>(code) + min);
        }
        EXPECT_EQ(fit_group(weights, {bits, kind, range}).error, 0.0)
            << bits << " bits, min kind " << static_cast<int>(kind);
      }
    }
  }
}

TEST(Range, OneBitLevelsStandWithinTheHalves) {
  const std::vector<float> weights = {-1.0f, -0.5f, 0.5f, 3.0f};
  const Grid f16 = fit_group(weights, {1, MinKind::f16, RangeKind::minmax});
  EXPECT_EQ(f16.min, 0.0f);
  EXPECT_EQ(f16.scale, 2.0f);
  const Grid midrise = fit_group(weights, {1, MinKind::midrise, RangeKind::minmax});
  EXPECT_EQ(midrise.min, -1.5f);
  EXPECT_EQ(midrise.scale, 3.0f);
}

TEST(Range, OneBitMseIsAtLeastTheBinarization) {
  for (const auto& weights : groups()) {
    double mean = 0;
    for (const float w : weights) mean += w;
    mean /= static_cast<double>(weights.size());
    double deviation = 0;
    for (const float w : weights) deviation += std::fabs(w - mean);
    deviation /= static_cast<double>(weights.size());
    double error = 0;
    double squares = 0;
    for (const float w : weights) {
      const double value = w < mean ? mean - deviation : mean + deviation;
      error += (w - value) * (w - value);
      squares += static_cast<double>(w) * w;
    }
    if (squares > 1e8 || squares < 1e-9) continue;  // beyond f16 and below it
    // The two levels are rounded to f16: 2^-11 of each.
    const Grid grid = fit_group(weights, {1, MinKind::f16, RangeKind::mse});
    EXPECT_LE(std::sqrt(grid.error), std::sqrt(error) + 0x1p-10 * std::sqrt(squares));
  }
}

}  // namespace
}  // namespace tenfold
