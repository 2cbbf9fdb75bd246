#pragma once
// Packs and unpacks codes, zero points and whole rows: what writes packed bands, and the reference
// that kernels are tested against. Byte layouts: runtime/FORMAT.md.

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/formats/plane.h"
#include "kernels/matrix.h"

namespace tenfold {

// Of a packed format; empty for floats.
std::span<const Plane> planes_of(Format format) noexcept;

// codes: [n_rows, cols] row-major, n_rows <= 16; out: PackedLayout::panel_code_bytes. Missing rows
// and padding columns get code 0.
void pack_panel(Format format, const std::uint8_t* codes, int n_rows, std::int64_t cols,
                std::byte* out) noexcept;
// Codes of one row (0 ... 15) of a panel: [cols].
void unpack_panel_row(Format format, const std::byte* panel, int row, std::int64_t cols,
                      std::uint8_t* codes) noexcept;

// 16 integer zero points of a group: 2 * bits bytes, plane after plane of the format; within a
// plane of b bits the row r sits at bits [r b, (r + 1) b) of a little-endian integer.
void pack_zeros(Format format, const std::uint8_t zeros[16], std::byte* out) noexcept;
std::uint8_t unpack_zero(Format format, const std::byte* zeros, int row) noexcept;

// The minimum of one group of one row, as kernels use it: -scale * zero and -scale * (2^bits - 1)/2
// are exact in float.
float group_scale(const Band& band, std::int64_t row, std::int64_t group) noexcept;
float group_min(const Band& band, std::int64_t row, std::int64_t group) noexcept;

// What the weights of a row mean: [band.cols()] or [cols], any format.
void dequantize_band_row(const Band& band, std::int64_t row, float* out) noexcept;
// Columns in the matrix's own order, the input map not applied.
void dequantize_row(const MatrixView& matrix, std::int64_t row, float* out) noexcept;

}  // namespace tenfold
