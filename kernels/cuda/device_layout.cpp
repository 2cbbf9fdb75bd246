#include "kernels/cuda/device_layout.h"

#include <cstring>

#include "kernels/cuda/device_sizes.h"
#include "kernels/formats/codec.h"

namespace tenfold::cuda {
namespace {

// One row's codes, [segments * kSegmentCols], into its panel's segments.
void put_codes(Format format, const std::uint8_t* codes, int row, std::int64_t segments,
               std::int64_t segment_bytes, std::byte* panel) {
  const int bits = format_traits(format).bits;
  for (std::int64_t c = 0; c < segments * kSegmentCols; ++c) {
    int before = 0;
    for (const Plane& plane : planes_of(format)) {
      const CodePlace place =
          code_place(bits, plane.bits, before, row, static_cast<int>(c % kSegmentCols));
      const unsigned code = codes[c] >> plane.shift & ((1u << plane.bits) - 1);
      panel[c / kSegmentCols * segment_bytes + place.byte] |=
          static_cast<std::byte>(code << place.bit);
      before += plane.bits;
    }
  }
}

// Scale and minimum of one row and group, as entry `i` of a segment.
void put_factors(const Band& band, std::int64_t groups, std::int64_t row, std::int64_t group, int i,
                 int block, std::byte* to) {
  const auto in_panel = static_cast<int>(row % kPanelRows);
  const std::int64_t at = row / kPanelRows * groups + group;
  const FactorPlaces places = factor_places(block, static_cast<int>(band.min_kind), in_panel, i);
  std::memcpy(to + places.scale, band.scale + (at * kPanelRows + in_panel) * 2, 2);
  if (band.min_kind == MinKind::f16) {
    std::memcpy(to + places.min, band.min + (at * kPanelRows + in_panel) * 2, 2);
  } else if (band.min_kind == MinKind::zero) {
    const std::byte* zeros = band.min + at * 2 * format_traits(band.format).bits;
    to[places.min] = static_cast<std::byte>(unpack_zero(band.format, zeros, in_panel));
  }
}

}  // namespace

DeviceSizes device_sizes(const Band& band, std::int64_t rows) {
  const PackedLayout layout =
      packed_layout(band.format, band.min_kind, rows, band.cols(), band.group);
  const bool whole_row = layout.groups == 1;
  DeviceSizes sizes;
  sizes.block = static_cast<int>(whole_row ? kMaxActivationBlock : band.group);
  const int factors = factor_bytes(sizes.block, static_cast<int>(band.min_kind));
  sizes.segment_bytes = format_traits(band.format).bits * 512 + (whole_row ? 0 : factors);
  sizes.segments = static_cast<std::size_t>(
      layout.panels * segments_of(static_cast<int>(band.cols())) * sizes.segment_bytes);
  if (whole_row) sizes.row_factors = static_cast<std::size_t>(layout.panels * factors);
  return sizes;
}

DeviceWeights device_weights(const Band& band, std::int64_t rows) {
  const PackedLayout layout =
      packed_layout(band.format, band.min_kind, rows, band.cols(), band.group);
  const DeviceSizes sizes = device_sizes(band, rows);
  const std::int64_t segments = segments_of(static_cast<int>(band.cols()));
  const bool whole_row = sizes.row_factors > 0;
  DeviceWeights result;
  result.block = sizes.block;
  result.segment_bytes = sizes.segment_bytes;
  result.segments.resize(sizes.segments);
  result.row_factors.resize(sizes.row_factors);
  const int factors = factor_bytes(result.block, static_cast<int>(band.min_kind));
  const int code_bytes = format_traits(band.format).bits * 512;
  const std::int64_t per_segment = kSegmentCols / result.block;
  std::vector<std::uint8_t> codes(static_cast<std::size_t>(segments * kSegmentCols));
  for (std::int64_t row = 0; row < rows; ++row) {
    const std::int64_t panel = row / kPanelRows;
    const auto in_panel = static_cast<int>(row % kPanelRows);
    unpack_panel_row(band.format, band.codes + panel * layout.panel_code_bytes, in_panel,
                     band.cols(), codes.data());
    std::byte* to = result.segments.data() + panel * segments * result.segment_bytes;
    put_codes(band.format, codes.data(), in_panel, segments, result.segment_bytes, to);
    for (std::int64_t i = 0; i < (whole_row ? per_segment : layout.groups); ++i) {
      put_factors(band, layout.groups, row, whole_row ? 0 : i, static_cast<int>(i % per_segment),
                  result.block,
                  whole_row ? result.row_factors.data() + panel * factors
                            : to + i / per_segment * result.segment_bytes + code_bytes);
    }
  }
  return result;
}

}  // namespace tenfold::cuda
