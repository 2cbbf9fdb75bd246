#include "kernels/cuda/backend/memory.h"

#include "kernels/cuda/backend/check.h"

namespace tenfold::cuda {
namespace {

double mebibytes(std::size_t bytes) { return static_cast<double>(bytes) / (1 << 20); }

// Errors are not thrown where memory is given back: those of a lost device came up before.
void free_device(void* memory, std::size_t) noexcept { cudaFree(memory); }
void free_pinned(void* memory, std::size_t) noexcept { cudaFreeHost(memory); }

}  // namespace

Buffer device_memory(std::size_t bytes) {
  void* memory = nullptr;
  const cudaError_t error = cudaMalloc(&memory, bytes);
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    std::size_t free = 0, total = 0;
    cudaMemGetInfo(&free, &total);
    throw_error(ErrorCode::out_of_memory,
                "cannot allocate {:.1f} MiB on the GPU, which has {:.1f} of {:.1f} MiB free",
                mebibytes(bytes), mebibytes(free), mebibytes(total));
  }
  check(error, "allocate memory");
  return Buffer::adopt(memory, bytes, free_device);
}

Buffer pinned_memory(std::size_t bytes) {
  void* memory = nullptr;
  check(cudaMallocHost(&memory, bytes), "pin memory of the host");
  return Buffer::adopt(memory, bytes, free_pinned);
}

}  // namespace tenfold::cuda
