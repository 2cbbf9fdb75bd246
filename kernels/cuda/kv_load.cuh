#pragma once
// Eight elements of a key or value in a page (kernels/kv_page.h), at a time. `aligned`: head_dim is
// a multiple of 8, so that they lie in one piece; else of 2. What lies behind a row reads as zeros.

#include <cuda_fp16.h>

#include <cstddef>
#include <cstdint>

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

// Pairs [d / 2, d / 2 + 4) of T, two elements each, of a row of head_dim elements.
template <typename T>
__device__ __forceinline__ void load_pairs(const void* row, int d, int head_dim, T (&to)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    to[i] = d + 2 * i < head_dim ? __ldg(static_cast<const T*>(row) + d / 2 + i) : T{};
  }
}

// As f16: f16 elements or q8's codes.
template <KvType type, bool aligned>
__device__ __forceinline__ uint4 load_halves(const std::byte* rows, int key, int d, int head_dim) {
  if (d >= head_dim) return {};
  if constexpr (type == KvType::f16) {
    const std::byte* row = rows + key * head_dim * 2;
    if constexpr (aligned) return __ldg(reinterpret_cast<const uint4*>(row + d * 2));
    unsigned v[4];
    load_pairs(row, d, head_dim, v);
    return {v[0], v[1], v[2], v[3]};
  } else {
    static_assert(type == KvType::q8);
    const std::byte* row = rows + key * head_dim;
    if constexpr (aligned) {
      const uint2 codes = __ldg(reinterpret_cast<const uint2*>(row + d));
      return widen_eight(codes.x, codes.y);
    }
    unsigned short v[4];
    load_pairs(row, d, head_dim, v);
    return widen_eight(v[0] | unsigned{v[1]} << 16, v[2] | unsigned{v[3]} << 16);
  }
}

template <bool aligned>
__device__ __forceinline__ void load_floats(const float* row, int d, int head_dim, float (&to)[8]) {
  if constexpr (aligned) {
    float4 v[2] = {};
    if (d < head_dim) {
      v[0] = __ldg(reinterpret_cast<const float4*>(row + d));
      v[1] = __ldg(reinterpret_cast<const float4*>(row + d) + 1);
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
