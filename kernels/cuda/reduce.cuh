#pragma once
// Reductions over a warp and a thread block in an order that depends only on the block's size.

#include <cmath>

namespace tenfold::cuda {

struct Add {
  template <typename T>
  static constexpr T kNothing = T{0};
  template <typename T>
  __device__ __forceinline__ T operator()(T a, T b) const {
    return a + b;
  }
};
struct Max {  // ignores NaNs
  template <typename T>
  static constexpr T kNothing = -INFINITY;
  __device__ __forceinline__ float operator()(float a, float b) const { return fmaxf(a, b); }
};

// The result in every lane. The operation commutes, so that lanes agree in every bit.
template <typename T, typename Operation>
__device__ __forceinline__ T warp_reduce(T value, Operation operation) {
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) {
    value = operation(value, __shfl_xor_sync(0xffffffffu, value, mask));
  }
  return value;
}

// The result in every thread of a block of whole warps. shared: 32 values, free again after the
// next barrier; what it held was read before the call.
template <typename T, typename Operation>
__device__ __forceinline__ T block_reduce(T value, Operation operation, T* shared) {
  value = warp_reduce(value, operation);
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = value;
  __syncthreads();
  const unsigned lane = threadIdx.x % 32;
  const T nothing = Operation::template kNothing<T>;
  return warp_reduce(lane < blockDim.x / 32 ? shared[lane] : nothing, operation);
}

}  // namespace tenfold::cuda
