// The layout of CUDA devices, read back as kernels/cuda/device_layout.h describes it.

#include "kernels/cuda/device_layout.h"

#include <gtest/gtest.h>

#include <cstring>

#include "kernels/formats/all.h"
#include "kernels/formats/codec.h"
#include "kernels/half.h"
#include "tests/support/packed_matrix.h"

namespace tenfold {
namespace {

constexpr std::int64_t kRows = 35, kCols = 601;

// Of row `row` of the panel and column c of the segment. The code is put together plane by plane.
template <typename F>
unsigned code_at(const std::byte* segment, int row, int c) {
  const int lane = row / 2 * 4 + c % 16 / 4;
  constexpr int kPlaces[] = {0, 2, 1, 3, 4, 6, 5, 7};
  const int quad = kPlaces[c % 128 / 16];
  unsigned code = 0;
  int plane_dwords = 0;
  for (const Plane& plane : F::planes) {
    const int per_dword = 8 / plane.bits;
    const int dword = c / 128 * 2 * F::bits + (plane_dwords + quad / per_dword) * 2 + row % 2;
    const auto byte =
        static_cast<unsigned>(segment[dword / 4 * 512 + lane * 16 + dword % 4 * 4 + c % 4]);
    const unsigned part = byte >> quad % per_dword * plane.bits & ((1u << plane.bits) - 1);
    code |= part << plane.shift;
    plane_dwords += plane.bits;
  }
  return code;
}

float half_at(const std::byte* from) {
  std::uint16_t bits = 0;
  std::memcpy(&bits, from, 2);
  return f16_to_f32(bits);
}

template <typename F>
void check(Format format, MinKind min_kind, std::int64_t group) {
  const PackedMatrix matrix(kRows, kCols, {{format, min_kind, 0, kCols, group}});
  const Band& band = matrix.view.bands[0];
  const cuda::DeviceWeights made = cuda::device_weights(band, kRows);
  const int block = group == 0 ? 128 : static_cast<int>(group);
  EXPECT_EQ(made.block, block);
  const int factors = cuda::factor_bytes(block, static_cast<int>(min_kind));
  ASSERT_EQ(made.segment_bytes, F::bits * 512 + (group == 0 ? 0 : factors));
  ASSERT_EQ(made.segments.size(), static_cast<std::size_t>(3 * 3 * made.segment_bytes));
  ASSERT_EQ(made.row_factors.size(), static_cast<std::size_t>(group == 0 ? 3 * factors : 0));
  std::vector<std::uint8_t> expected(kCols);
  for (int row = 0; row < kRows; ++row) {
    const PackedLayout layout = packed_layout(format, min_kind, kRows, kCols, band.group);
    unpack_panel_row(format, band.codes + row / 16 * layout.panel_code_bytes, row % 16, kCols,
                     expected.data());
    for (int c = 0; c < 3 * cuda::kSegmentCols; ++c) {
      const std::byte* segment =
          made.segments.data() + (row / 16 * 3 + c / 256) * made.segment_bytes;
      const unsigned code = c < kCols ? expected[static_cast<std::size_t>(c)] : 0u;
      ASSERT_EQ(code_at<F>(segment, row % 16, c % 256), code)
          << matrix.description << ' ' << row << ' ' << c;
      if (c >= kCols) continue;
      const std::byte* from =
          group == 0 ? made.row_factors.data() + row / 16 * factors : segment + F::bits * 512;
      const int per_segment = 256 / block;
      const int entry = c % 256 / block * 2 + row % 2;
      from += row % 16 / 2 * factors / 8;
      const std::int64_t g = group == 0 ? 0 : c / block;
      const float scale = group_scale(band, row, g);
      ASSERT_EQ(half_at(from + entry * 2), scale) << matrix.description;
      from += per_segment * 4;
      if (min_kind == MinKind::f16) {
        ASSERT_EQ(half_at(from + entry * 2), group_min(band, row, g)) << matrix.description;
      } else if (min_kind == MinKind::zero) {
        ASSERT_EQ(-scale * static_cast<float>(from[entry]), group_min(band, row, g))
            << matrix.description;
      }
    }
  }
}

TEST(DeviceLayout, HoldsCodesScalesAndMinima) {
  for (const MinKind min_kind : {MinKind::zero, MinKind::midrise, MinKind::f16}) {
    for (const std::int64_t group : {32, 64, 128, 0}) {
#define PACKED_FORMAT(id, name, Type) check<Type>(Format::name, min_kind, group);
#include "kernels/formats/formats.def"
    }
  }
}

TEST(DeviceLayout, TakesLittleMoreThanTheFile) {
  const PackedMatrix matrix(64, 4096, {{Format::q2, MinKind::zero, 0, 4096, 128}});
  const PackedLayout layout = packed_layout(Format::q2, MinKind::zero, 64, 4096, 128);
  const cuda::DeviceWeights made = cuda::device_weights(matrix.view.bands[0], 64);
  EXPECT_LE(static_cast<double>(made.segments.size()),
            1.03 * static_cast<double>(layout.code_bytes + layout.scale_bytes + layout.min_bytes));
}

}  // namespace
}  // namespace tenfold
