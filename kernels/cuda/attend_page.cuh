#pragma once
// What one warp does in attention: the scores of 16 queries with the keys of one page, and the sums
// of its values that they weight. f16 keys and q8's codes meet the queries on tensor cores, each
// query, and each probability, as the sum of two f16 numbers: 22 bits, so that what is lost is
// about what float sums lose. f32 pages are multiplied in float.
//
// Fragments are loaded from memory as they are needed, 16 bytes a lane and without shared memory:
// the order of dimensions within a dot product is free, as is which columns of a result a tile has.
//
//   lane 4g + q has queries g and g + 8; of scores[j] keys 8j + 2q and 8j + 2q + 1 (first those of
//   query g); of values[t] channels 16q + t and 16q + 8 + t of a block of 64.
//   In a step of 32 dimensions a lane multiplies 8q ... 8q + 7: dot products of 16 of them take
//   the first four of every eight, then the others.
//
// A query's results do not depend on the other 15, nor on keys that it does not see.

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/kv_load.cuh"

namespace tenfold::cuda {

inline constexpr int kTileQueries = 16;
inline constexpr int kStepDims = 32;
inline constexpr int kBlockChannels = 64;
inline constexpr int kPageKeys = static_cast<int>(kPageTokens);
inline constexpr int kKeyTiles = kPageKeys / 8;

// One KV head's keys or values in a page.
struct PageShare {
  const std::byte* rows;
  int head_dim;
  int n_keys;  // that any query of the tile sees; the others' rows may hold anything

  __device__ const float* scales() const {  // q8
    return reinterpret_cast<const float*>(rows + kPageKeys * head_dim);
  }
};

// Bytes of shared memory that 16 queries take.
template <KvType type>
__host__ __device__ constexpr int query_bytes(int head_dim) {
  const int padded = (head_dim + kStepDims - 1) / kStepDims * kStepDims;
  return kTileQueries * (type == KvType::f32 ? padded + 4 : padded) * 4;
}

struct Lane {
  int g, q;
  __device__ Lane()
      : g(static_cast<int>(threadIdx.x) % 32 / 4), q(static_cast<int>(threadIdx.x) % 4) {}
};

__device__ __forceinline__ float exp2_of(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// 2^-e such that x 2^-e is in [1/2, 1), and back; x >= 0.
struct PowerOfTwo {
  float down, up;
  __device__ explicit PowerOfTwo(float x) {
    const int exponent = min(max(__float_as_int(x) >> 23, 1), 252);
    down = __int_as_float((253 - exponent) << 23);
    up = __int_as_float((exponent + 1) << 23);
  }
};

// a + b = the two numbers to 22 bits, as f16 pairs.
__device__ __forceinline__ void split_pair(float x, float y, unsigned& a, unsigned& b) {
  const __half2 high = __floats2half2_rn(x, y);
  const float2 back = __half22float2(high);
  const __half2 low = __floats2half2_rn(x - back.x, y - back.y);
  a = reinterpret_cast<const unsigned&>(high);
  b = reinterpret_cast<const unsigned&>(low);
}

// c += a b, 16 x 8 x 16.
__device__ __forceinline__ void mma(float (&c)[4], unsigned a0, unsigned a1, unsigned a2,
                                    unsigned a3, unsigned b0, unsigned b1) {
#if __CUDA_ARCH__ >= 800
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
#else
  asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, "
      "{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a0), "r"(a1), "r"(b0));
  asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, "
      "{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a2), "r"(a3), "r"(b1));
#endif
}

// Query `row` of a tile to shared memory, by a warp; x: [head_dim] or null. Returns what scores are
// to be multiplied by. f32: [16][padded + 4] floats; else fragments [steps][4][32 lanes] of 16
// bytes: the high halves of queries g and g + 8, then the low ones.
template <KvType type, bool aligned>
__device__ __forceinline__ float put_query(const float* x, int head_dim, int row, void* tile) {
  const int d = static_cast<int>(threadIdx.x) % 32 * 8;
  const int padded = (head_dim + kStepDims - 1) / kStepDims * kStepDims;
  float v[8] = {};
  if (x != nullptr && d < head_dim) load_floats<aligned>(x, d, head_dim, v);
  if constexpr (type == KvType::f32) {
    auto* to = static_cast<float4*>(tile) + (row * (padded + 4) + d) / 4;
    if (d < padded) {
      to[0] = {v[0], v[1], v[2], v[3]};
      to[1] = {v[4], v[5], v[6], v[7]};
    }
    return 1;
  } else {
    float largest = 0;
#pragma unroll
    for (const float element : v) largest = fmaxf(largest, fabsf(element));
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2) {
      largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, mask));
    }
    const PowerOfTwo scale(largest);
    uint4 high, low;
    split_pair(v[0] * scale.down, v[1] * scale.down, high.x, low.x);
    split_pair(v[2] * scale.down, v[3] * scale.down, high.y, low.y);
    split_pair(v[4] * scale.down, v[5] * scale.down, high.z, low.z);
    split_pair(v[6] * scale.down, v[7] * scale.down, high.w, low.w);
    uint4* to = static_cast<uint4*>(tile) + (d / kStepDims * 4 + row / 8) * 32 + row % 8 * 4 +
                d % kStepDims / 8;
    if (d < padded) to[0] = high, to[2 * 32] = low;
    return scale.up;
  }
}

// Adds the dot products of the tile's queries, as put_query left them, and the page's keys.
template <KvType type, bool aligned>
__device__ __forceinline__ void page_scores(const PageShare& keys, const void* tile,
                                            float (&scores)[kKeyTiles][4]) {
  const Lane lane;
  if constexpr (type == KvType::f32) {
    const int padded = (keys.head_dim + kStepDims - 1) / kStepDims * kStepDims;
    const float* x = static_cast<const float*>(tile) + lane.g * (padded + 4);
    const float* y = x + 8 * (padded + 4);
#pragma unroll 1
    for (int d = 0; d < keys.head_dim; d += 8) {
#pragma unroll
      for (int j = 0; j < kKeyTiles; ++j) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int key = 8 * j + 2 * lane.q + i;
          float v[8] = {};
          if (key < keys.n_keys) {
            load_floats<aligned>(reinterpret_cast<const float*>(keys.rows) + key * keys.head_dim, d,
                                 keys.head_dim, v);
          }
#pragma unroll
          for (int c = 0; c < 8; ++c) {
            scores[j][i] = __fmaf_rn(x[d + c], v[c], scores[j][i]);
            scores[j][2 + i] = __fmaf_rn(y[d + c], v[c], scores[j][2 + i]);
          }
        }
      }
    }
  } else {
    const uint4* from = static_cast<const uint4*>(tile) + threadIdx.x % 32;
#pragma unroll 1
    for (int d = 0; d < keys.head_dim; d += kStepDims, from += 4 * 32) {
      uint4 k[kKeyTiles];
#pragma unroll
      for (int j = 0; j < kKeyTiles; ++j) {
        const int key = 8 * j + lane.g;
        k[j] = {};
        if (key < keys.n_keys) {
          k[j] = load_halves<type, aligned>(keys.rows, key, d + 8 * lane.q, keys.head_dim);
        }
      }
#pragma unroll
      for (int part = 0; part < 2; ++part) {
        const uint4 a = from[part * 64], b = from[part * 64 + 32];
#pragma unroll
        for (int j = 0; j < kKeyTiles; ++j) {
          mma(scores[j], a.x, b.x, a.y, b.y, k[j].x, k[j].y);
          mma(scores[j], a.z, b.z, a.w, b.w, k[j].z, k[j].w);
        }
      }
    }
  }
}

// The values' weights as page_values takes them, and what its sums are to be multiplied by, for
// query g and query g + 8.
template <KvType type>
struct PageWeights {
  unsigned high[kKeyTiles / 2][4], low[kKeyTiles / 2][4];
  float factor[2];

  __device__ __forceinline__ PageWeights(const PageShare& values,
                                         const float (&probabilities)[kKeyTiles][4]) {
    float p[kKeyTiles][4];
    factor[0] = factor[1] = 1;
    float largest[2] = {};
#pragma unroll
    for (int j = 0; j < kKeyTiles; ++j) {
#pragma unroll
      for (int i = 0; i < 4; ++i) p[j][i] = probabilities[j][i];
      if constexpr (type == KvType::q8) {
        const int key = 8 * j + 2 * Lane().q;
        float2 scale{};
        if (key < values.n_keys) {
          scale = __ldg(reinterpret_cast<const float2*>(values.scales() + key));
        }
        if (key + 1 >= values.n_keys) scale.y = 0;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          p[j][i] *= i % 2 == 0 ? scale.x : scale.y;
          largest[i / 2] = fmaxf(largest[i / 2], p[j][i]);
        }
      }
    }
    if constexpr (type == KvType::q8) {
#pragma unroll
      for (int row = 0; row < 2; ++row) {
        largest[row] = fmaxf(largest[row], __shfl_xor_sync(0xffffffffu, largest[row], 1));
        largest[row] = fmaxf(largest[row], __shfl_xor_sync(0xffffffffu, largest[row], 2));
        const PowerOfTwo scale(largest[row]);
        factor[row] = scale.up;
#pragma unroll
        for (int j = 0; j < kKeyTiles; ++j) {
          p[j][2 * row] *= scale.down;
          p[j][2 * row + 1] *= scale.down;
        }
      }
    }
#pragma unroll
    for (int j = 0; j < kKeyTiles; ++j) {
#pragma unroll
      for (int row = 0; row < 2; ++row) {
        const int i = j % 2 * 2 + row;
        split_pair(p[j][2 * row], p[j][2 * row + 1], high[j / 2][i], low[j / 2][i]);
      }
    }
  }
};

template <>
struct PageWeights<KvType::f32> {
  float p[kKeyTiles][4];
  float factor[2];

  __device__ __forceinline__ PageWeights(const PageShare&,
                                         const float (&probabilities)[kKeyTiles][4]) {
    factor[0] = factor[1] = 1;
#pragma unroll
    for (int j = 0; j < kKeyTiles; ++j) {
#pragma unroll
      for (int i = 0; i < 4; ++i) p[j][i] = probabilities[j][i];
    }
  }
};

// Adds the weighted sums of the page's values, channels [c0, c0 + 64).
template <KvType type, bool aligned>
__device__ __forceinline__ void page_values(const PageShare& values,
                                            const PageWeights<type>& weights, int c0,
                                            float (&sums)[8][4]) {
  const Lane lane;
  if constexpr (type == KvType::f32) {
    PageWeights<type> left = weights;  // left.p[0]: of the next 8 keys
#pragma unroll 1
    for (int j = 0; 8 * j < values.n_keys; ++j) {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const int source = lane.g * 4 + i / 2;
        const float p0 = __shfl_sync(0xffffffffu, left.p[0][i % 2], source);
        const float p1 = __shfl_sync(0xffffffffu, left.p[0][2 + i % 2], source);
        const int key = 8 * j + i;
        if (key >= values.n_keys) continue;
        const float* row = reinterpret_cast<const float*>(values.rows) + key * values.head_dim;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          float v[8];
          load_floats<aligned>(row, c0 + 16 * lane.q + 8 * half, values.head_dim, v);
#pragma unroll
          for (int t = 0; t < 8; ++t) {
            sums[t][half] = __fmaf_rn(p0, v[t], sums[t][half]);
            sums[t][2 + half] = __fmaf_rn(p1, v[t], sums[t][2 + half]);
          }
        }
      }
#pragma unroll
      for (int k = 1; k < kKeyTiles; ++k) {
#pragma unroll
        for (int i = 0; i < 4; ++i) left.p[k - 1][i] = left.p[k][i];
      }
    }
  } else {
#pragma unroll
    for (int step = 0; step < kKeyTiles / 2; ++step) {
      if (16 * step >= values.n_keys) break;
      uint4 v[4];  // keys 2q, 2q + 1, 2q + 8, 2q + 9 of the step's 16
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int key = 16 * step + 2 * lane.q + i / 2 * 8 + i % 2;
        v[i] = {};
        if (key < values.n_keys) {
          v[i] = load_halves<type, aligned>(values.rows, key, c0 + 8 * lane.g, values.head_dim);
        }
      }
      const auto& a = weights.high[step];
      const auto& b = weights.low[step];
#pragma unroll
      for (int t = 0; t < 8; ++t) {
        const auto of = [t](const uint4& x) {
          return t < 2 ? x.x : t < 4 ? x.y : t < 6 ? x.z : x.w;
        };
        const unsigned pick = t % 2 == 0 ? 0x5410 : 0x7632;
        const unsigned b0 = __byte_perm(of(v[0]), of(v[1]), pick);
        const unsigned b1 = __byte_perm(of(v[2]), of(v[3]), pick);
        mma(sums[t], a[0], a[1], a[2], a[3], b0, b1);
        mma(sums[t], b[0], b[1], b[2], b[3], b0, b1);
      }
    }
  }
}

}  // namespace tenfold::cuda
