// What has no sums: activations, rotations, copies of rows, conversions.

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <initializer_list>

#include "kernels/cuda/exp.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/rope.cuh"

namespace tenfold::cuda {
namespace {

constexpr int kThreads = 256;
constexpr std::int64_t kMostBlocks = 65535;  // of gridDim.y; the kernels go on in steps of the grid

unsigned blocks_for(std::int64_t n) {
  return static_cast<unsigned>(std::min((n + kThreads - 1) / kThreads, kMostBlocks));
}
dim3 grid_for(std::int64_t cols, std::int64_t rows) {
  return {blocks_for(cols), static_cast<unsigned>(std::min(rows, kMostBlocks))};
}

bool aligned16(std::initializer_list<const void*> all) {
  std::uintptr_t places = 0;
  for (const void* p : all) places |= reinterpret_cast<std::uintptr_t>(p);
  return places % 16 == 0;
}

__device__ std::int64_t first_index() { return std::int64_t{blockIdx.x} * kThreads + threadIdx.x; }
__device__ std::int64_t index_step() { return std::int64_t{gridDim.x} * kThreads; }

struct SiluMul {
  __device__ float operator()(float gate, float up) const { return silu_mul_of(gate, up); }
};
struct Relu {
  __device__ float operator()(float x, float) const { return x > 0.0f ? x : 0.0f; }
};

// y[i] = function(x[i], other[i]), four at a time where `vector`: then all are aligned to 16.
template <bool vector, typename Function>
__global__ void __launch_bounds__(kThreads)
    apply(const float* x, const float* other, std::int64_t n, float* y, Function function) {
  begin_kernel();
  const std::int64_t n_vectors = vector ? n / 4 : 0;
  for (std::int64_t i = first_index(); i < n_vectors; i += index_step()) {
    float4 a = reinterpret_cast<const float4*>(x)[i];
    const float4 b = reinterpret_cast<const float4*>(other)[i];
    a = {function(a.x, b.x), function(a.y, b.y), function(a.z, b.z), function(a.w, b.w)};
    reinterpret_cast<float4*>(y)[i] = a;
  }
  for (std::int64_t i = 4 * n_vectors + first_index(); i < n; i += index_step()) {
    y[i] = function(x[i], other[i]);
  }
}

template <typename Function>
cudaError_t launch_apply(const float* x, const float* other, std::int64_t n, float* y,
                         Function function, cudaStream_t stream) {
  if (n == 0) return cudaSuccess;
  if (aligned16({x, other, y})) {
    return launch(stream, blocks_for((n + 3) / 4), kThreads, 0, apply<true, Function>, x, other, n,
                  y, function);
  }
  return launch(stream, blocks_for(n), kThreads, 0, apply<false, Function>, x, other, n, y,
                function);
}

// A thread for each pair of a token.
__global__ void __launch_bounds__(kThreads)
    rotate(float* x, const float* cos, const float* sin, std::int64_t tokens, int heads, int half,
           bool interleaved) {
  begin_kernel();
  const int pairs = heads * half;
  for (std::int64_t t = blockIdx.y; t < tokens; t += gridDim.y) {
    for (int p = static_cast<int>(first_index()); p < pairs; p += static_cast<int>(index_step())) {
      const int head = p / half, i = p % half;
      rotate_pair(x + (t * heads + head) * 2 * half, i, half, interleaved, cos[t * half + i],
                  sin[t * half + i]);
    }
  }
}

__global__ void __launch_bounds__(kThreads)
    gather(const float* x, const std::int32_t* rows, std::int64_t n, std::int64_t dim, float* y) {
  begin_kernel();
  for (std::int64_t i = blockIdx.y; i < n; i += gridDim.y) {
    const float* from = x + rows[i] * dim;
    for (std::int64_t c = first_index(); c < dim; c += index_step()) y[i * dim + c] = from[c];
  }
}

__device__ void put(float* to, float value) { *to = value; }
__device__ void put(__half* to, float value) { *to = __float2half_rn(value); }
__device__ void put(__nv_bfloat16* to, float value) { *to = __float2bfloat16_rn(value); }

template <typename T>
__global__ void __launch_bounds__(kThreads)
    convert(const float* x, std::int64_t ldx, const std::int32_t* source, const float* factor,
            std::int64_t tokens, std::int64_t cols, T* out) {
  begin_kernel();
  for (std::int64_t t = blockIdx.y; t < tokens; t += gridDim.y) {
    for (std::int64_t c = first_index(); c < cols; c += index_step()) {
      float value = x[t * ldx + (source == nullptr ? c : source[c])];
      if (factor != nullptr) value = __fmul_rn(value, factor[c]);
      put(out + t * cols + c, value);
    }
  }
}

__global__ void __launch_bounds__(kThreads)
    add_to(const float* product, const float* bias, std::int64_t tokens, std::int64_t rows,
           float* y, std::int64_t ldy, bool accumulate) {
  begin_kernel();
  for (std::int64_t t = blockIdx.y; t < tokens; t += gridDim.y) {
    for (std::int64_t r = first_index(); r < rows; r += index_step()) {
      float value = product[t * rows + r];
      if (bias != nullptr) value = __fadd_rn(value, bias[r]);
      float* to = y + t * ldy + r;
      *to = accumulate ? __fadd_rn(*to, value) : value;
    }
  }
}

}  // namespace

cudaError_t silu_mul(const float* gate, const float* up, std::int64_t n, float* y,
                     cudaStream_t stream) {
  return launch_apply(gate, up, n, y, SiluMul{}, stream);
}

cudaError_t relu(float* x, std::int64_t n, cudaStream_t stream) {
  return launch_apply(x, x, n, x, Relu{}, stream);
}

cudaError_t rope(float* x, const float* cos, const float* sin, std::int64_t tokens,
                 std::int64_t heads, std::int64_t head_dim, bool interleaved, cudaStream_t stream) {
  const std::int64_t half = head_dim / 2;
  if (tokens == 0 || half == 0) return cudaSuccess;
  return launch(stream, grid_for(heads * half, tokens), kThreads, 0, rotate, x, cos, sin, tokens,
                static_cast<int>(heads), static_cast<int>(half), interleaved);
}

cudaError_t gather_rows(const float* x, const std::int32_t* rows, std::int64_t n, std::int64_t dim,
                        float* y, cudaStream_t stream) {
  if (n == 0) return cudaSuccess;
  return launch(stream, grid_for(dim, n), kThreads, 0, gather, x, rows, n, dim, y);
}

cudaError_t convert_rows(const float* x, std::int64_t ldx, const std::int32_t* source,
                         const float* factor, std::int64_t tokens, std::int64_t cols, Format format,
                         void* out, cudaStream_t stream) {
  if (tokens == 0) return cudaSuccess;
  const auto launch_to = [&]<typename T>(T* to) {
    return launch(stream, grid_for(cols, tokens), kThreads, 0, convert<T>, x, ldx, source, factor,
                  tokens, cols, to);
  };
  switch (format) {
    case Format::f32:
      return launch_to(static_cast<float*>(out));
    case Format::f16:
      return launch_to(static_cast<__half*>(out));
    case Format::bf16:
      return launch_to(static_cast<__nv_bfloat16*>(out));
    default:
      return cudaErrorInvalidValue;
  }
}

cudaError_t add_bias(const float* product, const float* bias, std::int64_t tokens,
                     std::int64_t rows, float* y, std::int64_t ldy, bool accumulate,
                     cudaStream_t stream) {
  if (tokens == 0) return cudaSuccess;
  return launch(stream, grid_for(rows, tokens), kThreads, 0, add_to, product, bias, tokens, rows, y,
                ldy, accumulate);
}

}  // namespace tenfold::cuda
