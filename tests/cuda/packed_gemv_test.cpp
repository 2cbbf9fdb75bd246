// The packed layout on a CUDA device or the interpreter in front of one: every format, minimum and
// group over odd shapes and mixed bands. Against double within a derived tolerance, likewise
// against the scalar kernels, and bit by bit against the kernels that have an FMA.

#include <gtest/gtest.h>

#include <cmath>
#include <iostream>
#include <limits>

#include "kernels/cpu/isa.h"
#include "tests/cuda/device_gemv.h"
#include "tests/cuda/one_token.h"
#include "tests/support/packed_matrix.h"
#include "tests/support/random.h"

namespace tenfold {
namespace {

constexpr MinKind kMinKinds[] = {MinKind::zero, MinKind::midrise, MinKind::f16};

std::vector<Format> packed_formats() {
  return {
#define PACKED_FORMAT(id, name, Type) Format::name,
#include "kernels/formats/formats.def"
  };
}

const KernelTable* fma_kernels() {
  const CpuFeatures cpu = detect_cpu();
  return cpu.avx2 && cpu.fma && cpu.f16c ? &avx2_kernels() : nullptr;
}

struct Extras {
  bool bias = false, accumulate = false;
};

void check(const PackedMatrix& matrix, Extras extras = {}) {
  const auto rows = static_cast<std::size_t>(matrix.view.rows);
  const OneToken token(matrix.view, random_floats(static_cast<std::size_t>(matrix.view.cols), 7));
  const std::vector<float> bias = random_floats(rows, 8);
  const float* b = extras.bias ? bias.data() : nullptr;
  std::vector<float> y0 = random_floats(rows, 9);
  const std::vector<float> y = device_gemv(token.args(y0.data(), b, extras.accumulate));
  EXPECT_EQ(y, device_gemv(token.args(y0.data(), b, extras.accumulate))) << matrix.description;
  if (const KernelTable* kernels = fma_kernels()) {
    EXPECT_EQ(y, token.on_cpu(*kernels, y0, b, extras.accumulate)) << matrix.description;
  }
  const std::vector<float> scalar = token.on_cpu(scalar_kernels(), y0, b, extras.accumulate);
  const OneToken::Exact exact = token.exact();
  // Per block: the product of two scales, the sum's own factor and two sums, which the scalar
  // kernels round twice each; then bias and y. Nothing rounded is larger than the norm.
  const double roundings = static_cast<double>(6 * token.blocks() + 2);
  for (std::size_t r = 0; r < rows; ++r) {
    const double more = (extras.bias ? bias[r] : 0.0) + (extras.accumulate ? y0[r] : 0.0);
    const double norm = exact.norm[r] + (extras.bias || extras.accumulate ? 2.0 : 0.0);
    const double tolerance = roundings * norm * std::numeric_limits<float>::epsilon() / 2;
    ASSERT_NEAR(y[r], exact.y[r] + more, tolerance) << matrix.description << " row " << r;
    ASSERT_NEAR(y[r], scalar[r], 2 * tolerance) << matrix.description << " row " << r;
  }
}

class CudaPackedGemv : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string why_not;
    const std::string device = cuda_device(&why_not);
    if (device.empty()) GTEST_SKIP() << "NOT TESTED: no CUDA device: " << why_not;
    static const bool said = (std::cerr << "Device: " << device << '\n', true);
    (void)said;
  }
};

TEST_F(CudaPackedGemv, EveryFormatMinimumAndGroup) {
  for (const Format format : packed_formats()) {
    for (const MinKind min : kMinKinds) {
      for (const std::int64_t group : {32, 64, 128, 0}) {
        for (const std::int64_t cols : {1, 100, 330}) {
          check(PackedMatrix(19, cols, {{format, min, 0, cols, group}}));
          if (HasFatalFailure()) return;
        }
      }
    }
  }
}

TEST_F(CudaPackedGemv, RowsThatEndAnywhere) {
  for (const Format format : packed_formats()) {
    for (const std::int64_t rows : {1, 16, 65, 83}) {
      check(PackedMatrix(rows, 64, {{format, MinKind::zero, 0, 64, 64}}), {true, true});
      if (HasFatalFailure()) return;
    }
  }
}

// More blocks than a warp takes at a time, and a row that ends within a line.
TEST_F(CudaPackedGemv, LongRows) {
  for (const Format format : packed_formats()) {
    for (const std::int64_t group : {32, 128, 0}) {
      check(PackedMatrix(16, 2149, {{format, MinKind::f16, 0, 2149, group}}));
    }
  }
}

TEST_F(CudaPackedGemv, LargestCodes) {
  for (const Format format : packed_formats()) {
    check(PackedMatrix(16, 1024, {{format, MinKind::zero, 0, 1024, 128}}, false, true));
  }
}

// The mixed layout: some columns with 4 bits, the others with 1, one group a row, in one launch.
TEST_F(CudaPackedGemv, FourAndOneBits) {
  for (const std::int64_t edge : {32, 128, 224}) {
    for (const MinKind min : kMinKinds) {
      check(PackedMatrix(35, 1120,
                         {{Format::q4, min, 0, edge, 0}, {Format::q1, min, edge, 1120, 0}}, true));
      if (HasFatalFailure()) return;
    }
  }
}

TEST_F(CudaPackedGemv, EveryPairOfFormats) {
  for (const Format first : packed_formats()) {
    for (const Format second : packed_formats()) {
      check(
          PackedMatrix(18, 205,
                       {{first, MinKind::f16, 0, 160, 64}, {second, MinKind::zero, 160, 205, 32}}),
          {true, false});
      if (HasFatalFailure()) return;
    }
  }
}

// What docs/design.md counts: larger, so that the ends of rows weigh little.
TEST_F(CudaPackedGemv, ProfileTwoBits) {
  check(PackedMatrix(64, 4096, {{Format::q2, MinKind::zero, 0, 4096, 128}}));
}
TEST_F(CudaPackedGemv, ProfileFourAndOneBits) {
  check(PackedMatrix(
      64, 4096,
      {{Format::q4, MinKind::zero, 0, 832, 0}, {Format::q1, MinKind::zero, 832, 4096, 0}}));
}

}  // namespace
}  // namespace tenfold
