#pragma once
// What the kernels of packed_linear.h share: a segment of weights on its way from global memory to
// operand A of mma.m16n8k32 (a panel's 16 rows; tokens are its 8 columns), and what becomes of a
// block's dot products.

#include <cuda_fp16.h>

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/device_layout.h"
#include "kernels/cuda/packed_band.h"
#include "kernels/cuda/unroll.cuh"

namespace tenfold::cuda {

namespace detail {

// Sums of products begin here and not at 0: as bits of a float it is kMagic, and kMagic + dot while
// |dot| <= 128 * 255 * 127 < 2^22. So one exact subtraction makes a float of them; conversions
// would run at a quarter of the rate or less.
inline constexpr int kMagicBits = 0x4b400000;
inline constexpr float kMagic = 12582912.0f;

// Keeps a value in its register: the compiler would find it anew at each use.
template <typename T>
__device__ __forceinline__ void keep(T& value) {
  asm volatile("" : "+r"(value));
}

// d = a b + c; they may be the same. sm_75 has no m16n8k32, but four m8n8k16 on the same registers.
__device__ __forceinline__ void mma(int (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1,
                                    const int (&c)[4]) {
#if __CUDA_ARCH__ >= 800
  asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%10,%11,%12,%13};"
      : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "r"(c[0]), "r"(c[1]),
        "r"(c[2]), "r"(c[3]));
#else
  const auto half = [](int& d0, int& d1, unsigned a0, unsigned b, int c0, int c1) {
    asm("mma.sync.aligned.m8n8k16.row.col.s32.u8.s8.s32 {%0,%1}, {%2}, {%3}, {%4,%5};"
        : "=r"(d0), "=r"(d1)
        : "r"(a0), "r"(b), "r"(c0), "r"(c1));
  };
  half(d[0], d[1], a[0], b0, c[0], c[1]);
  half(d[2], d[3], a[1], b0, c[2], c[3]);
  half(d[0], d[1], a[2], b1, d[0], d[1]);
  half(d[2], d[3], a[3], b1, d[2], d[3]);
#endif
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

// What the kernels call places in shared memory: from a pointer sm_90 finds its window anew at each
// use.
__device__ __forceinline__ unsigned shared_address(const void* p) {
  return static_cast<unsigned>(__cvta_generic_to_shared(p));
}

// 16 bytes to shared memory, in the background where the device can.
__device__ __forceinline__ void copy_async(const void* from, unsigned to) {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
#else
  const uint4 v = *static_cast<const uint4*>(from);
  asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(v.x), "r"(v.y), "r"(v.z),
               "r"(v.w)
               : "memory");
#endif
}
__device__ __forceinline__ void commit_copies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
// Until at most `left` groups of copies are under way.
template <int left>
__device__ __forceinline__ void wait_for_copies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(left) : "memory");
#endif
}

// Dwords from shared memory, in the largest pieces that their place allows.
template <int n_dwords>
__device__ __forceinline__ void read_dwords(unsigned from, unsigned* to) {
  constexpr int piece = n_dwords % 4 == 0 ? 4 : n_dwords % 2 == 0 ? 2 : 1;
#pragma unroll
  for (int i = 0; i < n_dwords; i += piece) {
    if constexpr (piece == 4) {
      asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                   : "=r"(to[i]), "=r"(to[i + 1]), "=r"(to[i + 2]), "=r"(to[i + 3])
                   : "r"(from + 4 * i)
                   : "memory");
    } else if constexpr (piece == 2) {
      asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];"
                   : "=r"(to[i]), "=r"(to[i + 1])
                   : "r"(from + 4 * i)
                   : "memory");
    } else {
      asm volatile("ld.shared.u32 %0, [%1];" : "=r"(to[i]) : "r"(from + 4 * i) : "memory");
    }
  }
}

// Moved right by `right` bits, if to the left where that is negative.
template <int right, unsigned mask>
__device__ __forceinline__ unsigned bits_of(unsigned dword) {
  if constexpr (right == 0 && mask == ~0u) return dword;
  if constexpr (right > 0) return (dword >> right) & mask;
  if constexpr (right < 0) return (dword << -right) & mask;
  return dword & mask;
}

// Codes of odd steps may stay where they are, next to the even ones: times 2^bits. That spares half
// of the shifts, and costs a second sum.
template <typename F>
inline constexpr bool kCanStay = F::n_planes == 1 && F::bits < 8;

// Quad i of one row of the pair and 128 columns; dwords: [plane][dword][row of the pair].
template <typename F, int i, bool stay>
__device__ __forceinline__ unsigned quad(const unsigned* dwords, int row) {
  constexpr int at = quad_place(i);
  unsigned result = 0;
  unroll<F::n_planes>([&](auto plane) {
    constexpr int p = decltype(plane)::value;
    constexpr int bits = F::planes[p].bits;
    constexpr int before = p == 0 ? 0 : F::planes[0].bits;
    constexpr int dword = before + at * bits / 8;
    constexpr int to = F::planes[p].shift + (stay ? at % 2 * bits : 0);
    constexpr unsigned mask = ((1u << bits) - 1) * 0x01010101u << to;
    result |= bits_of<at % (8 / bits) * bits - to, mask>(dwords[2 * dword + row]);
  });
  return result;
}

// Byte i. sm_90 moves the middle ones to the end before it converts them: three instructions.
template <int i>
__device__ __forceinline__ float float_of_byte(unsigned bytes) {
#if __CUDA_ARCH__ >= 900
  if constexpr (i == 1 || i == 2) {
    constexpr float magic = 8388608.0f;  // its bits end in the number that is added
    return __fsub_rn(__uint_as_float(__byte_perm(bytes, __float_as_uint(magic), 0x7650 | i)),
                     magic);
  }
#endif
  return __uint2float_rn(bytes >> 8 * i & 255);
}

__device__ __forceinline__ float2 halves(unsigned pair) {
  return __half22float2(reinterpret_cast<const __half2&>(pair));
}

inline constexpr int kBitBytes = kPanelRows * kSegmentCols / 8;  // of a segment's codes

// A segment's weights and factors, on their way or here.
template <typename F, int block, int min_kind>
struct Segment {
  static constexpr int kGroups = kSegmentCols / block;
  static constexpr int kMins = min_kind == 0 ? kGroups / 2 : min_kind == 2 ? kGroups : 0;
  static constexpr int kFactors = kGroups + kMins;  // dwords of a lane group
  static constexpr int kCodeBytes = F::bits * kBitBytes;
  static constexpr int kFactorBytes = factor_bytes(block, min_kind);
  // Of a warp's segment in shared memory, where it lies as in global memory.
  static constexpr int kStageBytes = kCodeBytes + 8 * 4 * kFactors;
  unsigned codes[4 * F::bits];
  unsigned factors[kFactors];

  // The same in all lanes. A step leads to another segment.
  struct Place {
    const std::byte *codes, *factors;
    __device__ __forceinline__ void advance(std::int64_t code_step, std::int64_t factor_step) {
      codes += code_step, factors += factor_step;
    }
  };
  // Codes are the lane's own, factors those of others too: they need a barrier of the warp at
  // least.
  static __device__ __forceinline__ void copy(const Place& from, unsigned stage, int lane) {
    const unsigned at = lane * 16;
#pragma unroll
    for (int i = 0; i < F::bits; ++i) {
      copy_async(from.codes + at + i * 512, stage + at + i * 512);
    }
    if (lane < 2 * kFactors) copy_async(from.factors + at, stage + at + kCodeBytes);
  }
  __device__ __forceinline__ void read(unsigned stage, int lane) {
#pragma unroll
    for (int i = 0; i < F::bits; ++i) {
      read_dwords<4>(stage + (i * 32 + lane) * 16, codes + 4 * i);
    }
    read_dwords<kFactors>(stage + kCodeBytes + lane / 4 * (4 * kFactors), factors);
  }

  // Operand A of step j (0 ... 7): rows 2g, 2g + 1 of columns 32j ... stay: of odd steps as above.
  template <int j, bool stay>
  __device__ __forceinline__ void operand(unsigned (&a)[4]) const {
    constexpr int k = j % 4;
    const unsigned* dwords = codes + j / 4 * (2 * F::bits);
    a[0] = quad<F, 2 * k, stay>(dwords, 0), a[1] = quad<F, 2 * k, stay>(dwords, 1);
    a[2] = quad<F, 2 * k + 1, stay>(dwords, 0), a[3] = quad<F, 2 * k + 1, stay>(dwords, 1);
  }
  // Of group i, for rows 2g and 2g + 1.
  template <int i>
  __device__ __forceinline__ float2 scales() const {
    return halves(factors[i]);
  }
  template <int i>
  __device__ __forceinline__ float2 minima(float2 s) const {
    if constexpr (min_kind == 2) return halves(factors[kGroups + i]);
    constexpr float middle = static_cast<float>((1 << F::bits) - 1) * 0.5f;
    if constexpr (min_kind == 1) return {-__fmul_rn(s.x, middle), -__fmul_rn(s.y, middle)};
    const unsigned zeros = factors[kGroups + i / 2];
    return {-__fmul_rn(s.x, float_of_byte<i % 2 * 2>(zeros)),
            -__fmul_rn(s.y, float_of_byte<i % 2 * 2 + 1>(zeros))};
  }
};

// A block's dot product. Of two sums: of even steps, and of odd ones whose codes stay.
__device__ __forceinline__ float dot_of(int c) { return __fsub_rn(__int_as_float(c), kMagic); }
template <int bits>
__device__ __forceinline__ float dot_of_staying(int c) {
  constexpr float unit = 1.0f / (1 << bits);
  return __fmaf_rn(__int_as_float(c), unit, -kMagic * unit);
}
template <int bits>
__device__ __forceinline__ float dot_of(int even, int odd) {
  constexpr float unit = 1.0f / (1 << bits);
  return __fmaf_rn(__int_as_float(odd), unit,
                   __fsub_rn(__int_as_float(even), kMagic + kMagic * unit));
}

// One block into a row's sum: device_layout.h. factors: scale of the block, and scale * sum.
__device__ __forceinline__ void add_block(float scale, float min, const unsigned* factors,
                                          float dot, float& acc) {
  acc = __fmaf_rn(__fmul_rn(scale, __uint_as_float(factors[0])), dot, acc);
  acc = __fmaf_rn(min, __uint_as_float(factors[1]), acc);
}

// The part that a panel is of.
__device__ __forceinline__ BandPart part_of(const BandProduct& a, int panel) {
  BandPart part = a.parts[0];
#pragma unroll
  for (int i = 1; i < kMaxParts; ++i) {
    if (i < a.n_parts && panel >= a.parts[i].first_panel) part = a.parts[i];
  }
  return part;
}

// What y becomes in a part's row, from the sum over a band.
__device__ __forceinline__ float updated(const BandPart& part, int row, const float* y, float sum) {
  if (part.bias != nullptr) sum = __fadd_rn(sum, part.bias[row]);
  return part.accumulate ? __fadd_rn(*y, sum) : sum;
}
__device__ __forceinline__ void store(const BandPart& part, int row, int token, float sum) {
  if (row >= part.rows) return;
  float* y = part.y + token * part.ldy + row;
  *y = updated(part, row, y, sum);
}

}  // namespace detail
}  // namespace tenfold::cuda
