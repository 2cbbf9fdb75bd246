#pragma once
// out [cols, rows] of x [rows, cols], tile by tile, so that both are read and written nearby.

#include <algorithm>
#include <cstdint>

namespace tenfold {

inline constexpr std::int64_t kTransposeTile = 32;

// Of the columns of one tile: [tile * kTransposeTile, (tile + 1) * kTransposeTile).
inline void transpose_tile(const float* x, std::int64_t rows, std::int64_t cols, std::int64_t tile,
                           float* out) {
  const std::int64_t begin = tile * kTransposeTile;
  const std::int64_t end = std::min(begin + kTransposeTile, cols);
  for (std::int64_t first = 0; first < rows; first += kTransposeTile) {
    const std::int64_t last = std::min(first + kTransposeTile, rows);
    for (std::int64_t c = begin; c < end; ++c) {
      for (std::int64_t r = first; r < last; ++r) out[c * rows + r] = x[r * cols + c];
    }
  }
}

inline void transpose(const float* x, std::int64_t rows, std::int64_t cols, float* out) {
  for (std::int64_t tile = 0; tile * kTransposeTile < cols; ++tile) {
    transpose_tile(x, rows, cols, tile, out);
  }
}

}  // namespace tenfold
