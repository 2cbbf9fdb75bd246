#pragma once
// y = W x for packed weights and one token, from panels as they lie in the file. It proves that the
// layout of formats/plane.h suits a GPU (docs/design.md, Does the layout suit a GPU?); nothing but
// its test uses it, and the CUDA backend will bring kernels of its own.
//
// A warp owns a panel of 16 rows. Lane 4 i + q takes rows 4q ... 4q + 3 of the i-th of eight
// activation blocks (at most 128 columns, never across two groups): 16 bytes of a line are four
// rows, so four lanes read a line, and a lane has several loads in flight. Fields are masked and
// meet their activations in place; the exact integer sums are shifted once a block. Then a lane for
// each row adds the eight blocks in column order, as kernels/cpu/packed.inl does:
//
//   acc = fma(scale_group * scale_block, dot, acc);   acc = fma(min_group, sum_block, acc)
//
// so the bits depend on no schedule and are those of the CPU kernels that have an FMA.

#include <cuda_fp16.h>

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/kernel_table.h"
#include "kernels/formats/all.h"

namespace tenfold::cuda {

inline constexpr int kGemvWarps = 4;       // panels of a thread block
inline constexpr int kBlocksAtOnce = 8;    // activation blocks a warp takes at a time
inline constexpr int kLongestBlock = 128;  // columns of an activation block
inline constexpr int kQuads = 4;           // lanes that share a block: four rows each
// Blocks of terms lie four entries apart from a multiple of 16, so that the two that eight lanes
// write together fall into different banks.
inline constexpr int kTermsStride = kPanelRows + 4;

template <int N>
struct Int {
  static constexpr int value = N;
};
template <int N, typename Function>
__device__ __forceinline__ void unroll(Function&& function) {
  if constexpr (N > 0) {
    unroll<N - 1>(function);
    function(Int<N - 1>{});
  }
}

// Unsigned codes times signed activations: __dp4a has no mixed form.
__device__ __forceinline__ int dp4a(unsigned codes, int x, int sum) {
  int result;
  asm("dp4a.u32.s32 %0, %1, %2, %3;" : "=r"(result) : "r"(codes), "r"(x), "r"(sum));
  return result;
}

// [plane][field][row]: sums of a lane's four rows, those of field f times 2^(f bits).
template <typename F>
using FieldSums = int[F::n_planes][8][4];

// 32 columns, of which the first n_lines lines are there (all: n_lines is not looked at). `codes`
// is where the lane's rows begin in the first line; x: 32 activations, zeros past the last column.
template <typename F, bool all>
__device__ __forceinline__ void add_columns(const std::byte* codes, int n_lines,
                                            const std::int8_t* x, FieldSums<F>& sums) {
  uint4 lines[F::bits];
#pragma unroll
  for (int i = 0; i < F::bits; ++i) {
    lines[i] = all || i < n_lines ? __ldcs(reinterpret_cast<const uint4*>(codes + i * kLineBytes))
                                  : uint4{0, 0, 0, 0};
  }
  const int4 low = __ldg(reinterpret_cast<const int4*>(x));
  const int4 high = __ldg(reinterpret_cast<const int4*>(x) + 1);
  const int four[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
  int before = 0;
  unroll<F::n_planes>([&](auto p) {
    constexpr int plane = decltype(p)::value;
    constexpr int bits = F::planes[plane].bits;
    constexpr int fields = 8 / bits;
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      const int field = k % fields;
      const unsigned mask = 0x01010101u * (((1u << bits) - 1) << field * bits);
      const uint4 line = lines[before + k / fields];
      sums[plane][field][0] = dp4a(line.x & mask, four[k], sums[plane][field][0]);
      sums[plane][field][1] = dp4a(line.y & mask, four[k], sums[plane][field][1]);
      sums[plane][field][2] = dp4a(line.z & mask, four[k], sums[plane][field][2]);
      sums[plane][field][3] = dp4a(line.w & mask, four[k], sums[plane][field][3]);
    }
    before += bits;
  });
}

// The sums of codes times activations: each field's sum is a multiple of its factor, so the shifts
// are exact.
template <typename F>
__device__ __forceinline__ void shift_and_add(const FieldSums<F>& sums, int (&dots)[4]) {
#pragma unroll
  for (int r = 0; r < 4; ++r) dots[r] = 0;
  unroll<F::n_planes>([&](auto p) {
    constexpr int plane = decltype(p)::value;
    constexpr int bits = F::planes[plane].bits;
    constexpr int shift = F::planes[plane].shift;
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      int sum = 0;
#pragma unroll
      for (int field = 8 / bits - 1; field >= 0; --field) {
        sum = (sum >> bits) + sums[plane][field][r];
      }
      dots[r] += sum << shift;
    }
  });
}

// Exact dot products of four rows and the block's `cols` columns. `codes` is where the lane's rows
// begin in its first line; x: the block's activations.
template <typename F>
__device__ __forceinline__ void block_dots(const std::byte* codes, const std::int8_t* x, int cols,
                                           int (&dots)[4]) {
  constexpr int chunk_bytes = F::bits * kLineBytes;
  FieldSums<F> sums = {};
  if (cols == kLongestBlock) {  // unrolled, so that many loads are in flight
#pragma unroll
    for (int i = 0; i < kLongestBlock / kBlockCols; ++i) {
      add_columns<F, true>(codes + i * chunk_bytes, F::bits, x + i * kBlockCols, sums);
    }
    shift_and_add<F>(sums, dots);
    return;
  }
#pragma unroll 1
  for (; cols > 0; cols -= kBlockCols) {
    constexpr int lines_at_once = line_cols<F> * F::bits / 32;  // rows are padded to these
    const int n_lines = (cols + line_cols<F> - 1) / line_cols<F> * lines_at_once;
    add_columns<F, false>(codes, n_lines, x, sums);
    codes += chunk_bytes;
    x += kBlockCols;
  }
  shift_and_add<F>(sums, dots);
}

__device__ __forceinline__ void load_halves(const std::byte* from, float (&to)[4]) {
  const uint2 bits = __ldg(reinterpret_cast<const uint2*>(from));
  to[0] = __half2float(__ushort_as_half(static_cast<unsigned short>(bits.x)));
  to[1] = __half2float(__ushort_as_half(static_cast<unsigned short>(bits.x >> 16)));
  to[2] = __half2float(__ushort_as_half(static_cast<unsigned short>(bits.y)));
  to[3] = __half2float(__ushort_as_half(static_cast<unsigned short>(bits.y >> 16)));
}

// Four of the 16 integer zero points that pack_zeros() packed.
template <typename F>
__device__ __forceinline__ void load_zeros(const std::byte* packed, int quad, float (&zeros)[4]) {
  unsigned whole[4] = {};
  unroll<F::n_planes>([&](auto p) {
    constexpr int bits = F::planes[decltype(p)::value].bits;
    constexpr int shift = F::planes[decltype(p)::value].shift;
    constexpr int bytes = bits == 1 ? 1 : bits / 2;  // that hold four rows
    const auto* at = reinterpret_cast<const std::uint8_t*>(packed) + quad * bits / 2;
    unsigned rows = 0;
#pragma unroll
    for (int i = 0; i < bytes; ++i) rows |= static_cast<unsigned>(__ldg(at + i)) << 8 * i;
    if constexpr (bits == 1) rows >>= quad % 2 * 4;
#pragma unroll
    for (int r = 0; r < 4; ++r) whole[r] |= (rows >> r * bits & ((1u << bits) - 1)) << shift;
    packed += 2 * bits;
  });
#pragma unroll
  for (int r = 0; r < 4; ++r) zeros[r] = __uint2float_rn(whole[r]);
}

// A band as a lane meets it. Bands have at most 2^24 columns.
struct LaneBand {
  int cols, block, blocks;
  int min_kind;
  bool one_group;          // else each block is a group: a group above 128 columns is the whole row
  const std::byte* codes;  // the lane's rows in the panel's first line
  const std::byte* scale;  // of the panel
  const std::byte* min;
  const std::int8_t* x;  // of the band
  const float* block_scale;
  const float* block_sum;
};
__device__ __forceinline__ LaneBand lane_band(const PackedBand& band, const PreparedInput& input,
                                              std::int64_t panel, int quad) {
  const auto cols = static_cast<int>(band.cols);
  const auto block = static_cast<int>(band.input.block);
  return {cols,
          block,
          (cols + block - 1) / block,
          band.min_kind,
          band.groups == 1,
          band.codes + panel * band.panel_code_bytes + quad * 16,
          band.scale + panel * band.groups * (2 * kPanelRows),
          band.min + panel * band.panel_min_bytes,
          input.codes + band.input.dword * 4,
          input.scale + band.input.first_block,
          input.sum + band.input.first_block};
}

struct GroupRows {
  float scale[4], min[4];
};
template <typename F>
__device__ __forceinline__ GroupRows load_group(const LaneBand& band, int group, int quad) {
  const int halves = (group * kPanelRows + quad * 4) * 2;
  GroupRows rows;
  load_halves(band.scale + halves, rows.scale);
  if (band.min_kind == 2) {  // MinKind::f16
    load_halves(band.min + halves, rows.min);
    return rows;
  }
  constexpr float middle = static_cast<float>((1 << F::bits) - 1) * 0.5f;
  float zeros[4] = {middle, middle, middle, middle};
  if (band.min_kind == 0) load_zeros<F>(band.min + group * (2 * F::bits), quad, zeros);
#pragma unroll
  for (int r = 0; r < 4; ++r) rows.min[r] = __fsub_rn(0.0f, __fmul_rn(rows.scale[r], zeros[r]));
  return rows;
}

// What a block adds to a row.
struct alignas(16) Term {
  float scale, dot, min, sum;
};
// Row 4q + r of a block is entry 4r + q: the entries that lanes write or read together are
// neighbours.
using Terms = Term[kBlocksAtOnce][kTermsStride];
__device__ __forceinline__ int row_of_entry(int entry) { return entry % 4 * 4 + entry / 4; }

// Terms of the lane's four rows; past the last block, of no effect.
template <typename F>
__device__ __forceinline__ void write_terms(const LaneBand& band, int block, int quad,
                                            Term* terms) {
  if (block >= band.blocks) {
#pragma unroll
    for (int r = 0; r < 4; ++r) terms[4 * r + quad] = Term{};
    return;
  }
  const int begin = block * band.block;  // a multiple of 32
  const int cols = min(band.cols - begin, band.block);
  int dots[4];
  block_dots<F>(band.codes + begin / kBlockCols * (F::bits * kLineBytes), band.x + begin, cols,
                dots);
  const GroupRows rows = load_group<F>(band, band.one_group ? 0 : block, quad);
  const float scale = __ldg(band.block_scale + block);
  const float sum = __ldg(band.block_sum + block);
#pragma unroll
  for (int r = 0; r < 4; ++r) {
    terms[4 * r + quad] = {__fmul_rn(rows.scale[r], scale), __int2float_rn(dots[r]), rows.min[r],
                           sum};
  }
}

// acc: of row row_of_entry(lane), in lanes 0 ... 15.
template <typename F>
__device__ __forceinline__ void add_band(const LaneBand& band, int lane, Terms& terms, float& acc) {
#pragma unroll 1
  for (int begin = 0; begin < band.blocks; begin += kBlocksAtOnce) {
    const int i = lane / kQuads;
    write_terms<F>(band, begin + i, lane % kQuads, terms[i]);
    __syncwarp();
    if (lane < kPanelRows) {
#pragma unroll
      for (int b = 0; b < kBlocksAtOnce; ++b) {
        const Term term = terms[b][lane];
        acc = __fmaf_rn(term.scale, term.dot, acc);
        acc = __fmaf_rn(term.min, term.sum, acc);
      }
    }
    __syncwarp();
  }
}

// One token and plane. All pointers are to device memory, `bands` too; those of weights and
// prepared codes are aligned to 16 bytes. Thread blocks of 32 kGemvWarps threads, one warp a panel.
__global__ void __launch_bounds__(32 * kGemvWarps) packed_gemv(PackedArgs a) {
  __shared__ Terms terms[kGemvWarps];
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const std::int64_t panel = std::int64_t{blockIdx.x} * kGemvWarps + warp;
  if (panel * kPanelRows >= a.rows) return;
  float acc = 0;
  for (int b = 0; b < a.n_bands; ++b) {
    const LaneBand band = lane_band(a.bands[b], a.x, panel, lane % kQuads);
    switch (a.bands[b].format) {
#define PACKED_FORMAT(id, name, Type)             \
  case id:                                        \
    add_band<Type>(band, lane, terms[warp], acc); \
    break;
#include "kernels/formats/formats.def"
    }
  }
  const std::int64_t row = panel * kPanelRows + row_of_entry(lane);
  if (lane >= kPanelRows || row >= a.rows) return;
  if (a.bias != nullptr) acc = __fadd_rn(acc, a.bias[row]);
  if (a.accumulate) acc = __fadd_rn(a.y[row], acc);
  a.y[row] = acc;
}

}  // namespace tenfold::cuda
