#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "kernels/cpu/isa.h"
#include "tests/support/random.h"

namespace tenfold {
namespace {

constexpr std::int64_t kLengths[] = {0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 64, 127, 128, 575};

class LoopsTest : public ::testing::TestWithParam<const Loops*> {
 protected:
  const Loops& loops() const { return *GetParam(); }
  const Loops& baseline() const { return baseline_loops(); }
};

std::vector<float> floats(std::int64_t n, std::uint32_t seed) {
  return random_floats(static_cast<std::size_t>(n), seed);
}
std::vector<double> doubles(std::int64_t n, std::uint32_t seed) {
  const std::vector<float> values = floats(n, seed);
  return {values.begin(), values.end()};
}

template <typename T>
void expect_near(const std::vector<T>& found, const std::vector<double>& expected, double epsilon) {
  ASSERT_EQ(found.size(), expected.size());
  for (std::size_t i = 0; i < found.size(); ++i) {
    EXPECT_NEAR(static_cast<double>(found[i]), expected[i], epsilon) << i;
  }
}

TEST_P(LoopsTest, AddScaledAndFour) {
  for (const std::int64_t n : kLengths) {
    const std::int64_t ldx = n + 3;
    const std::vector<float> x = floats(4 * ldx, 1), y = floats(n, 2), a = floats(4, 3);
    std::vector<double> one(y.begin(), y.end()), four = one;
    for (std::int64_t i = 0; i < n; ++i) {
      const auto at = static_cast<std::size_t>(i);
      one[at] += static_cast<double>(a[0]) * static_cast<double>(x[at]);
      for (int k = 0; k < 4; ++k) {
        four[at] += static_cast<double>(a[static_cast<std::size_t>(k)]) *
                    static_cast<double>(x[static_cast<std::size_t>(k * ldx + i)]);
      }
    }
    std::vector<float> found = y;
    loops().add_scaled(a[0], x.data(), n, found.data());
    expect_near(found, one, 1e-6);
    found = y;
    loops().add_four(a.data(), x.data(), ldx, n, found.data());
    expect_near(found, four, 2e-6);
    std::vector<float> same = y;
    baseline().add_four(a.data(), x.data(), ldx, n, same.data());
    EXPECT_EQ(found, same);
  }
}

TEST_P(LoopsTest, SubtractFour) {
  for (const std::int64_t n : kLengths) {
    const std::int64_t ldx = n + 1;
    const std::vector<double> x = doubles(4 * ldx, 1), y = doubles(n, 2), a = doubles(4, 3);
    std::vector<double> expected = y, found = y, same = y;
    for (std::int64_t i = 0; i < n; ++i) {
      for (std::int64_t k = 0; k < 4; ++k) {
        expected[static_cast<std::size_t>(i)] -=
            a[static_cast<std::size_t>(k)] * x[static_cast<std::size_t>(k * ldx + i)];
      }
    }
    loops().subtract_four(a.data(), x.data(), ldx, n, found.data());
    expect_near(found, expected, 1e-14);
    baseline().subtract_four(a.data(), x.data(), ldx, n, same.data());
    EXPECT_EQ(found, same);
  }
}

TEST_P(LoopsTest, Dot) {
  for (const std::int64_t n : kLengths) {
    const std::vector<float> a = floats(n, 1), b = floats(n, 2);
    const std::vector<double> wide(b.begin(), b.end());
    double expected = 0;
    for (std::size_t i = 0; i < a.size(); ++i) expected += static_cast<double>(a[i]) * wide[i];
    EXPECT_NEAR(loops().dot(a.data(), b.data(), n), expected, 1e-12);
    EXPECT_EQ(loops().dot(a.data(), b.data(), n), baseline().dot(a.data(), b.data(), n));
    EXPECT_EQ(loops().dot_double(a.data(), wide.data(), n), loops().dot(a.data(), b.data(), n));
  }
}

TEST_P(LoopsTest, SideBySide) {
  const auto side = static_cast<std::int64_t>(kSideBySide);
  for (const std::int64_t n : kLengths) {
    const std::vector<float> a = floats(n, 1);
    const std::vector<double> wide(a.begin(), a.end());
    const std::vector<double> x = doubles(n * side, 2), start = doubles(side, 3);
    std::vector<double> added = start, subtracted = start, outer = x;
    for (std::int64_t i = 0; i < n; ++i) {
      for (std::int64_t k = 0; k < side; ++k) {
        const auto at = static_cast<std::size_t>(i * side + k), lane = static_cast<std::size_t>(k);
        const double by = wide[static_cast<std::size_t>(i)];
        added[lane] += by * x[at];
        subtracted[lane] -= by * x[at];
        outer[at] -= by * start[lane];
      }
    }
    std::vector<double> found = start;
    loops().add_products(wide.data(), x.data(), n, found.data());
    EXPECT_EQ(found, added);
    found = start;
    loops().subtract_products(a.data(), x.data(), n, found.data());
    EXPECT_EQ(found, subtracted);
    found = x;
    loops().subtract_outer(a.data(), start.data(), n, found.data());
    EXPECT_EQ(found, outer);
  }
}

int nearest_code(float weight, const Levels& levels) {
  const float place = std::clamp((weight - levels.min) * levels.inverse, 0.0f, levels.top);
  return static_cast<int>(std::floor(place + 0.5f));
}

TEST_P(LoopsTest, ErrorsAndMomentsOfCodes) {
  for (const int bits : {1, 2, 3, 4, 8}) {
    const auto top = static_cast<float>((1 << bits) - 1);
    const float scale = 1.7f / top;
    for (const Levels levels : {Levels{scale, -0.8f, 1 / scale, top}, Levels{0, 0.25f, 0, top}}) {
      const float origin = 0.5f * top;
      for (const std::int64_t n : kLengths) {
        const std::vector<float> weights = floats(n, 1);
        std::vector<float> importance = floats(n, 2);
        for (float& value : importance) value = std::fabs(value);
        const float* const importances[] = {nullptr, importance.data()};
        for (const float* counts : importances) {
          double error = 0;
          LevelMoments sums;
          for (std::size_t i = 0; i < weights.size(); ++i) {
            const auto w = static_cast<double>(weights[i]);
            const int code = nearest_code(weights[i], levels);
            const double missed =
                w - (static_cast<double>(levels.scale) * code + static_cast<double>(levels.min));
            const double by = counts ? static_cast<double>(counts[i]) : 1.0;
            const double level = code - static_cast<double>(origin);
            error += by * missed * missed;
            sums.n += by;
            sums.level += by * level;
            sums.level2 += by * level * level;
            sums.weight += by * w;
            sums.product += by * level * w;
          }
          EXPECT_NEAR(loops().squared_error(weights.data(), counts, n, levels), error,
                      1e-5 * error + 1e-9);
          EXPECT_EQ(loops().squared_error(weights.data(), counts, n, levels),
                    baseline().squared_error(weights.data(), counts, n, levels));
          const LevelMoments found = loops().moments(weights.data(), counts, n, levels, origin);
          const LevelMoments same = baseline().moments(weights.data(), counts, n, levels, origin);
          const double epsilon = 1e-12 * (sums.level2 + 1);
          for (double LevelMoments::*field :
               {&LevelMoments::n, &LevelMoments::level, &LevelMoments::level2,
                &LevelMoments::weight, &LevelMoments::product}) {
            EXPECT_NEAR(found.*field, sums.*field, epsilon) << n << ' ' << bits;
            EXPECT_EQ(found.*field, same.*field);
          }
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, LoopsTest,
                         ::testing::ValuesIn(runnable_loops().begin(), runnable_loops().end()),
                         [](const auto& each) { return std::string(each.param->isa); });

}  // namespace
}  // namespace tenfold
