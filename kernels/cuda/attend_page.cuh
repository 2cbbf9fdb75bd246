#pragma once
// What one warp does in attention: the scores of 16 queries with the keys of one page, and the sums
// of its values that they weight. f16 keys and q8's codes meet the queries on tensor cores, each
// query, and each probability, as the sum of two f16 numbers: 22 bits, so that what is lost is
// about what float sums lose. f32 pages are multiplied in float.
//
// Fragments are loaded from memory, 16 bytes a lane and without shared memory: the order of
// dimensions within a dot product is free, as is which columns of a result a tile has. They are
// asked for long before they are needed: Ahead holds what is on its way.
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

// A number that the compiler does not know: addresses made of it are not kept in registers that
// loads in flight need, from outside of loops.
__device__ __forceinline__ int recomputed(int x) {
  asm volatile("" : "+r"(x));
  return x;
}

__device__ __forceinline__ unsigned thread_index() {
  return static_cast<unsigned>(recomputed(static_cast<int>(threadIdx.x)));
}

struct Lane {
  int g, q;
  __device__ __forceinline__ Lane() {
    const unsigned lane = thread_index() % 32;
    g = static_cast<int>(lane / 4);
    q = static_cast<int>(lane % 4);
  }
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

// A lane's elements of a query.
struct QueryPart {
  float of[8];
};
__device__ __forceinline__ int query_dim() { return static_cast<int>(thread_index() % 32 * 8); }

// Query `row` of a tile to shared memory, by a warp. Returns what scores are to be multiplied by.
// f32: [16][padded + 4] floats; else fragments [steps][4][32 lanes] of 16 bytes: the high halves of
// queries g and g + 8, then the low ones.
template <KvType type>
__device__ __forceinline__ float put_query(const QueryPart& part, int head_dim, int row,
                                           void* tile) {
  const int d = query_dim();
  const int padded = (head_dim + kStepDims - 1) / kStepDims * kStepDims;
  const auto& v = part.of;
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

// A lane's share of a page's scales, as of its scores: keys 8j + 2q and 8j + 2q + 1. Nothing but
// for q8.
template <KvType type>
struct Scales {
  __device__ explicit Scales(const PageShare&) {}
};
template <>
struct Scales<KvType::q8> {
  float2 of[kKeyTiles];

  __device__ __forceinline__ explicit Scales(const PageShare& share) {
    const Lane lane;
#pragma unroll
    for (int j = 0; j < kKeyTiles; ++j) {
      const int key = 8 * j + 2 * lane.q;
      of[j] = {};
      if (key < share.n_keys) of[j] = *reinterpret_cast<const float2*>(share.scales() + key);
      if (key + 1 >= share.n_keys) of[j].y = 0;
    }
  }
};

// What is on its way to a lane: two steps of a page's keys, or its values in a block of channels.
template <KvType type>
struct Ahead {
  // Keys 8j + g of a step; of values keys 2q, 2q + 1, 2q + 8, 2q + 9 of every 16.
  Eight<type> eights[2][kKeyTiles];

  template <bool aligned>
  __device__ __forceinline__ void load_keys(const PageShare& keys, int d, int half) {
    const Lane lane;
    const int head_dim = recomputed(keys.head_dim), seen = recomputed(keys.n_keys) - lane.g;
    const std::byte* rows = keys.rows + lane.g * row_bytes(head_dim);
#pragma unroll
    for (int j = 0; j < kKeyTiles; ++j) {
      eights[half][j] =
          load_eight<type, aligned>(rows, 8 * j, d + 8 * lane.q, head_dim, 8 * j < seen);
    }
  }
  template <bool aligned>
  __device__ __forceinline__ void load_keys(const PageShare& keys) {
    load_keys<aligned>(keys, 0, 0);
    load_keys<aligned>(keys, kStepDims, 1);
  }

  // Of 16 keys.
  template <bool aligned>
  __device__ __forceinline__ void load_values(const PageShare& values, int c0, int step) {
    const Lane lane;
    const int head_dim = recomputed(values.head_dim), first = 16 * step + 2 * lane.q;
    const int seen = recomputed(values.n_keys) - first;
    const std::byte* rows = values.rows + first * row_bytes(head_dim);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int key = i / 2 * 8 + i % 2;
      eights[step / 2][step % 2 * 4 + i] =
          load_eight<type, aligned>(rows, key, c0 + 8 * lane.g, head_dim, key < seen);
    }
  }
  template <bool aligned>
  __device__ __forceinline__ void load_values(const PageShare& values) {
#pragma unroll
    for (int step = 0; step < kKeyTiles / 2; ++step) load_values<aligned>(values, 0, step);
  }

 private:
  __device__ static int row_bytes(int head_dim) {
    return type == KvType::q8 ? head_dim : 2 * head_dim;
  }
};
// Loads as it goes.
template <>
struct Ahead<KvType::f32> {
  template <bool aligned>
  __device__ void load_keys(const PageShare&) {}
  template <bool aligned>
  __device__ void load_values(const PageShare&) {}
};

// A step's products with fragments of queries.
template <typename T>
__device__ __forceinline__ void add_products(const uint4* queries, const T (&keys)[kKeyTiles],
                                             float (&scores)[kKeyTiles][4]) {
#pragma unroll
  for (int part = 0; part < 2; ++part) {
    const uint4 a = queries[part * 64], b = queries[part * 64 + 32];
#pragma unroll
    for (int j = 0; j < kKeyTiles; ++j) {
      const uint4 k = as_halves(keys[j]);
      mma(scores[j], a.x, b.x, a.y, b.y, k.x, k.y);
      mma(scores[j], a.z, b.z, a.w, b.w, k.z, k.w);
    }
  }
}

// Adds the dot products of the tile's queries, as put_query left them, and the page's keys. ahead:
// their first steps.
template <KvType type, bool aligned>
__device__ __forceinline__ void page_scores(const PageShare& keys, const void* tile,
                                            Ahead<type>& ahead, float (&scores)[kKeyTiles][4]) {
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
    for (int d = 0; d < keys.head_dim; d += 2 * kStepDims) {
#pragma unroll
      for (int half = 0; half < 2; ++half, from += 4 * 32) {
        const int at = d + half * kStepDims;
        if (at >= keys.head_dim) break;
        add_products(from, ahead.eights[half], scores);
        if (at + 2 * kStepDims < keys.head_dim) {
          ahead.template load_keys<aligned>(keys, at + 2 * kStepDims, half);
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

  // rows: 1 where there are no queries g + 8.
  __device__ __forceinline__ PageWeights(const Scales<type>& scales,
                                         const float (&probabilities)[kKeyTiles][4], int rows) {
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      factor[row] = 1;
      if (row < rows) {
        split_row(scales, probabilities, row);
      } else {
#pragma unroll
        for (int j = 0; j < kKeyTiles; ++j) high_of(j, row) = low_of(j, row) = 0;
      }
    }
  }

 private:
  __device__ __forceinline__ unsigned& high_of(int j, int row) {
    return high[j / 2][j % 2 * 2 + row];
  }
  __device__ __forceinline__ unsigned& low_of(int j, int row) {
    return low[j / 2][j % 2 * 2 + row];
  }

  __device__ __forceinline__ void split_row(const Scales<type>& scales,
                                            const float (&probabilities)[kKeyTiles][4], int row) {
    float p[kKeyTiles][2];
    float largest = 0;
#pragma unroll
    for (int j = 0; j < kKeyTiles; ++j) {
      p[j][0] = probabilities[j][2 * row];
      p[j][1] = probabilities[j][2 * row + 1];
      if constexpr (type == KvType::q8) {
        p[j][0] *= scales.of[j].x;
        p[j][1] *= scales.of[j].y;
        largest = fmaxf(largest, fmaxf(p[j][0], p[j][1]));
      }
    }
    if constexpr (type == KvType::q8) {
      largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 1));
      largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 2));
      const PowerOfTwo scale(largest);
      factor[row] = scale.up;
#pragma unroll
      for (auto& pair : p) pair[0] *= scale.down, pair[1] *= scale.down;
    }
#pragma unroll
    for (int j = 0; j < kKeyTiles; ++j) {
      split_pair(p[j][0], p[j][1], high_of(j, row), low_of(j, row));
    }
  }
};

template <>
struct PageWeights<KvType::f32> {
  float p[kKeyTiles][4];
  float factor[2];

  __device__ __forceinline__ PageWeights(const Scales<KvType::f32>&,
                                         const float (&probabilities)[kKeyTiles][4], int) {
    factor[0] = factor[1] = 1;
#pragma unroll
    for (int j = 0; j < kKeyTiles; ++j) {
#pragma unroll
      for (int i = 0; i < 4; ++i) p[j][i] = probabilities[j][i];
    }
  }
};

// Of 16 keys: their weights' halves, and values as Ahead has them.
template <typename T>
__device__ __forceinline__ void add_values(const unsigned (&a)[4], const unsigned (&b)[4],
                                           const T* values, float (&sums)[8][4]) {
  uint4 v[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) v[i] = as_halves(values[i]);
#pragma unroll
  for (int t = 0; t < 8; ++t) {
    const auto of = [t](const uint4& x) { return t < 2 ? x.x : t < 4 ? x.y : t < 6 ? x.z : x.w; };
    const unsigned pick = t % 2 == 0 ? 0x5410 : 0x7632;
    const unsigned b0 = __byte_perm(of(v[0]), of(v[1]), pick);
    const unsigned b1 = __byte_perm(of(v[2]), of(v[3]), pick);
    mma(sums[t], a[0], a[1], a[2], a[3], b0, b1);
    mma(sums[t], b[0], b[1], b[2], b[3], b0, b1);
  }
}

// Adds the weighted sums of the page's values, channels [c0, c0 + 64). ahead: these, and then the
// next block's.
template <KvType type, bool aligned>
__device__ __forceinline__ void page_values(const PageShare& values,
                                            const PageWeights<type>& weights, int c0,
                                            Ahead<type>& ahead, float (&sums)[8][4]) {
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
      if (16 * step < values.n_keys) {
        add_values(weights.high[step], weights.low[step], &ahead.eights[step / 2][step % 2 * 4],
                   sums);
      }
      // A step late, which leaves registers for the addresses.
      if (step > 0 && c0 + kBlockChannels < values.head_dim) {
        ahead.template load_values<aligned>(values, c0 + kBlockChannels, step - 1);
        if (step + 1 == kKeyTiles / 2) {
          ahead.template load_values<aligned>(values, c0 + kBlockChannels, step);
        }
      }
    }
  }
}

}  // namespace tenfold::cuda
