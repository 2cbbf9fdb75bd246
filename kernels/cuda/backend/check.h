#pragma once
// Failures of the CUDA runtime and of cuBLAS as Errors.

#include <cublas_v2.h>
#include <cuda_runtime_api.h>

#include "kernels/error.h"

namespace tenfold::cuda {

// Throws out_of_memory or device: what was attempted, and what CUDA said.
inline void check(cudaError_t error, std::string_view what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // so that the next call does not report it again, where it is not sticky
  throw_error(error == cudaErrorMemoryAllocation ? ErrorCode::out_of_memory : ErrorCode::device,
              "the GPU failed to {}: {}", what, cudaGetErrorString(error));
}

// Of GPUs; throws device where there is none.
inline int device_count() {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess) {
    throw_error(ErrorCode::device, "no GPU was found: {}", cudaGetErrorString(error));
  }
  return count;
}

inline void check(cublasStatus_t status, std::string_view what) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw_error(status == CUBLAS_STATUS_ALLOC_FAILED ? ErrorCode::out_of_memory : ErrorCode::device,
              "cuBLAS failed to {}: {}", what, cublasGetStatusString(status));
}

}  // namespace tenfold::cuda
