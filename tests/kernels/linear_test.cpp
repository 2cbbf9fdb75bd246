#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/half.h"
#include "tests/support/kernel_tables.h"
#include "tests/support/random.h"

namespace tenfold {
namespace {

struct Case {
  std::int64_t rows, cols, tokens;
  WeightType type;
};

// Weights stored in the case's type, and what they mean.
struct Weights {
  std::vector<std::byte> stored;
  std::vector<float> exact;
};

Weights make_weights(const Case& c) {
  Weights w;
  w.exact = random_floats(static_cast<std::size_t>(c.rows * c.cols), 1);
  w.stored.resize(w.exact.size() * (c.type == WeightType::f32 ? 4 : 2));
  for (std::size_t i = 0; i < w.exact.size(); ++i) {
    if (c.type == WeightType::f32) {
      std::memcpy(w.stored.data() + 4 * i, &w.exact[i], 4);
      continue;
    }
    const bool f16 = c.type == WeightType::f16;
    const std::uint16_t h = f16 ? f32_to_f16(w.exact[i]) : f32_to_bf16(w.exact[i]);
    w.exact[i] = f16 ? f16_to_f32(h) : bf16_to_f32(h);
    std::memcpy(w.stored.data() + 2 * i, &h, 2);
  }
  return w;
}

std::vector<float> run(const KernelTable& kernels, LinearArgs args, const std::vector<float>& y0) {
  std::vector<float> y = y0;
  std::vector<float> scratch(static_cast<std::size_t>(kernels.linear_scratch(args.cols)));
  args.y = y.data();
  kernels.linear(args, 0, args.rows, scratch.data());
  return y;
}

// Error of a float sum of n products: (n + 2) eps * sum |w x|, in any order.
double tolerance(const float* w, const float* x, std::int64_t n, double extra) {
  double norm = extra;
  for (std::int64_t i = 0; i < n; ++i) norm += std::fabs(static_cast<double>(w[i]) * x[i]);
  return norm * static_cast<double>(n + 3) * std::numeric_limits<float>::epsilon() / 2;
}

void check_against_double(const KernelTable& kernels, const Case& c, bool accumulate) {
  const Weights w = make_weights(c);
  const std::int64_t ldx = c.cols + 3;
  const std::int64_t ldy = c.rows + 2;
  const std::vector<float> x = random_floats(static_cast<std::size_t>(c.tokens * ldx), 2);
  const std::vector<float> bias = random_floats(static_cast<std::size_t>(c.rows), 3);
  const std::vector<float> y0 = random_floats(static_cast<std::size_t>(c.tokens * ldy), 4);
  LinearArgs args;
  args.weight = w.stored.data();
  args.type = c.type;
  args.rows = c.rows;
  args.cols = c.cols;
  args.bias = bias.data();
  args.x = x.data();
  args.ldx = ldx;
  args.tokens = c.tokens;
  args.ldy = ldy;
  args.accumulate = accumulate;
  const std::vector<float> y = run(kernels, args, y0);
  for (std::int64_t t = 0; t < c.tokens; ++t) {
    for (std::int64_t r = 0; r < c.rows; ++r) {
      const auto at = static_cast<std::size_t>(t * ldy + r);
      double expected = bias[static_cast<std::size_t>(r)] + (accumulate ? y0[at] : 0.0f);
      const double extra = std::fabs(expected) + 2;
      for (std::int64_t k = 0; k < c.cols; ++k) {
        expected += static_cast<double>(w.exact[static_cast<std::size_t>(r * c.cols + k)]) *
                    x[static_cast<std::size_t>(t * ldx + k)];
      }
      ASSERT_NEAR(y[at], expected,
                  tolerance(w.exact.data() + r * c.cols, x.data() + t * ldx, c.cols, extra))
          << "row " << r << " token " << t << " of " << c.rows << "x" << c.cols << "x" << c.tokens;
    }
    for (std::int64_t r = c.rows; r < ldy; ++r) {  // the gap between rows is not touched
      const auto at = static_cast<std::size_t>(t * ldy + r);
      ASSERT_EQ(y[at], y0[at]);
    }
  }
  args.accumulate = false;
  const std::vector<float> together = run(kernels, args, y0);
  for (std::int64_t t = 0; t < c.tokens; ++t) {  // one token at a time: the same bits
    LinearArgs one = args;
    one.x = x.data() + t * ldx;
    one.tokens = 1;
    const std::vector<float> alone = run(kernels, one, y0);
    ASSERT_EQ(0, std::memcmp(alone.data(), together.data() + t * ldy,
                             static_cast<std::size_t>(c.rows) * sizeof(float)));
  }
}

class LinearTest : public ::testing::TestWithParam<NamedKernels> {};

TEST_P(LinearTest, MatchesDoubleAndIgnoresBatching) {
  const KernelTable& kernels = *GetParam().table;
  for (const WeightType type : {WeightType::f32, WeightType::f16, WeightType::bf16}) {
    for (const std::int64_t rows : {1, 3, 4, 7, 8, 9, 37}) {
      for (const std::int64_t cols : {1, 7, 8, 15, 16, 17, 33, 130}) {
        for (const std::int64_t tokens : {1, 2, 3, 5, 6, 7, 12, 13, 29}) {
          check_against_double(kernels, {rows, cols, tokens, type}, false);
        }
      }
    }
    check_against_double(kernels, {66, 576, 19, type}, true);
    check_against_double(kernels, {12, 5000, 40, type}, true);  // several token blocks
    if (HasFatalFailure()) return;
  }
}

TEST_P(LinearTest, RowRangesAreIndependent) {
  const KernelTable& kernels = *GetParam().table;
  const Case c{45, 100, 11, WeightType::f16};
  const Weights w = make_weights(c);
  const std::vector<float> x = random_floats(1100, 5);
  std::vector<float> whole(495), parts(495),
      scratch(static_cast<std::size_t>(kernels.linear_scratch(100)));
  LinearArgs args{w.stored.data(), c.type, 45,   100, nullptr, x.data(), 100, 11,
                  whole.data(),    45,     false};
  kernels.linear(args, 0, 45, scratch.data());
  args.y = parts.data();
  for (std::int64_t begin : {0, 5, 13, 14, 44}) {
    const std::int64_t end = begin == 0    ? 5
                             : begin == 5  ? 13
                             : begin == 13 ? 14
                             : begin == 14 ? 44
                                           : 45;
    kernels.linear(args, begin, end, scratch.data());
  }
  EXPECT_EQ(whole, parts);
}

INSTANTIATE_TEST_SUITE_P(Isa, LinearTest, ::testing::ValuesIn(all_kernels()),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace tenfold
