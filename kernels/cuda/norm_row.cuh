#pragma once
// A row that a thread block normalizes, or as many of its threads as a row's length asks for: the
// order of its sums follows from its length and from whether all is aligned.

#include <algorithm>
#include <type_traits>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/reduce.cuh"

namespace tenfold::cuda {

inline constexpr int kMostNormThreads = 1024;

// Four steps of four columns a thread, where rows are long enough.
constexpr int norm_threads(int dim) {
  return std::min(divide_up(dim, 16 * 32) * 32, kMostNormThreads);
}

// Columns that a thread takes at once: a float4 where `vector`.
template <bool vector>
struct Columns {
  static constexpr int kWidth = vector ? 4 : 1;
  float v[kWidth];

  __device__ __forceinline__ void load(const float* from) {
    if constexpr (vector) {
      const float4 four = *reinterpret_cast<const float4*>(from);
      v[0] = four.x, v[1] = four.y, v[2] = four.z, v[3] = four.w;
    } else {
      v[0] = *from;
    }
  }
  __device__ __forceinline__ void store(float* to) const {
    if constexpr (vector) {
      *reinterpret_cast<float4*>(to) = {v[0], v[1], v[2], v[3]};
    } else {
      *to = v[0];
    }
  }
};

// The columns of a row that are this thread's, of the first `threads` of a block. The first ones
// stay in registers.
template <bool vector>
class Row {
 public:
  __device__ __forceinline__ Row(const float* x, int dim, int threads)
      : x_(x), dim_(static_cast<int>(threadIdx.x) < threads ? dim : 0), threads_(threads) {
#pragma unroll
    for (int k = 0; k < kKept; ++k) {
      if (column(k) < dim_) kept_[k].load(x_ + column(k));
    }
  }
  __device__ __forceinline__ int column(int k) const {
    return (k * threads_ + static_cast<int>(threadIdx.x)) * Columns<vector>::kWidth;
  }
  // function(k, kept, v): the thread's k-th columns; kept: at() has them in registers.
  template <typename Function>
  __device__ __forceinline__ void for_each(Function function) const {
#pragma unroll
    for (int k = 0; k < kKept; ++k) {
      if (column(k) < dim_) function(k, std::true_type{}, kept_[k]);
    }
    for (int k = kKept; column(k) < dim_; ++k) function(k, std::false_type{}, at<false>(k));
  }
  template <bool kept>
  __device__ __forceinline__ Columns<vector> at(int k) const {
    if constexpr (kept) return kept_[k];
    Columns<vector> v;
    v.load(x_ + column(k));
    return v;
  }

 private:
  static constexpr int kKept = 4;  // steps of a thread whose columns stay in registers

  const float* x_;
  int dim_, threads_;
  Columns<vector> kept_[kKept];
};

// 1 / sqrt(sum / dim + eps)
__device__ __forceinline__ float inverse_root(float sum, int dim, float eps) {
  const float mean = __fdiv_rn(sum, static_cast<float>(dim));
  return __fdiv_rn(1.0f, __fsqrt_rn(__fadd_rn(mean, eps)));
}

// store(column, values) of (x - mean) * scale * weight + bias, of which weight and bias may be
// null; `centered`: else the mean counts as 0. All threads take part.
template <bool centered, bool vector, typename Store>
__device__ __forceinline__ void normalize(const Row<vector>& row, const Row<vector>& weights,
                                          const float* weight, const float* bias, float eps,
                                          int dim, Store store) {
  using Values = Columns<vector>;
  __shared__ float sums[2][32];
  float mean = 0;
  if constexpr (centered) {
    float sum = 0;
    row.for_each([&](int, auto, const Values& a) {
      for (const float v : a.v) sum = __fadd_rn(sum, v);
    });
    mean = __fdiv_rn(block_reduce(sum, Add{}, sums[0]), static_cast<float>(dim));
  }
  float squares = 0;
  row.for_each([&](int, auto, const Values& a) {
    for (const float v : a.v) {
      const float d = __fsub_rn(v, mean);
      squares = __fmaf_rn(d, d, squares);
    }
  });
  const float scale = inverse_root(block_reduce(squares, Add{}, sums[1]), dim, eps);
  row.for_each([&](int k, auto kept, Values a) {
    Values w, b;
    if (weight != nullptr) w = weights.template at<decltype(kept)::value>(k);
    if (bias != nullptr) b.load(bias + row.column(k));
#pragma unroll
    for (int j = 0; j < Values::kWidth; ++j) {
      a.v[j] = __fmul_rn(__fsub_rn(a.v[j], mean), scale);
      if (weight != nullptr) a.v[j] = __fmul_rn(a.v[j], w.v[j]);
      if (bias != nullptr) a.v[j] = __fadd_rn(a.v[j], b.v[j]);
    }
    store(row.column(k), a);
  });
}

}  // namespace tenfold::cuda
