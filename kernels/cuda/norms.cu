// Norms: a thread block for each row.

#include "kernels/cuda/norm_row.cuh"
#include "kernels/cuda/ops.h"

namespace tenfold::cuda {
namespace {

template <bool centered, bool vector>
__global__ void __launch_bounds__(kMostNormThreads)
    norm(const float* x, const float* weight, const float* bias, float eps, int dim, float* y) {
  const auto threads = static_cast<int>(blockDim.x);
  // No kernel writes weights: they come from memory while the one before still runs.
  const Row<vector> weights(weight, weight == nullptr ? 0 : dim, threads);
  begin_kernel();
  const Row<vector> row(x + std::int64_t{blockIdx.x} * dim, dim, threads);
  y += std::int64_t{blockIdx.x} * dim;
  normalize<centered>(row, weights, weight, bias, eps, dim,
                      [&](int column, const Columns<vector>& v) { v.store(y + column); });
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
  return launch(stream, static_cast<unsigned>(tokens), static_cast<unsigned>(norm_threads(dim)), 0,
                kernel, x, weight, bias, eps, dim, y);
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
