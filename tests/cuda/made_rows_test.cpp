// Rows that one launch makes and rounds, against the operation that makes them and the launch that
// rounds them: every bit of both.

#include <gtest/gtest.h>

#include <cstring>

#include "kernels/cuda/activations.h"
#include "kernels/cuda/ops.h"
#include "tests/cuda/cuda_test.h"
#include "tests/cuda/device_memory.h"

namespace tenfold {
namespace {

using cuda::ActivationBand;
using cuda::MadeRows;
using By = MadeRows::By;

constexpr By kKinds[] = {By::rms_norm, By::layer_norm, By::silu_mul};
constexpr float kEps = 1e-5f;

cudaError_t make(const MadeRows& rows, int tokens) {
  switch (rows.by) {
    case By::rms_norm:
      return cuda::rms_norm(rows.x, rows.with, rows.eps, tokens, rows.dim, rows.y, nullptr);
    case By::layer_norm:
      return cuda::layer_norm(rows.x, rows.with, rows.bias, rows.eps, tokens, rows.dim, rows.y,
                              nullptr);
    case By::silu_mul:
      return cuda::silu_mul(rows.x, rows.with, tokens * rows.dim, rows.y, nullptr);
  }
  return cudaErrorInvalidValue;
}

struct Result {
  std::vector<float> y;
  std::vector<std::byte> rounded;
  bool operator==(const Result&) const = default;
};

// What the rows are made from, and through which map they are rounded.
class Inputs {
 public:
  Inputs(int tokens, int dim, bool mapped)
      : tokens_(tokens),
        dim_(dim),
        x_(activations_with_outliers(tokens, dim)),
        up_(random_floats(static_cast<std::size_t>(tokens * dim), 2)),
        weight_(random_floats(static_cast<std::size_t>(dim), 3)),
        bias_(random_floats(static_cast<std::size_t>(dim), 4)),
        factor_(random_floats(static_cast<std::size_t>(dim), 5)),
        source_(backwards(dim)),
        mapped_(mapped) {}

  MadeRows rows(By by, float* y) const {
    const bool gated = by == By::silu_mul;
    return {by,
            x_.get(),
            gated ? up_.get() : weight_.get(),
            by == By::layer_norm ? bias_.get() : nullptr,
            kEps,
            dim_,
            y};
  }
  cuda::ActivationSource source(float outlier) const {
    return {nullptr, 0, mapped_ ? source_.get() : nullptr, mapped_ ? factor_.get() : nullptr,
            outlier};
  }
  Result one_by_one(By by, float outlier, const std::vector<ActivationBand>& bands) const {
    return run(bands, [&](float* y, std::byte* memory) {
      check_cuda(make(rows(by, y), tokens_), "make rows");
      cuda::ActivationSource from = source(outlier);
      from.x = y;
      from.ldx = dim_;
      check_cuda(cuda::launch_prepare(from, bands, tokens_, memory, nullptr), "round rows");
    });
  }
  Result at_once(By by, float outlier, const std::vector<ActivationBand>& bands) const {
    return run(bands, [&](float* y, std::byte* memory) {
      check_cuda(
          cuda::launch_prepare(rows(by, y), source(outlier), bands, tokens_, memory, nullptr),
          "make and round rows");
    });
  }

 private:
  static std::vector<std::int32_t> backwards(int n) {
    std::vector<std::int32_t> columns;
    while (n-- > 0) columns.push_back(n);
    return columns;
  }
  template <typename Launches>
  Result run(const std::vector<ActivationBand>& bands, const Launches& launches) const {
    const DeviceArray<float> y(static_cast<std::size_t>(tokens_ * dim_));
    const DeviceArray<std::byte> memory(cuda::activation_bytes(bands, tokens_));
    launches(y.get(), memory.get());
    return {y.read(), memory.read()};
  }

  int tokens_, dim_;
  DeviceArray<float> x_, up_, weight_, bias_, factor_;
  DeviceArray<std::int32_t> source_;
  bool mapped_;
};

class CudaMadeRows : public CudaKernels {
 protected:
  static void check(int tokens, int dim, bool mapped, const std::vector<ActivationBand>& bands,
                    float outlier = 4) {
    const Inputs inputs(tokens, dim, mapped);
    for (const By by : kKinds) {
      ASSERT_TRUE(inputs.at_once(by, outlier, bands) == inputs.one_by_one(by, outlier, bands))
          << static_cast<int>(by) << ": " << tokens << " x " << dim << (mapped ? ", mapped" : "");
    }
  }
};

TEST_F(CudaMadeRows, EveryLengthAndMap) {
  for (const int dim : {4, 60, 96, 256, 1000, 2048, 4096, 5000, 8192}) {
    for (const bool mapped : {false, true}) {
      check(2, dim, mapped, {{0, dim, 128}});
      if (HasFatalFailure()) return;
    }
  }
}

TEST_F(CudaMadeRows, EveryNumberOfTokens) {
  for (const int tokens : {1, 2, 5, 16, 33, 64, 128}) {
    check(tokens, 1100, false, {{0, 1100, 64}});
    check(tokens, 1100, true, {{0, 40, 32}, {40, 1060, 128}});
    if (HasFatalFailure()) return;
  }
}

TEST_F(CudaMadeRows, TwoCodesEverywhere) { check(3, 776, false, {{0, 776, 32}}, 0); }

// Bands that leave columns out, which y has all the same.
TEST_F(CudaMadeRows, SomeOfTheColumns) {
  check(3, 776, false, {{0, 512, 32}});
  check(3, 776, false, {{128, 256, 64}, {512, 200, 128}});
}

// More shared memory than may be used without asking.
TEST_F(CudaMadeRows, LongGates) {
  for (const int dim : {11008, 14336}) {
    const Inputs inputs(2, dim, false);
    const std::vector<ActivationBand> bands = {{0, dim, 128}};
    EXPECT_TRUE(inputs.at_once(By::silu_mul, 4, bands) ==
                inputs.one_by_one(By::silu_mul, 4, bands));
  }
}

TEST_F(CudaMadeRows, NotWhereItCannotOrDoesNotPay) {
  float* const memory = nullptr;
  const auto can = [&](MadeRows rows, int tokens, std::vector<ActivationBand> bands) {
    return cuda::can_make(rows, {}, bands, tokens);
  };
  const MadeRows norm{By::rms_norm, memory + 1024, memory + 2048, nullptr,
                      kEps,         512,           memory + 4096};
  const std::vector<ActivationBand> whole = {{0, 512, 128}};
  EXPECT_TRUE(can(norm, 1, whole));
  EXPECT_FALSE(can(norm, 129, whole));
  EXPECT_FALSE(can(norm, 1, {{0, 201, 128}, {201, 311, 128}}));
  MadeRows rows = norm;
  rows.y += 1;
  EXPECT_FALSE(can(rows, 1, whole));
  rows = norm;
  rows.y = memory + 1024;
  EXPECT_FALSE(can(rows, 1, whole));
  rows = norm;
  rows.dim = 10000;
  EXPECT_FALSE(can(rows, 1, {{0, 10000, 128}}));
  rows.by = By::silu_mul;
  EXPECT_TRUE(can(rows, 1, {{0, 10000, 128}}));
  rows.dim = 16384;
  EXPECT_FALSE(can(rows, 1, {{0, 16384, 128}}));
}

}  // namespace
}  // namespace tenfold
