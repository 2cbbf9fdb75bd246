#pragma once
// Launches that may begin before what runs before them in the stream has ended, where the device
// can (sm_90, programmatic dependent launches). Of each kernel one thread block at least waits for
// what comes before (wait_for_inputs), so that when one has ended, all before it have; and what a
// kernel reads ahead of that wait no kernel writes: weights, and where tokens stand.

#include <cuda_runtime_api.h>

#include <atomic>
#include <cstddef>

namespace tenfold::cuda {

__device__ __forceinline__ void wait_for_inputs() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
__device__ __forceinline__ void let_next_begin() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
// At the beginning of a kernel that reads nothing ahead, or no more.
__device__ __forceinline__ void begin_kernel() {
  wait_for_inputs();
  let_next_begin();
}

inline constexpr int kDevices = 64;  // that are remembered

// Whether the current device can and its kernels wait, which those compiled for older ones do not.
// Asked once a device, as each launch wants to know; `kernel` stands for all.
template <typename Kernel>
bool device_overlaps(Kernel* kernel) {
  enum { unknown, no, yes };
  static std::atomic<int> known[kDevices];
  int device = 0;
  if (cudaGetDevice(&device) != cudaSuccess || device < 0 || device >= kDevices) return false;
  int here = known[device].load(std::memory_order_relaxed);
  if (here == unknown) {
    int major = 0;
    cudaFuncAttributes attributes;
    if (cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) != cudaSuccess ||
        cudaFuncGetAttributes(&attributes, kernel) != cudaSuccess) {
      return false;
    }
    here = major >= 9 && attributes.ptxVersion >= 90 ? yes : no;
    known[device].store(here, std::memory_order_relaxed);
  }
  return here == yes;
}

template <typename Kernel, typename... Args>
cudaError_t launch(cudaStream_t stream, dim3 grid, unsigned threads, std::size_t shared,
                   Kernel* kernel, const Args&... args) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = threads;
  config.dynamicSmemBytes = shared;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = device_overlaps(kernel) ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel, args...);
}

constexpr int divide_up(int n, int by) { return (n + by - 1) / by; }

}  // namespace tenfold::cuda
