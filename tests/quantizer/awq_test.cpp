#include <gtest/gtest.h>

#include <cmath>

#include "quantizer/awq/scales.h"
#include "tests/support/random.h"

namespace tenfold {
namespace {

// A few channels carry most of the signal, as after the norms of real models.
TEST(Awq, ScalesStrongChannelsUp) {
  constexpr std::int64_t kCols = 128;
  constexpr std::int64_t kTokens = 600;
  std::vector<float> x = random_floats(kTokens * kCols, 5);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] *= i % kCols % 40 == 3 ? 20.0f : 0.2f;
  Hessian hessian(kCols);
  const auto backend = make_cpu_backend({2, "", Activations::int8});
  hessian.add(x.data(), kTokens, *backend);
  const std::vector<float> weights = random_floats(48 * kCols, 6);
  const TensorSource tensor{"w", {48, kCols}, DType::f32, std::as_bytes(std::span(weights))};
  const RowReader reader(SourceWeight{&tensor, nullptr}, 0);
  MatrixPlan plan;
  plan.bands = {{Format::q3, MinKind::zero, 128, 0, kCols}};
  plan.range = RangeKind::minmax;
  ThreadPool pool(2);
  const AwqMatrix matrices[] = {{&reader, &plan}, {&reader, &plan}};
  const AwqScales scales = search_scales(hessian, matrices, *backend, pool);
  ASSERT_EQ(scales.scale.size(), std::size_t{kCols});
  EXPECT_GT(scales.ratio, 0);
  EXPECT_LT(scales.loss, 0.5 * scales.loss_before);
  EXPECT_GT(scales.scale[3], 2 * scales.scale[4]);
  const auto [low, high] = std::minmax_element(scales.scale.begin(), scales.scale.end());
  EXPECT_NEAR(*low * *high, 1.0f, 1e-4f);
}

// Inputs alike: no exponent can help, and none is chosen that does not.
TEST(Awq, NeverChoosesWorse) {
  const std::vector<float> x = random_floats(400 * 64, 7);
  Hessian hessian(64);
  const auto backend = make_cpu_backend({2, "", Activations::int8});
  hessian.add(x.data(), 400, *backend);
  const std::vector<float> weights = random_floats(16 * 64, 8);
  const TensorSource tensor{"w", {16, 64}, DType::f32, std::as_bytes(std::span(weights))};
  const RowReader reader(SourceWeight{&tensor, nullptr}, 0);
  MatrixPlan plan;
  plan.bands = {{Format::q2, MinKind::midrise, 32, 0, 64}};
  ThreadPool pool(1);
  const AwqMatrix matrices[] = {{&reader, &plan}};
  const AwqScales scales = search_scales(hessian, matrices, *backend, pool);
  EXPECT_LE(scales.loss, scales.loss_before);
  EXPECT_EQ(scales.scale.empty(), scales.ratio == 0);
}

}  // namespace
}  // namespace tenfold
