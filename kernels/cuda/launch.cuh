#pragma once
// Launches that may begin before what runs before them in the stream has ended, where the device
// can. Their kernels call wait_for_inputs() in every thread before they touch memory that kernels
// write, and let_next_begin() only after it: so no kernel begins before the one before its
// predecessor has ended.

#include <atomic>

#include "kernels/cuda/packed_overlap.cuh"

namespace tenfold::cuda {

// Whether the current device can; asked once, as each launch wants to know.
inline bool device_overlaps() {
  constexpr int kDevices = 64;
  static std::atomic<int> majors[kDevices];
  int device = 0;
  if (cudaGetDevice(&device) != cudaSuccess || device < 0 || device >= kDevices) return false;
  int major = majors[device].load(std::memory_order_relaxed);
  if (major == 0) {
    if (cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) != cudaSuccess) {
      return false;
    }
    majors[device].store(major, std::memory_order_relaxed);
  }
  return major >= 9;
}

template <typename Kernel, typename... Args>
cudaError_t launch(cudaStream_t stream, dim3 grid, unsigned threads, std::size_t shared,
                   Kernel kernel, const Args&... args) {
  return launch_on(stream, device_overlaps(), grid, threads, shared, kernel, args...);
}

// At the beginning of a kernel that reads nothing ahead.
__device__ __forceinline__ void begin_kernel() {
  wait_for_inputs();
  let_next_begin();
}

}  // namespace tenfold::cuda
