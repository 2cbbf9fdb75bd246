#pragma once
// Eight elements of a key or value in a page (kernels/kv_page.h), at a time. `aligned`: head_dim is
// a multiple of 8, so that they lie in one piece; else of 2. What lies behind a row reads as zeros.

#include <cuda_fp16.h>

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "kernels/kv_page.h"

namespace tenfold::cuda {

// Two signed codes as f16, exactly: 1024 + (code + 128), less 1152. bytes: which of the four.
template <unsigned bytes>
__device__ __forceinline__ unsigned widen_codes(unsigned codes) {
  const unsigned biased = __byte_perm(codes ^ 0x80808080u, 0x64646464u, bytes);
  const __half2 pair =
      __hsub2(reinterpret_cast<const __half2&>(biased), __half2half2(__ushort_as_half(0x6480)));
  return reinterpret_cast<const unsigned&>(pair);
}

__device__ __forceinline__ uint4 widen_eight(unsigned low, unsigned high) {
  return {widen_codes<0x4140>(low), widen_codes<0x4342>(low), widen_codes<0x4140>(high),
          widen_codes<0x4342>(high)};
}

// Zeros unless `real`. Without a branch, so that many loads are on their way at once, and in order:
// __ldg could move above the wait for the kernel that stored what is read.
__device__ __forceinline__ void load_if(bool real, const std::byte* from, uint4& x) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %5, 0;\n"
      "mov.b32 %0, 0;\nmov.b32 %1, 0;\nmov.b32 %2, 0;\nmov.b32 %3, 0;\n"
      "@p ld.global.v4.b32 {%0, %1, %2, %3}, [%4];\n}"
      : "=&r"(x.x), "=&r"(x.y), "=&r"(x.z), "=&r"(x.w)
      : "l"(__cvta_generic_to_global(from)), "r"(static_cast<int>(real)));
}
__device__ __forceinline__ void load_if(bool real, const std::byte* from, uint2& x) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %3, 0;\n"
      "mov.b32 %0, 0;\nmov.b32 %1, 0;\n"
      "@p ld.global.v2.b32 {%0, %1}, [%2];\n}"
      : "=&r"(x.x), "=&r"(x.y)
      : "l"(__cvta_generic_to_global(from)), "r"(static_cast<int>(real)));
}

// Pairs [d / 2, d / 2 + 4) of T, two elements each, of a row of head_dim elements.
template <typename T>
__device__ __forceinline__ void load_pairs(const void* row, int d, int head_dim, T (&to)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    to[i] = d + 2 * i < head_dim ? static_cast<const T*>(row)[d / 2 + i] : T{};
  }
}

// As they lie in memory: f16 elements or q8's codes.
template <KvType type>
using Eight = std::conditional_t<type == KvType::q8, uint2, uint4>;

// Of row `key`; zeros unless `real`.
template <KvType type, bool aligned>
__device__ __forceinline__ Eight<type> load_eight(const std::byte* rows, int key, int d,
                                                  int head_dim, bool real) {
  constexpr int kBytes = type == KvType::q8 ? 1 : 2;
  const std::byte* row = rows + static_cast<unsigned>(key * head_dim * kBytes);
  Eight<type> x{};
  if constexpr (aligned) {
    load_if(real && d < head_dim, row + d * kBytes, x);
  } else if constexpr (type == KvType::q8) {
    unsigned short v[4];
    load_pairs(row, d, real ? head_dim : 0, v);
    x = {v[0] | unsigned{v[1]} << 16, v[2] | unsigned{v[3]} << 16};
  } else {
    unsigned v[4];
    load_pairs(row, d, real ? head_dim : 0, v);
    x = {v[0], v[1], v[2], v[3]};
  }
  return x;
}

__device__ __forceinline__ uint4 as_halves(uint4 halves) { return halves; }
__device__ __forceinline__ uint4 as_halves(uint2 codes) { return widen_eight(codes.x, codes.y); }

template <bool aligned>
__device__ __forceinline__ void load_floats(const float* row, int d, int head_dim, float (&to)[8]) {
  if constexpr (aligned) {
    float4 v[2] = {};
    if (d < head_dim) {
      v[0] = *reinterpret_cast<const float4*>(row + d);
      v[1] = *(reinterpret_cast<const float4*>(row + d) + 1);
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      to[4 * i] = v[i].x, to[4 * i + 1] = v[i].y, to[4 * i + 2] = v[i].z, to[4 * i + 3] = v[i].w;
    }
  } else {
    float2 v[4];
    load_pairs(row, d, head_dim, v);
#pragma unroll
    for (int i = 0; i < 4; ++i) to[2 * i] = v[i].x, to[2 * i + 1] = v[i].y;
  }
}

}  // namespace tenfold::cuda
