#pragma once
// How packed weights and activations lie on a CUDA device: weights are reordered once, at upload,
// so that each lane of a warp loads what it multiplies 16 bytes at a time.
//
// A panel (16 rows) is cut into segments of kSegmentCols columns, the last one padded with codes 0.
// A segment holds
//
//   codes    [bits][32 lanes] of 16 bytes
//   factors  [8 lane groups] of scales, [groups of the segment][2 rows] f16, and minima in the same
//            order: u8 zero points (MinKind::zero), f16 (f16), nothing (midrise)
//
// Lane 4g + q has rows 2g and 2g + 1 of the panel. In step j of a segment, an mma.m16n8k32 over its
// columns 32j ... 32j + 31, it has columns 4q ... 4q + 3 of both halves of 16. Its codes of a row
// and 128 columns (4 steps) are 8 quads, in the order step, half; byte b of a quad is column b. A
// plane of b bits keeps them in b dwords: the quad at place i is field i % (8 / b) of dword i b
// / 8. Places differ from the order of quads so that both halves of a step are of even or both of
// odd fields (quad_place). Dwords come in the order [128 columns][plane][dword][row of the pair].
//
// Where a group is the whole row, its factors lie apart, once for each panel, as those of a segment
// whose groups of kMaxActivationBlock columns are all alike.
//
// Activations are int8, padded with zeros to whole segments of columns and kTile tokens. 128
// columns lie in the order q, step, half, byte: 32 bytes a lane.
//
// Sums run in one order, whatever the kernel and the number of tokens, thread blocks or warps. The
// segments of a row are cut into kSlices slices, these into kQuarters quarters. A slice's sum
// begins at 0 and takes, for each segment, each plane of the activations and each of its blocks,
//
//   acc = fma(scale_group * scale_block, dot, acc);   acc = fma(min_group, sum_block, acc)
//
// where dot is exact. The slices of a quarter are added in order to 0, then the quarters to 0, then
// the bias, then y where it accumulates; the next band's sum is added to that.

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/formats/plane.h"
#include "kernels/matrix.h"

#ifdef __CUDACC__
#define TENFOLD_ANYWHERE __host__ __device__
#else
#define TENFOLD_ANYWHERE
#endif

namespace tenfold::cuda {

inline constexpr int kSegmentCols = 256;
inline constexpr int kTile = 8;  // tokens
inline constexpr int kSlices = 16;
inline constexpr int kQuarters = 4;
inline constexpr int kQuarterSlices = kSlices / kQuarters;

// The first segment of a slice (of the next, for where it ends).
TENFOLD_ANYWHERE constexpr int slice_begin(int slice, int segments) {
  return slice * segments / kSlices;
}
TENFOLD_ANYWHERE constexpr int segments_of(int cols) {
  return (cols + kSegmentCols - 1) / kSegmentCols;
}

// Where column c of 128 stands among prepared activations.
TENFOLD_ANYWHERE constexpr int activation_place(int c) {
  return c % 16 / 4 * 32 + c / 32 * 8 + c % 32 / 16 * 4 + c % 4;
}

// Where quad i of 8 stands: the order [2 steps][half][step of two] instead of [4 steps][half].
TENFOLD_ANYWHERE constexpr int quad_place(int i) { return (i & 4) | (i & 1) << 1 | (i >> 1 & 1); }

// Bytes of a segment's scales and minima; block: columns of an activation block; min_kind: an id.
TENFOLD_ANYWHERE constexpr int factor_bytes(int block, int min_kind) {
  return kSegmentCols / block * kPanelRows * (2 + (min_kind == 0 ? 1 : min_kind == 2 ? 2 : 0));
}

// Where the bits of one plane of a code stand: in a byte of the segment, from a bit on. bits: of
// the format; plane_bits: of the plane; before: of the planes before it; in: column of the segment.
struct CodePlace {
  int byte, bit;
};
TENFOLD_ANYWHERE constexpr CodePlace code_place(int bits, int plane_bits, int before, int in_panel,
                                                int in) {
  const int lane = in_panel / 2 * 4 + in % 16 / 4;
  const int quad = quad_place(in % 128 / 16);
  const int dword = in / 128 * 2 * bits + 2 * (before + quad * plane_bits / 8) + in_panel % 2;
  return {(dword / 4 * 32 + lane) * 16 + dword % 4 * 4 + in % 4,
          quad % (8 / plane_bits) * plane_bits};
}

// Bytes from the beginning of a segment's factors to a row's scale and minimum for group i.
struct FactorPlaces {
  int scale, min;
};
TENFOLD_ANYWHERE constexpr FactorPlaces factor_places(int block, int min_kind, int in_panel,
                                                      int i) {
  const int entries = 2 * (kSegmentCols / block), entry = 2 * i + in_panel % 2;
  const int min_bytes = min_kind == 0 ? 1 : min_kind == 2 ? 2 : 0;
  const int begin = in_panel / 2 * entries * (2 + min_bytes);
  return {begin + 2 * entry, begin + 2 * entries + min_bytes * entry};
}

struct DeviceWeights {
  std::vector<std::byte> segments;     // [panels][segments]
  std::vector<std::byte> row_factors;  // [panels] where a group is the whole row, else empty
  int segment_bytes = 0;
  int block = 0;  // columns of an activation block: 32, 64 or 128
};
// Of a packed band of `rows` rows. Groups are 32, 64 or 128 columns, or the whole row. What
// device_reorder.h makes on the device: that one's reference.
DeviceWeights device_weights(const Band& band, std::int64_t rows);

}  // namespace tenfold::cuda
