// Products of few tokens on a CUDA device or the interpreter in front of one: every format, minimum
// and group over odd shapes. Against double within a derived tolerance, likewise against the scalar
// kernels; the same bits twice, and for a token alone and among others.

#include <gtest/gtest.h>

#include <cmath>
#include <iostream>
#include <limits>
#include <memory>

#include "tests/cuda/device_decode.h"
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

struct Extras {
  bool bias = false, accumulate = false;
};

class CudaPackedDecode : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string why_not;
    const std::string device = cuda_device(&why_not);
    if (device.empty()) GTEST_SKIP() << "NOT TESTED: no CUDA device: " << why_not;
    static const bool said = (std::cerr << "Device: " << device << '\n', true);
    (void)said;
  }

  static void check(const PackedMatrix& matrix, std::size_t n_tokens, Extras extras = {}) {
    const auto rows = static_cast<std::size_t>(matrix.view.rows);
    std::vector<std::unique_ptr<OneToken>> tokens;
    std::vector<PreparedInput> inputs;
    for (std::size_t t = 0; t < n_tokens; ++t) {
      tokens.push_back(std::make_unique<OneToken>(
          matrix.view,
          random_floats(static_cast<std::size_t>(matrix.view.cols), static_cast<unsigned>(t + 7))));
      inputs.push_back(tokens.back()->input());
    }
    const std::vector<float> bias = random_floats(rows, 3);
    const std::vector<float> y0 = random_floats(rows * n_tokens, 4);
    const DecodeExtras with{extras.bias ? bias.data() : nullptr, extras.accumulate};
    const auto run = [&](std::size_t n) {
      return device_decode(matrix.view.bands[0], matrix.view.rows, std::span(inputs).first(n),
                           {y0.begin(), y0.begin() + static_cast<std::ptrdiff_t>(rows * n)}, with);
    };
    const std::vector<float> y = run(n_tokens);
    EXPECT_EQ(y, run(n_tokens)) << matrix.description;
    if (n_tokens > 1) {
      EXPECT_EQ(std::vector(y.begin(), y.begin() + static_cast<std::ptrdiff_t>(rows)), run(1))
          << matrix.description << ": a token's sums depend on its batch";
    }
    for (std::size_t t = 0; t < n_tokens; ++t) {
      const std::vector<float> before(y0.begin() + static_cast<std::ptrdiff_t>(t * rows),
                                      y0.begin() + static_cast<std::ptrdiff_t>((t + 1) * rows));
      compare(*tokens[t], y.data() + t * rows, before, with, matrix.description);
      if (HasFatalFailure()) return;
    }
  }

 private:
  static void compare(const OneToken& token, const float* y, const std::vector<float>& before,
                      const DecodeExtras& with, const std::string& what) {
    const std::vector<float> scalar =
        token.on_cpu(scalar_kernels(), before, with.bias, with.accumulate);
    const OneToken::Exact exact = token.exact();
    // Per block: the product of two scales, and two sums, which the scalar kernels round twice
    // each; a sum for each segment and four of them; then bias and y. Nothing rounded is larger
    // than the norm.
    const double roundings = static_cast<double>(8 * token.blocks() + 4);
    for (std::size_t r = 0; r < before.size(); ++r) {
      const double more =
          (with.bias != nullptr ? with.bias[r] : 0.0) + (with.accumulate ? before[r] : 0.0);
      const double norm = exact.norm[r] + (with.bias != nullptr || with.accumulate ? 2.0 : 0.0);
      const double tolerance = roundings * norm * std::numeric_limits<float>::epsilon() / 2;
      ASSERT_NEAR(y[r], exact.y[r] + more, tolerance) << what << " row " << r;
      ASSERT_NEAR(y[r], scalar[r], 2 * tolerance) << what << " row " << r;
    }
  }
};

TEST_F(CudaPackedDecode, EveryFormatMinimumAndGroup) {
  for (const Format format : packed_formats()) {
    for (const MinKind min : kMinKinds) {
      for (const std::int64_t group : {32, 64, 128, 0}) {
        for (const std::int64_t cols : {1, 330}) {
          check(PackedMatrix(19, cols, {{format, min, 0, cols, group}}), 1);
          if (HasFatalFailure()) return;
          check(PackedMatrix(19, cols, {{format, min, 0, cols, group}}), 5);
          if (HasFatalFailure()) return;
        }
      }
    }
  }
}

TEST_F(CudaPackedDecode, RowsThatEndAnywhere) {
  for (const Format format : packed_formats()) {
    for (const std::int64_t rows : {1, 16, 83}) {
      check(PackedMatrix(rows, 64, {{format, MinKind::zero, 0, 64, 64}}), 2, {true, true});
      if (HasFatalFailure()) return;
    }
  }
}

// More segments than a thread block has warps, several times; a last one that is not whole.
TEST_F(CudaPackedDecode, LongRows) {
  for (const Format format : packed_formats()) {
    for (const std::int64_t group : {32, 128, 0}) {
      for (const std::size_t tokens : {1, 8}) {
        check(PackedMatrix(20, 8803, {{format, MinKind::zero, 0, 8803, group}}), tokens);
        if (HasFatalFailure()) return;
      }
    }
  }
}

// More panels than thread blocks: 1,000 of 16 rows.
TEST_F(CudaPackedDecode, ManyRows) {
  for (const std::size_t tokens : {1, 3}) {
    check(PackedMatrix(16001, 40, {{Format::q2, MinKind::f16, 0, 40, 32}}), tokens, {false, true});
  }
}

TEST_F(CudaPackedDecode, LargestCodes) {
  for (const Format format : packed_formats()) {
    check(PackedMatrix(16, 1024, {{format, MinKind::zero, 0, 1024, 128}}, false, true), 8);
  }
}

// What docs/gpu.md counts: larger, so that the ends of rows weigh little.
TEST_F(CudaPackedDecode, ProfileTwoBits) {
  check(PackedMatrix(64, 4096, {{Format::q2, MinKind::zero, 0, 4096, 128}}), 1);
}

}  // namespace
}  // namespace tenfold
