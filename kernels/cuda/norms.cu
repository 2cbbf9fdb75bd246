// Norms: a thread block for each row.

#include <algorithm>

#include "kernels/cuda/ops.h"
#include "kernels/cuda/reduce.cuh"

namespace tenfold::cuda {
namespace {

constexpr std::int64_t kMostThreads = 1024;

// Four columns a thread and step, where rows are long enough. Of the row's length alone: the order
// of its sums follows from it.
unsigned threads_for(std::int64_t dim) {
  return static_cast<unsigned>(std::min((dim + 127) / 128 * 32, kMostThreads));
}

// function(i, v) for all columns, by the same thread each time; x and y at columns i ... are a
// float4 where `vector`.
template <bool vector, typename Function>
__device__ __forceinline__ void for_columns(std::int64_t dim, Function function) {
  constexpr int kWidth = vector ? 4 : 1;
  for (std::int64_t i = std::int64_t{threadIdx.x} * kWidth; i < dim; i += blockDim.x * kWidth) {
    function(i);
  }
}

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

// 1 / sqrt(sum / dim + eps)
__device__ __forceinline__ float inverse_root(float sum, std::int64_t dim, float eps) {
  const float mean = __fdiv_rn(sum, static_cast<float>(dim));
  return __fdiv_rn(1.0f, __fsqrt_rn(__fadd_rn(mean, eps)));
}

// y = (x - mean) * scale * weight + bias; `centered`: else the mean counts as 0.
template <bool centered, bool vector>
__global__ void __launch_bounds__(kMostThreads)
    norm(const float* x, const float* weight, const float* bias, float eps, std::int64_t dim,
         float* y) {
  using Values = Columns<vector>;
  __shared__ float sums[2][32];
  x += blockIdx.x * dim;
  y += blockIdx.x * dim;
  float mean = 0;
  if constexpr (centered) {
    float sum = 0;
    for_columns<vector>(dim, [&](std::int64_t i) {
      Values a;
      a.load(x + i);
      for (const float v : a.v) sum = __fadd_rn(sum, v);
    });
    mean = __fdiv_rn(block_reduce(sum, Add{}, sums[0]), static_cast<float>(dim));
  }
  float squares = 0;
  for_columns<vector>(dim, [&](std::int64_t i) {
    Values a;
    a.load(x + i);
    for (const float v : a.v) {
      const float d = __fsub_rn(v, mean);
      squares = __fmaf_rn(d, d, squares);
    }
  });
  const float scale = inverse_root(block_reduce(squares, Add{}, sums[1]), dim, eps);
  for_columns<vector>(dim, [&](std::int64_t i) {
    Values a, w, b;
    a.load(x + i);
    if (weight != nullptr) w.load(weight + i);
    if (bias != nullptr) b.load(bias + i);
#pragma unroll
    for (int j = 0; j < Values::kWidth; ++j) {
      a.v[j] = __fmul_rn(__fsub_rn(a.v[j], mean), scale);
      if (weight != nullptr) a.v[j] = __fmul_rn(a.v[j], w.v[j]);
      if (bias != nullptr) a.v[j] = __fadd_rn(a.v[j], b.v[j]);
    }
    a.store(y + i);
  });
}

template <bool centered>
cudaError_t launch_norm(const float* x, const float* weight, const float* bias, float eps,
                        std::int64_t tokens, std::int64_t dim, float* y, cudaStream_t stream) {
  if (tokens == 0) return cudaSuccess;
  std::uintptr_t places = 0;
  for (const float* p : {x, weight, bias, static_cast<const float*>(y)}) {
    places |= reinterpret_cast<std::uintptr_t>(p);
  }
  const bool vector = dim % 4 == 0 && places % 16 == 0;
  const auto kernel = vector ? norm<centered, true> : norm<centered, false>;
  kernel<<<static_cast<unsigned>(tokens), threads_for(dim), 0, stream>>>(x, weight, bias, eps, dim,
                                                                         y);
  return cudaGetLastError();
}

}  // namespace

cudaError_t rms_norm(const float* x, const float* weight, float eps, std::int64_t tokens,
                     std::int64_t dim, float* y, cudaStream_t stream) {
  return launch_norm<false>(x, weight, nullptr, eps, tokens, dim, y, stream);
}

cudaError_t layer_norm(const float* x, const float* weight, const float* bias, float eps,
                       std::int64_t tokens, std::int64_t dim, float* y, cudaStream_t stream) {
  return launch_norm<true>(x, weight, bias, eps, tokens, dim, y, stream);
}

}  // namespace tenfold::cuda
