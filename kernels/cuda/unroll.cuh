#pragma once
// Loops whose index is a constant: a format's planes are constants, not data on the device.

namespace tenfold::cuda {

template <int N>
struct Int {
  static constexpr int value = N;
};
template <int N, typename Function>
__host__ __device__ __forceinline__ void unroll(Function&& function) {
  if constexpr (N > 0) {
    unroll<N - 1>(function);
    function(Int<N - 1>{});
  }
}

}  // namespace tenfold::cuda
