// Weights reordered on a CUDA device, or on the interpreter of one, against device_weights(), byte
// by byte: every format, minimum and group over odd shapes.

#include "kernels/cuda/device_reorder.h"

#include <fmt/core.h>

#include <random>

#include "kernels/cuda/device_layout.h"
#include "kernels/cuda/device_sizes.h"
#include "tests/cuda/cuda_test.h"
#include "tests/cuda/device_memory.h"

namespace tenfold {
namespace {

struct Extent {
  std::int64_t rows, cols;
};
constexpr Extent kExtents[] = {{1, 1}, {16, 256}, {19, 330}, {48, 31}, {35, 1281}, {66, 602}};

// Random bytes: padding rows and columns have some too, which must not reach the device.
class RandomBand {
 public:
  RandomBand(Format format, MinKind min_kind, Extent extent, std::int64_t group) {
    band.format = format;
    band.min_kind = min_kind;
    band.col_end = extent.cols;
    band.group = group == 0 ? extent.cols : group;
    const PackedLayout layout =
        packed_layout(format, min_kind, extent.rows, extent.cols, band.group);
    codes_ = bytes(layout.code_bytes);
    scale_ = bytes(layout.scale_bytes);
    min_ = bytes(layout.min_bytes);
    band.codes = codes_.data();
    band.scale = scale_.data();
    band.min = min_.empty() ? nullptr : min_.data();
  }
  RandomBand(const RandomBand&) = delete;
  RandomBand& operator=(const RandomBand&) = delete;

  Band band;

 private:
  std::vector<std::byte> bytes(std::int64_t n) {
    std::vector<std::byte> made(static_cast<std::size_t>(n));
    for (std::byte& byte : made) byte = static_cast<std::byte>(random_());
    return made;
  }
  std::mt19937 random_{5};
  std::vector<std::byte> codes_, scale_, min_;
};

class CudaReorder : public CudaKernels {
 protected:
  static void check(const Band& band, std::int64_t rows, std::size_t scratch_bytes) {
    const cuda::DeviceWeights expected = cuda::device_weights(band, rows);
    const cuda::DeviceSizes sizes = cuda::device_sizes(band, rows);
    ASSERT_EQ(sizes.segments, expected.segments.size());
    ASSERT_EQ(sizes.row_factors, expected.row_factors.size());
    const DeviceArray<std::byte> scratch(scratch_bytes), segments(sizes.segments),
        row_factors(sizes.row_factors);
    check_cuda(cuda::upload_reordered(band, rows, scratch, scratch_bytes, segments, row_factors,
                                      cudaStreamLegacy),
               "upload_reordered");
    EXPECT_EQ(segments.read(), expected.segments);
    EXPECT_EQ(row_factors.read(), expected.row_factors);
  }
};

TEST_F(CudaReorder, MakesTheCpusBytes) {
  for (const Format format : packed_formats()) {
    for (const MinKind min_kind : {MinKind::zero, MinKind::midrise, MinKind::f16}) {
      for (const std::int64_t group : {32, 64, 128, 0}) {
        for (const Extent& extent : kExtents) {
          SCOPED_TRACE(fmt::format("{} {} {}x{} g{}", format_traits(format).name,
                                   *min_kind_name(static_cast<std::uint32_t>(min_kind)),
                                   extent.rows, extent.cols, group));
          const RandomBand random(format, min_kind, extent, group);
          check(random.band, extent.rows, cuda::reorder_scratch(random.band, extent.rows));
          if (HasFailure()) return;
        }
      }
    }
  }
}

TEST_F(CudaReorder, TakesSomePanelsAtATime) {
  for (const Format format : packed_formats()) {
    for (const std::int64_t group : {64, 0}) {
      SCOPED_TRACE(fmt::format("{} g{}", format_traits(format).name, group));
      const RandomBand random(format, MinKind::zero, {66, 330}, group);
      const std::size_t panel = cuda::least_reorder_scratch(random.band);
      check(random.band, 66, panel);
      check(random.band, 66, 2 * panel + 1);
    }
  }
}

TEST_F(CudaReorder, NeedsRoomForAPanel) {
  const RandomBand random(Format::q3, MinKind::f16, {16, 256}, 128);
  const std::size_t bytes = cuda::least_reorder_scratch(random.band) - 1;
  const cuda::DeviceSizes sizes = cuda::device_sizes(random.band, 16);
  const DeviceArray<std::byte> scratch(bytes), segments(sizes.segments);
  EXPECT_EQ(
      cuda::upload_reordered(random.band, 16, scratch, bytes, segments, nullptr, cudaStreamLegacy),
      cudaErrorInvalidValue);
}

}  // namespace
}  // namespace tenfold
