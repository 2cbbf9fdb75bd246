// Activations rounded on the device, against the CPU kernels that round them for the same matrix:
// the same codes, scales and sums, and the same choice of blocks that get a second code.

#include <cmath>

#include "tests/cuda/cuda_test.h"
#include "tests/cuda/one_token.h"
#include "tests/support/packed_matrix.h"

namespace tenfold {
namespace {

class CudaActivations : public CudaKernels {
 protected:
  static void check(const PackedMatrix& matrix, const std::vector<float>& x, int tokens,
                    float outlier) {
    const DevicePlanes device = device_prepare(matrix.view, x, tokens, outlier);
    for (int t = 0; t < tokens; ++t) {
      const OneToken cpu(matrix.view, x.data() + t * matrix.view.cols, outlier);
      for (int b = 0; b < matrix.view.n_bands; ++b) {
        const auto& planes = device[static_cast<std::size_t>(b)][static_cast<std::size_t>(t)];
        compare(cpu, cpu.input_of(b), planes, matrix.description);
        if (HasFatalFailure()) return;
      }
    }
  }

 private:
  static void compare(const OneToken& cpu, const PreparedBand& band,
                      const std::vector<DevicePlane>& planes, const std::string& what) {
    const PreparedInput& in = cpu.input();
    // A band of one group is one block on either side, however long a block could be.
    const auto block_cols =
        static_cast<std::int64_t>(planes[0].codes.size() / planes[0].scale.size());
    for (std::int64_t col = 0; col < static_cast<std::int64_t>(planes[0].codes.size()); ++col) {
      const std::int64_t block = col / block_cols;
      const bool inside = block * block_cols < band.cols;
      for (int p = 0; p < 2; ++p) {
        const bool counts = inside && (p == 0 || in.second[band.first_block + block] != 0);
        const std::int64_t at = p * in.blocks + band.first_block + block;
        const auto& plane = planes[static_cast<std::size_t>(p)];
        const auto b = static_cast<std::size_t>(block), c = static_cast<std::size_t>(col);
        ASSERT_EQ(plane.scale[b], counts ? in.scale[at] : 0.0f) << what << " block " << block;
        ASSERT_EQ(plane.sum[b], counts ? in.sum[at] : 0.0f) << what << " block " << block;
        const bool flagged = plane.counts[c / 256];
        if (counts) {
          ASSERT_TRUE(flagged) << what << " column " << col;
        }
        if (!flagged) continue;
        const std::int64_t code = (p * in.dwords + band.dword) * 4 + col;
        ASSERT_EQ(plane.codes[c], counts && col < band.cols ? in.codes[code] : 0)
            << what << " plane " << p << " column " << col;
      }
    }
  }
};

TEST_F(CudaActivations, EveryBlockAndLength) {
  for (const std::int64_t group : {32, 64, 128, 0}) {
    for (const std::int64_t cols : {1, 31, 256, 1000}) {
      for (const float outlier : {0.0f, 4.0f}) {
        const PackedMatrix matrix(1, cols, {{Format::q2, MinKind::zero, 0, cols, group}});
        check(matrix, activations_with_outliers(5, cols), 5, outlier);
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_F(CudaActivations, MappedBands) {
  const PackedMatrix matrix(
      1, 900, {{Format::q4, MinKind::zero, 0, 70, 32}, {Format::q1, MinKind::zero, 70, 900, 128}},
      true);
  check(matrix, activations_with_outliers(9, 900), 9, 4);
}

// Read four columns at a time, of segments that thread blocks share.
TEST_F(CudaActivations, AlignedMappedBands) {
  const PackedMatrix matrix(
      1, 2900, {{Format::q4, MinKind::zero, 0, 72, 32}, {Format::q1, MinKind::zero, 72, 2900, 128}},
      true);
  check(matrix, activations_with_outliers(3, 2900), 3, 4);
}

// More segments than a thread block has warps, more columns than are squared at once.
TEST_F(CudaActivations, LongRows) {
  for (const std::int64_t cols : {9001, 13060}) {
    const PackedMatrix matrix(1, cols, {{Format::q1, MinKind::zero, 0, cols, 64}});
    check(matrix, activations_with_outliers(2, cols), 2, 4);
  }
}

// So many that each has one thread block.
TEST_F(CudaActivations, ManyTokens) {
  const PackedMatrix matrix(1, 1100, {{Format::q2, MinKind::zero, 0, 1100, 128}});
  check(matrix, activations_with_outliers(130, 1100), 130, 4);
}

TEST_F(CudaActivations, ZerosAndTinyValues) {
  std::vector<float> x(512, 0.0f);
  for (std::size_t i = 300; i < 512; ++i) x[i] = 1e-42f * static_cast<float>(i % 7);
  x[511] = 1e-30f;
  const PackedMatrix matrix(1, 512, {{Format::q2, MinKind::zero, 0, 512, 64}});
  for (const float outlier : {0.0f, 4.0f}) check(matrix, x, 1, outlier);
}

}  // namespace
}  // namespace tenfold
