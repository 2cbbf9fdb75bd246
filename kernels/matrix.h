#pragma once
// A weight: [rows, cols] = [output channels, input channels], as bands over input channels. Each
// band has one format: row-major f32, f16 or bf16, or packed codes of a few bits with a scale and a
// minimum for each group of columns (w = scale * code + min). One band is the usual case; two make
// the mixed 1- and 4-bit layout.

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/buffer.h"
#include "kernels/formats/format.h"

namespace tenfold {

struct Band {
  Format format = Format::f32;
  MinKind min_kind = MinKind::zero;  // packed only, like group, scale and min
  std::int64_t col_begin = 0, col_end = 0;
  std::int64_t group = 0;            // columns that share a scale: 32, 64, 128 or the whole band
  const std::byte* codes = nullptr;  // packed: panels (formats/plane.h); else [rows, cols()]
  const std::byte* scale = nullptr;  // f16 [panels][groups][16 rows]
  const std::byte* min = nullptr;    // zero: [panels][groups] as formats/codec.h packs 16 of them;
                                     // f16: as scale; midrise: null
  std::int64_t cols() const noexcept { return col_end - col_begin; }
};

// The activation that column c meets is x[source[c]] * factor[c].
struct InputMap {
  const std::int32_t* source = nullptr;  // [cols] or null: c itself
  const float* factor = nullptr;         // [cols] or null: 1
  // Where source puts the columns of two bands together, each in ascending order, the same in a bit
  // for each: bit j % 8 of byte j / 8 is set where x[j] meets the second band. Else null.
  const std::byte* mask = nullptr;
  bool operator==(const InputMap& other) const noexcept {
    return source == other.source && factor == other.factor;
  }
};

constexpr std::int64_t mask_bytes(std::int64_t cols) noexcept { return (cols + 7) / 8; }

inline constexpr int kMaxBands = 4;

struct MatrixView {
  std::int64_t rows = 0, cols = 0;
  int n_bands = 0;
  std::array<Band, kMaxBands> bands{};  // in column order, without gaps
  InputMap map;

  bool empty() const noexcept { return n_bands == 0; }
  std::span<const Band> all_bands() const noexcept {
    return {bands.data(), static_cast<std::size_t>(n_bands)};
  }
  std::size_t bytes() const noexcept;  // codes, scales, minima and maps, as files hold them
};

// One float band; data: [rows, cols] of `format`.
MatrixView float_matrix(const void* data, Format format, std::int64_t rows, std::int64_t cols);

// A view and, unless it points into a mapped file, its bytes.
struct QuantizedMatrix {
  Buffer storage;
  MatrixView view;
};

}  // namespace tenfold
