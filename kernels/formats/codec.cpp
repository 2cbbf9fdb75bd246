#include "kernels/formats/codec.h"

#include <algorithm>
#include <cstring>

#include "kernels/formats/all.h"
#include "kernels/half.h"

namespace tenfold {
namespace {

template <typename Function>
void visit_packed(Format format, Function&& function) noexcept {
  switch (format) {
#define FLOAT_FORMAT(id, name, bits) case Format::name:
#include "kernels/formats/formats.def"
    break;
#define PACKED_FORMAT(id, name, Type) \
  case Format::name:                  \
    function(Type{});                 \
    break;
#include "kernels/formats/formats.def"
  }
}

struct Place {
  std::int64_t byte;  // within the panel
  int shift;
};

// Where a plane keeps the bits of one code. `before`: bits of the planes before it.
Place place_of(const Plane& plane, int before, int format_bits, std::int64_t col, int row) {
  const std::int64_t block = col / kBlockCols;
  const int in_block = static_cast<int>(col % kBlockCols);
  const int cols_per_line = 32 / plane.bits;
  const int line = before + in_block / cols_per_line;
  const int in_line = in_block % cols_per_line;
  return {(block * format_bits + line) * kLineBytes + row * 4 + in_line % 4,
          in_line / 4 * plane.bits};
}

template <typename T>
T load(const std::byte* p) noexcept {
  T value;
  std::memcpy(&value, p, sizeof value);
  return value;
}

std::int64_t groups_of(const Band& band) noexcept {
  return (band.cols() + band.group - 1) / band.group;
}

}  // namespace

std::span<const Plane> planes_of(Format format) noexcept {
  std::span<const Plane> planes;
  visit_packed(format, [&]<typename F>(F) { planes = F::planes; });
  return planes;
}

void pack_panel(Format format, const std::uint8_t* codes, int n_rows, std::int64_t cols,
                std::byte* out) noexcept {
  const PackedLayout layout = packed_layout(format, MinKind::midrise, n_rows, cols, cols);
  const int bits = format_traits(format).bits;
  std::memset(out, 0, static_cast<std::size_t>(layout.panel_code_bytes));
  int before = 0;
  for (const Plane& plane : planes_of(format)) {
    const unsigned mask = (1u << plane.bits) - 1;
    for (int row = 0; row < n_rows; ++row) {
      for (std::int64_t col = 0; col < cols; ++col) {
        const Place place = place_of(plane, before, bits, col, row);
        const unsigned part = unsigned{codes[row * cols + col]} >> plane.shift & mask;
        out[place.byte] |= static_cast<std::byte>(part << place.shift);
      }
    }
    before += plane.bits;
  }
}

void unpack_panel_row(Format format, const std::byte* panel, int row, std::int64_t cols,
                      std::uint8_t* codes) noexcept {
  const int bits = format_traits(format).bits;
  std::memset(codes, 0, static_cast<std::size_t>(cols));
  int before = 0;
  for (const Plane& plane : planes_of(format)) {
    const unsigned mask = (1u << plane.bits) - 1;
    for (std::int64_t col = 0; col < cols; ++col) {
      const Place place = place_of(plane, before, bits, col, row);
      const unsigned part = static_cast<unsigned>(panel[place.byte]) >> place.shift & mask;
      codes[col] = static_cast<std::uint8_t>(codes[col] | part << plane.shift);
    }
    before += plane.bits;
  }
}

void pack_zeros(Format format, const std::uint8_t zeros[16], std::byte* out) noexcept {
  std::memset(out, 0, static_cast<std::size_t>(2 * format_traits(format).bits));
  for (const Plane& plane : planes_of(format)) {
    const unsigned mask = (1u << plane.bits) - 1;
    for (int row = 0; row < kPanelRows; ++row) {
      const unsigned part = unsigned{zeros[row]} >> plane.shift & mask;
      const int bit = row * plane.bits;
      out[bit / 8] |= static_cast<std::byte>(part << bit % 8);
    }
    out += 2 * plane.bits;
  }
}

std::uint8_t unpack_zero(Format format, const std::byte* zeros, int row) noexcept {
  unsigned zero = 0;
  for (const Plane& plane : planes_of(format)) {
    const unsigned mask = (1u << plane.bits) - 1;
    const int bit = row * plane.bits;
    zero |= (static_cast<unsigned>(zeros[bit / 8]) >> bit % 8 & mask) << plane.shift;
    zeros += 2 * plane.bits;
  }
  return static_cast<std::uint8_t>(zero);
}

float group_scale(const Band& band, std::int64_t row, std::int64_t group) noexcept {
  const std::int64_t index =
      (row / kPanelRows * groups_of(band) + group) * kPanelRows + row % kPanelRows;
  return f16_to_f32(load<std::uint16_t>(band.scale + 2 * index));
}

float group_min(const Band& band, std::int64_t row, std::int64_t group) noexcept {
  const std::int64_t panel_group = row / kPanelRows * groups_of(band) + group;
  const int in_panel = static_cast<int>(row % kPanelRows);
  const int bits = format_traits(band.format).bits;
  switch (band.min_kind) {
    case MinKind::zero:
      return -group_scale(band, row, group) *
             static_cast<float>(
                 unpack_zero(band.format, band.min + panel_group * 2 * bits, in_panel));
    case MinKind::midrise:
      return -group_scale(band, row, group) * (static_cast<float>((1 << bits) - 1) * 0.5f);
    case MinKind::f16:
      break;
  }
  return f16_to_f32(load<std::uint16_t>(band.min + 2 * (panel_group * kPanelRows + in_panel)));
}

void dequantize_band_row(const Band& band, std::int64_t row, float* out) noexcept {
  const std::int64_t cols = band.cols();
  const std::byte* elements = band.codes;
  switch (band.format) {
    case Format::f32:
      std::memcpy(out, elements + row * cols * 4, static_cast<std::size_t>(cols) * 4);
      return;
    case Format::f16:
      for (std::int64_t c = 0; c < cols; ++c) {
        out[c] = f16_to_f32(load<std::uint16_t>(elements + (row * cols + c) * 2));
      }
      return;
    case Format::bf16:
      for (std::int64_t c = 0; c < cols; ++c) {
        out[c] = bf16_to_f32(load<std::uint16_t>(elements + (row * cols + c) * 2));
      }
      return;
    default:
      break;
  }
  const PackedLayout layout = packed_layout(band.format, band.min_kind, 1, cols, band.group);
  const std::byte* panel = band.codes + row / kPanelRows * layout.panel_code_bytes;
  std::uint8_t codes[256];
  for (std::int64_t begin = 0; begin < cols; begin += 256) {
    const std::int64_t n = std::min<std::int64_t>(256, cols - begin);
    const int bits = format_traits(band.format).bits;
    unpack_panel_row(band.format, panel + begin / kBlockCols * bits * kLineBytes,
                     static_cast<int>(row % kPanelRows), n, codes);
    std::int64_t group = -1;
    float scale = 0;
    float min = 0;
    for (std::int64_t c = 0; c < n; ++c) {
      if ((begin + c) / band.group != group) {
        group = (begin + c) / band.group;
        scale = group_scale(band, row, group);
        min = group_min(band, row, group);
      }
      out[begin + c] = scale * static_cast<float>(codes[c]) + min;
    }
  }
}

void dequantize_row(const MatrixView& matrix, std::int64_t row, float* out) noexcept {
  for (const Band& band : matrix.all_bands()) {
    dequantize_band_row(band, row, out + band.col_begin);
  }
}

}  // namespace tenfold
