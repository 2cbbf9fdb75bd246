#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "kernels/half.h"
#include "tests/support/kernel_tables.h"
#include "tests/support/random.h"

namespace tenfold {
namespace {

constexpr double kEps = 1.2e-7;

class ElementwiseTest : public ::testing::TestWithParam<NamedKernels> {
 protected:
  const KernelTable& kernels() const { return *GetParam().table; }
};

TEST_P(ElementwiseTest, RmsNorm) {
  for (const std::size_t n : {1u, 5u, 8u, 16u, 31u, 576u}) {
    const auto x = random_floats(n, 1, 3.0f);
    const auto weight = random_floats(n, 2);
    std::vector<float> y(n);
    kernels().rms_norm(x.data(), weight.data(), 1e-5f, static_cast<std::int64_t>(n), y.data());
    double sum = 0;
    for (float v : x) sum += static_cast<double>(v) * v;
    const double scale = 1.0 / std::sqrt(sum / static_cast<double>(n) + 1e-5);
    for (std::size_t i = 0; i < n; ++i) {
      const double expected = x[i] * scale * weight[i];
      EXPECT_NEAR(y[i], expected, std::fabs(expected) * kEps * static_cast<double>(n + 8)) << n;
    }
  }
}

TEST_P(ElementwiseTest, LayerNorm) {
  for (const std::size_t n : {2u, 7u, 16u, 33u, 768u}) {
    auto x = random_floats(n, 1, 2.0f);
    for (float& v : x) v += 10.0f;  // the mean must be removed before squaring
    const auto weight = random_floats(n, 2);
    const auto bias = random_floats(n, 3);
    std::vector<float> y(n);
    kernels().layer_norm(x.data(), weight.data(), bias.data(), 1e-5f, static_cast<std::int64_t>(n),
                         y.data());
    double mean = 0;
    double variance = 0;
    for (float v : x) mean += v / static_cast<double>(n);
    for (float v : x) variance += (v - mean) * (v - mean) / static_cast<double>(n);
    for (std::size_t i = 0; i < n; ++i) {
      const double expected = (x[i] - mean) / std::sqrt(variance + 1e-5) * weight[i] + bias[i];
      EXPECT_NEAR(y[i], expected, 12.0 * kEps * static_cast<double>(n + 8)) << n;
    }
  }
}

TEST_P(ElementwiseTest, SiluMulOverTheWholeRange) {
  std::vector<float> gate, up;
  for (float g = -120.0f; g <= 120.0f; g += 0.37f) {
    gate.push_back(g);
    up.push_back(1.5f);
  }
  const std::vector<float> x = gate;
  kernels().silu_mul(x.data(), up.data(), static_cast<std::int64_t>(gate.size()), gate.data());
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double expected = 1.5 * x[i] / (1.0 + std::exp(-static_cast<double>(x[i])));
    EXPECT_NEAR(gate[i], expected, std::fabs(expected) * 8 * kEps + 1e-35) << x[i];
  }
}

TEST_P(ElementwiseTest, ReluAndScale) {
  std::vector<float> x = {-1.0f, 0.0f, 2.0f, -0.5f, 7.0f, 1.0f, -3.0f, 4.0f, 9.0f};
  kernels().relu(x.data(), 9);
  EXPECT_EQ(x, (std::vector<float>{0, 0, 2, 0, 7, 1, 0, 4, 9}));
  kernels().scale(x.data(), 0.5f, 9);
  EXPECT_EQ(x, (std::vector<float>{0, 0, 1, 0, 3.5f, 0.5f, 0, 2, 4.5f}));
}

TEST_P(ElementwiseTest, ConversionsMatchTheScalarOnesForEveryHalf) {
  std::vector<std::uint16_t> halves;
  for (std::uint32_t h = 0; h < 0x10000u; ++h) halves.push_back(static_cast<std::uint16_t>(h));
  std::vector<float> wide(halves.size());
  kernels().to_f32(halves.data(), WeightType::f16, 65536, wide.data());
  for (std::size_t i = 0; i < halves.size(); ++i) {
    const float expected = f16_to_f32(halves[i]);
    if (std::isnan(expected)) {
      EXPECT_TRUE(std::isnan(wide[i]));
    } else {
      EXPECT_EQ(wide[i], expected);
    }
  }
  kernels().to_f32(halves.data(), WeightType::bf16, 65536, wide.data());
  for (std::size_t i = 0; i < halves.size(); ++i) {
    const float expected = bf16_to_f32(halves[i]);
    if (!std::isnan(expected)) {
      EXPECT_EQ(wide[i], expected);
    }
  }
}

TEST_P(ElementwiseTest, RoundsToF16LikeTheScalarCode) {
  std::vector<float> x = random_floats(1003, 7, 70000.0f);
  for (const float small : random_floats(1000, 8, 1e-4f)) x.push_back(small);
  for (const float tiny : random_floats(1000, 9, 1e-7f)) x.push_back(tiny);
  for (const float edge : {65504.0f, 65519.9f, 65520.0f, 0x1p-24f, 0x1p-25f, 0x1.8p-25f, -0.0f}) {
    x.push_back(edge);
  }
  std::vector<std::uint16_t> h(x.size());
  kernels().to_f16(x.data(), static_cast<std::int64_t>(x.size()), h.data());
  for (std::size_t i = 0; i < x.size(); ++i) EXPECT_EQ(h[i], f32_to_f16(x[i])) << x[i];
}

TEST_P(ElementwiseTest, LogSumExp) {
  for (const std::size_t n : {1u, 9u, 50u, 4099u}) {
    auto x = random_floats(n, 11, 30.0f);
    double sum = 0;
    for (float v : x) sum += std::exp(static_cast<double>(v));
    EXPECT_NEAR(kernels().log_sum_exp(x.data(), static_cast<std::int64_t>(n)), std::log(sum),
                30 * 4 * kEps);
  }
}

INSTANTIATE_TEST_SUITE_P(Isa, ElementwiseTest, ::testing::ValuesIn(all_kernels()),
                         [](const auto& test) { return test.param.name; });

TEST(Half, RoundTripsEveryFiniteValue) {
  for (std::uint32_t h = 0; h < 0x10000u; ++h) {
    const float f = f16_to_f32(static_cast<std::uint16_t>(h));
    if (!std::isnan(f)) {
      EXPECT_EQ(f32_to_f16(f), h);
    }
    const float b = bf16_to_f32(static_cast<std::uint16_t>(h));
    if (!std::isnan(b)) {
      EXPECT_EQ(f32_to_bf16(b), h);
    }
  }
  EXPECT_TRUE(std::isnan(f16_to_f32(f32_to_f16(NAN))));
  EXPECT_TRUE(std::isnan(bf16_to_f32(f32_to_bf16(NAN))));
}

}  // namespace
}  // namespace tenfold
