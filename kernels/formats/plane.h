#pragma once
// How packed codes lie in memory; see runtime/FORMAT.md for the bytes.
//
// A matrix is cut into panels of kPanelRows rows. A panel is a run of blocks of kBlockCols columns;
// a block holds, plane after plane, lines of kLineBytes bytes. A plane of b bits (1, 2, 4 or 8)
// has b lines a block. A line of 16 rows x 32/b columns:
//
//   dword r (0...15)  = row r of the panel
//   byte j of it      = columns k0 + j, k0 + 4 + j, k0 + 8 + j, ... one for each field
//   field p of a byte = bits [p b, (p + 1) b): column k0 + 4 p + j
//
// so that a dword dot product with four consecutive activations needs no shuffle: a field is
// masked out in place and meets activations k0 + 4p ... k0 + 4p + 3. A format is a list of planes:
// code = sum over planes of (plane's code << shift).
//
// Compile-time data only: included by the ISA units and by CUDA.

namespace tenfold {

inline constexpr int kPanelRows = 16;
inline constexpr int kBlockCols = 32;
inline constexpr int kLineBytes = 64;
// Columns that share one int8 activation scale: min(group, this).
inline constexpr long kMaxActivationBlock = 128;

struct Plane {
  int bits;   // 1, 2, 4 or 8
  int shift;  // of its codes within the whole code
};

// Rows are padded to whole lines; formats of several planes, whose lines alternate, to whole
// blocks.
template <typename F>
inline constexpr int line_cols = F::n_planes == 1 ? 32 / F::bits : kBlockCols;

}  // namespace tenfold
