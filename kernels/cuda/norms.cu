// Norms: a thread block for each row.

#include <algorithm>
#include <type_traits>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/reduce.cuh"

namespace tenfold::cuda {
namespace {

constexpr int kMostThreads = 1024;
constexpr int kKept = 4;  // steps of a thread whose columns stay in registers

// Four steps of four columns a thread, where rows are long enough. The order of a row's sums
// follows from its length and from whether all is aligned.
unsigned threads_for(int dim) {
  return static_cast<unsigned>(std::min(divide_up(dim, 16 * 32) * 32, kMostThreads));
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

// The columns of a row that are this thread's. The first ones stay in registers.
template <bool vector>
class Row {
 public:
  __device__ __forceinline__ Row(const float* x, int dim) : x_(x), dim_(dim) {
#pragma unroll
    for (int k = 0; k < kKept; ++k) {
      if (column(k) < dim_) kept_[k].load(x_ + column(k));
    }
  }
  static __device__ __forceinline__ int column(int k) {
    return (k * static_cast<int>(blockDim.x) + static_cast<int>(threadIdx.x)) *
           Columns<vector>::kWidth;
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
  const float* x_;
  int dim_;
  Columns<vector> kept_[kKept];
};

// 1 / sqrt(sum / dim + eps)
__device__ __forceinline__ float inverse_root(float sum, int dim, float eps) {
  const float mean = __fdiv_rn(sum, static_cast<float>(dim));
  return __fdiv_rn(1.0f, __fsqrt_rn(__fadd_rn(mean, eps)));
}

// y = (x - mean) * scale * weight + bias; `centered`: else the mean counts as 0.
template <bool centered, bool vector>
__global__ void __launch_bounds__(kMostThreads)
    norm(const float* x, const float* weight, const float* bias, float eps, int dim, float* y) {
  using Values = Columns<vector>;
  __shared__ float sums[2][32];
  // No kernel writes weights: they come from memory while the one before still runs.
  const Row<vector> weights(weight, weight == nullptr ? 0 : dim);
  begin_kernel();
  const Row<vector> row(x + std::int64_t{blockIdx.x} * dim, dim);
  y += std::int64_t{blockIdx.x} * dim;
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
    a.store(y + row.column(k));
  });
}

template <bool centered>
cudaError_t launch_norm(const float* x, const float* weight, const float* bias, float eps,
                        std::int64_t tokens, int dim, float* y, cudaStream_t stream) {
  if (tokens == 0) return cudaSuccess;
  std::uintptr_t places = 0;
  for (const float* p : {x, weight, bias, static_cast<const float*>(y)}) {
    places |= reinterpret_cast<std::uintptr_t>(p);
  }
  const bool vector = dim % 4 == 0 && places % 16 == 0;
  const auto kernel = vector ? norm<centered, true> : norm<centered, false>;
  return launch(stream, static_cast<unsigned>(tokens), threads_for(dim), 0, kernel, x, weight, bias,
                eps, dim, y);
}

}  // namespace

cudaError_t rms_norm(const float* x, const float* weight, float eps, std::int64_t tokens,
                     std::int64_t dim, float* y, cudaStream_t stream) {
  return launch_norm<false>(x, weight, nullptr, eps, tokens, static_cast<int>(dim), y, stream);
}

cudaError_t layer_norm(const float* x, const float* weight, const float* bias, float eps,
                       std::int64_t tokens, std::int64_t dim, float* y, cudaStream_t stream) {
  return launch_norm<true>(x, weight, bias, eps, tokens, static_cast<int>(dim), y, stream);
}

}  // namespace tenfold::cuda
