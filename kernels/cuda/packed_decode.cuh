#pragma once
// The kernel of packed_decode.h.
//
// Weights are operand A of mma.m16n8k32: a panel's 16 rows; tokens are its 8 columns. Sums run in
// one order whatever the number of tokens, thread blocks or warps: exact within an activation block
// (at most 128 columns), then
//
//   acc = fma(scale_group * scale_block, dot, acc);   acc = fma(min_group, sum_block, acc)
//
// over the blocks of a segment, then over kSuper segments, then over the row.

#include <cuda_fp16.h>

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/device_layout.h"
#include "kernels/cuda/packed_decode.h"
#include "kernels/cuda/unroll.cuh"
#include "kernels/formats/all.h"

namespace tenfold::cuda {

namespace detail {

__device__ __forceinline__ void mma(int (&c)[4], unsigned a0, unsigned a1, unsigned a2, unsigned a3,
                                    unsigned b0, unsigned b1) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// In program order: the compiler may not move loads to where their values are needed.
template <int n_dwords>
__device__ __forceinline__ void load_dwords(const void* p, unsigned* to) {
  if constexpr (n_dwords > 4) {
    load_dwords<4>(p, to);
    load_dwords<n_dwords - 4>(static_cast<const uint4*>(p) + 1, to + 4);
  } else if constexpr (n_dwords == 4) {
    asm volatile("ld.global.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "l"(p));
  } else {
    static_assert(n_dwords == 2);
    asm volatile("ld.global.v2.u32 {%0, %1}, [%2];" : "=r"(to[0]), "=r"(to[1]) : "l"(p));
  }
}

// Copies that a lane makes for itself alone, so that they need no barrier: it waits for its own and
// reads its own. A lane's dwords lie [n_dwords / 4][32 lanes] of 16 bytes, or [32 lanes] of fewer.
template <int n_dwords>
__device__ __forceinline__ void copy_dwords(const std::byte* from, int stride, std::byte* to,
                                            int lane) {
  constexpr int width = n_dwords >= 4 ? 16 : n_dwords * 4;
#pragma unroll
  for (int i = 0; i < (n_dwords + 3) / 4; ++i) {
    const auto at = static_cast<unsigned>(__cvta_generic_to_shared(to + (i * 32 + lane) * width));
    if constexpr (width == 16) {
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(at), "l"(from + i * stride));
    } else {
      asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(at), "l"(from), "n"(width));
    }
  }
}
template <int n_dwords>
__device__ __forceinline__ void read_dwords(const std::byte* from, int lane, unsigned* to) {
  if constexpr (n_dwords >= 4) {
#pragma unroll
    for (int i = 0; i < n_dwords / 4; ++i) {
      const uint4 v = *reinterpret_cast<const uint4*>(from + (i * 32 + lane) * 16);
      to[4 * i] = v.x, to[4 * i + 1] = v.y, to[4 * i + 2] = v.z, to[4 * i + 3] = v.w;
    }
  } else if constexpr (n_dwords == 2) {
    const uint2 v = *reinterpret_cast<const uint2*>(from + lane * 8);
    to[0] = v.x, to[1] = v.y;
  } else {
    to[0] = *reinterpret_cast<const unsigned*>(from + lane * 4);
  }
}

template <int bits, int field, int shift>
__device__ __forceinline__ unsigned quad_of(unsigned dword) {
  constexpr int right = field * bits - shift;
  constexpr unsigned mask = 0x01010101u * (((1u << bits) - 1) << shift);
  if constexpr (bits == 8) return dword;
  if constexpr (right > 0) return (dword >> right) & mask;
  if constexpr (right < 0) return (dword << -right) & mask;
  return dword & mask;
}

// Quads of one row of the pair and 128 columns; dwords: [plane][dword][row of the pair].
template <typename F, int i>
__device__ __forceinline__ unsigned quad(const unsigned* dwords, int row) {
  unsigned result = 0;
  unroll<F::n_planes>([&](auto plane) {
    constexpr int p = decltype(plane)::value;
    constexpr int bits = F::planes[p].bits;
    constexpr int before = p == 0 ? 0 : F::planes[0].bits;
    constexpr int dword = before + i * bits / 8;
    result |= quad_of<bits, i % (8 / bits), F::planes[p].shift>(dwords[2 * dword + row]);
  });
  return result;
}

__device__ __forceinline__ float2 halves(unsigned pair) {
  return __half22float2(reinterpret_cast<const __half2&>(pair));
}

// The activations of a segment: the lane's token and columns, and the factors of tokens 2q and
// 2q + 1.
template <int block, int n_tokens>
struct SegmentInput {
  static constexpr int kBlocks = kSegmentCols / block;
  unsigned codes[2][8];
  unsigned factors[kBlocks][n_tokens == 1 ? 2 : 4];

  __device__ __forceinline__ void load(const DeviceInput& in, int segment, int lane) {
    const int g = lane / 4, q = lane % 4;
    const std::int8_t* x = in.codes + g * std::int64_t{in.cols} + segment * kSegmentCols + q * 32;
#pragma unroll
    for (int i = 0; i < 8; ++i) codes[0][i] = codes[1][i] = 0;
    if (g < in.tokens) {
      load_dwords<8>(x, codes[0]);
      load_dwords<8>(x + 128, codes[1]);
    }
    const float* at = in.factors + std::int64_t{segment * kBlocks} * in.padded_tokens * 2;
#pragma unroll
    for (int i = 0; i < kBlocks; ++i) {
      if constexpr (n_tokens == 1) {
        load_dwords<2>(at + i * in.padded_tokens * 2, factors[i]);
      } else {
        load_dwords<4>(at + (i * in.padded_tokens + 2 * q) * 2, factors[i]);
      }
    }
  }
};

// A segment's weights and factors, on their way or here.
template <typename F, int block, int min_kind>
struct Segment {
  static constexpr int kGroups = kSegmentCols / block;
  unsigned codes[4 * F::bits];
  unsigned scale[kGroups];
  unsigned min[min_kind == 0 ? kGroups / 2 : kGroups];

  static constexpr int kMins = min_kind == 0 ? kGroups / 2 : min_kind == 2 ? kGroups : 0;
  // Of a warp's segment in shared memory.
  static constexpr int kStageBytes = 32 * 4 * (4 * F::bits + kGroups + kMins);

  static __device__ __forceinline__ void copy(const std::byte* codes_at,
                                              const std::byte* factors_at, std::byte* stage,
                                              int lane) {
    copy_dwords<4 * F::bits>(codes_at + lane * 16, 512, stage, lane);
    const int g = lane / 4;
    stage += F::bits * 512;
    copy_dwords<kGroups>(factors_at + g * (4 * kGroups), 16, stage, lane);
    if constexpr (kMins > 0) {
      copy_dwords<kMins>(factors_at + kGroups * 32 + g * (4 * kMins), 16, stage + kGroups * 128,
                         lane);
    }
  }
  __device__ __forceinline__ void read(const std::byte* stage, int lane) {
    read_dwords<4 * F::bits>(stage, lane, codes);
    stage += F::bits * 512;
    read_dwords<kGroups>(stage, lane, scale);
    if constexpr (kMins > 0) read_dwords<kMins>(stage + kGroups * 128, lane, min);
  }

  // acc: rows 2g and 2g + 1 by tokens 2q and 2q + 1; of one token, only the even entries of q = 0.
  template <int n_tokens>
  __device__ __forceinline__ void multiply(const SegmentInput<block, n_tokens>& x,
                                           float (&acc)[4]) const {
    int c[4] = {};
    unroll<8>([&](auto step) {
      constexpr int j = decltype(step)::value;
      constexpr int k = j % 4;
      const unsigned* dwords = codes + j / 4 * (2 * F::bits);
      mma(c, quad<F, 2 * k>(dwords, 0), quad<F, 2 * k>(dwords, 1), quad<F, 2 * k + 1>(dwords, 0),
          quad<F, 2 * k + 1>(dwords, 1), x.codes[j / 4][2 * k], x.codes[j / 4][2 * k + 1]);
      if constexpr ((j + 1) % (block / 32) == 0) {
        constexpr int i = j / (block / 32);
        const float2 s = halves(scale[i]);
        const float2 m = minimum<i>(s);
        const auto& f = x.factors[i];
        add(s.x, m.x, f[0], f[1], c[0], acc[0]);
        add(s.y, m.y, f[0], f[1], c[2], acc[2]);
        if constexpr (n_tokens > 1) {
          add(s.x, m.x, f[2], f[3], c[1], acc[1]);
          add(s.y, m.y, f[2], f[3], c[3], acc[3]);
        }
#pragma unroll
        for (int n = 0; n < 4; ++n) c[n] = 0;
      }
    });
  }

 private:
  template <int i>
  __device__ __forceinline__ float2 minimum(float2 s) const {
    if constexpr (min_kind == 2) return halves(min[i]);
    constexpr float middle = static_cast<float>((1 << F::bits) - 1) * 0.5f;
    if constexpr (min_kind == 1) return {-__fmul_rn(s.x, middle), -__fmul_rn(s.y, middle)};
    const unsigned pair = min[i / 2] >> i % 2 * 16;
    return {-__fmul_rn(s.x, __uint2float_rn(pair & 255)),
            -__fmul_rn(s.y, __uint2float_rn(pair >> 8 & 255))};
  }
  static __device__ __forceinline__ void add(float scale, float min, unsigned block_scale,
                                             unsigned block_sum, int dot, float& acc) {
    acc = __fmaf_rn(__fmul_rn(scale, __uint_as_float(block_scale)), __int2float_rn(dot), acc);
    acc = __fmaf_rn(min, __uint_as_float(block_sum), acc);
  }
};

// What the next kernel of the stream reads may be on its way while this one ends (sm_90).
__device__ __forceinline__ void wait_for_inputs() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
__device__ __forceinline__ void let_next_begin() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// A thread for each row and token.
template <int n_tokens>
__device__ __forceinline__ void finish(const DeviceProduct& a, int panel, int segments,
                                       const float* sums) {
  const float* from = sums + threadIdx.x;
  constexpr int kStride = kPanelRows * n_tokens;
  float total = 0;
  int s = 0;
#pragma unroll 2
  for (; s + kSuper <= segments; s += kSuper, from += kSuper * kStride) {
    float super = 0;
#pragma unroll
    for (int i = 0; i < kSuper; ++i) super = __fadd_rn(super, from[i * kStride]);
    total = __fadd_rn(total, super);
  }
  float super = 0;
  for (; s < segments; ++s, from += kStride) super = __fadd_rn(super, *from);
  total = __fadd_rn(total, super);
  const int row = panel * kPanelRows + static_cast<int>(threadIdx.x) % kPanelRows;
  const int token = static_cast<int>(threadIdx.x) / kPanelRows;
  if (row >= a.rows || token >= a.x.tokens) return;
  float* y = a.y + std::int64_t{token} * a.rows + row;
  if (a.bias != nullptr) total = __fadd_rn(total, a.bias[row]);
  *y = a.accumulate ? __fadd_rn(*y, total) : total;
}

}  // namespace detail

// Bytes of shared memory.
template <typename F, int block, int min_kind, int n_tokens, int n_warps, int stages>
constexpr std::size_t decode_shared(int cols) {
  return std::size_t{2} * static_cast<std::size_t>((cols + kSegmentCols - 1) / kSegmentCols) *
             kPanelRows * n_tokens * sizeof(float) +
         std::size_t{n_warps} * stages * detail::Segment<F, block, min_kind>::kStageBytes;
}

// At most n_tokens (1 or 8) tokens. Any number of thread blocks of 32 n_warps threads: each takes
// panels blockIdx.x, blockIdx.x + gridDim.x, ..., its warps the segments of a row in turn. The
// weights of the next stages - 1 segments are on their way while one is multiplied.
template <typename F, int block, int min_kind, int n_tokens, int n_warps, int stages>
__global__ void __launch_bounds__(32 * n_warps) packed_decode(DeviceProduct a) {
#if __CUDA_ARCH__ >= 800
  using Segment = detail::Segment<F, block, min_kind>;
  extern __shared__ uint4 shared[];  // [n_warps][stages] segments, then sums
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int panels = (a.rows + kPanelRows - 1) / kPanelRows;
  const int segments = (a.band.cols + kSegmentCols - 1) / kSegmentCols;
  const int rounds = (segments + n_warps - 1) / n_warps;
  const int end = rounds * n_warps;
  constexpr int kFactors = factor_bytes(block, min_kind);
  auto* ring = reinterpret_cast<std::byte*>(shared) + warp * stages * Segment::kStageBytes;
  // [2][segments][n_tokens][16]
  auto* const partial = reinterpret_cast<float*>(reinterpret_cast<std::byte*>(shared) +
                                                 n_warps * stages * Segment::kStageBytes);
  // From a segment to the warp's next of this panel, and from its last to the first of the next.
  const std::int64_t row_bytes = std::int64_t{segments} * a.band.segment_bytes;
  const std::int64_t step = std::int64_t{n_warps} * a.band.segment_bytes;
  const std::int64_t panel_step = gridDim.x * row_bytes - (rounds - 1) * step;

  // What is copied next, ahead of what is multiplied.
  int ahead_panel = static_cast<int>(blockIdx.x), ahead_segment = warp, ahead_stage = 0;
  const std::byte* at = a.band.segments + ahead_panel * row_bytes + warp * a.band.segment_bytes;
  const auto copy_next = [&] {
    if (ahead_panel < panels && ahead_segment < segments) {
      const std::byte* factors = a.band.row_factors == nullptr
                                     ? at + F::bits * 512
                                     : a.band.row_factors + ahead_panel * kFactors;
      Segment::copy(at, factors, ring + ahead_stage * Segment::kStageBytes, lane);
    }
    asm volatile("cp.async.commit_group;");
    ahead_segment += n_warps;
    at += ahead_segment < end ? step : panel_step;
    if (ahead_segment >= end) ahead_segment = warp, ahead_panel += static_cast<int>(gridDim.x);
    if (++ahead_stage == stages) ahead_stage = 0;
  };
#pragma unroll
  for (int i = 0; i < stages - 1; ++i) copy_next();
  detail::wait_for_inputs();
  detail::SegmentInput<block, n_tokens> x;
  if (warp < segments) x.load(a.x, warp, lane);

  float* sums = partial;
  int stage = 0;
#pragma unroll 1
  for (int panel = static_cast<int>(blockIdx.x); panel < panels;
       panel += static_cast<int>(gridDim.x)) {
#pragma unroll 1
    for (int segment = warp; segment < end; segment += n_warps) {
      copy_next();
      if (ahead_panel >= panels) detail::let_next_begin();
      asm volatile("cp.async.wait_group %0;" ::"n"(stages - 1));
      if (segment < segments) {
        Segment now;
        now.read(ring + stage * Segment::kStageBytes, lane);
        float acc[4] = {};
        now.multiply(x, acc);
        const int g = lane / 4, q = lane % 4;
        if constexpr (n_tokens == 1) {
          if (q == 0) {
            *reinterpret_cast<float2*>(sums + segment * kPanelRows + 2 * g) = {acc[0], acc[2]};
          }
        } else {
          float* to = sums + (segment * n_tokens + 2 * q) * kPanelRows + 2 * g;
          *reinterpret_cast<float2*>(to) = {acc[0], acc[2]};
          *reinterpret_cast<float2*>(to + kPanelRows) = {acc[1], acc[3]};
        }
        if (rounds > 1) {
          x.load(a.x, segment + n_warps < segments ? segment + n_warps : warp, lane);
        }
      }
      if (++stage == stages) stage = 0;
    }
    __syncthreads();
    if (threadIdx.x < kPanelRows * n_tokens) detail::finish<n_tokens>(a, panel, segments, sums);
    // The other half is free: its sums were read before the barrier above.
    sums = sums == partial ? partial + segments * kPanelRows * n_tokens : partial;
  }
#endif
}

}  // namespace tenfold::cuda
