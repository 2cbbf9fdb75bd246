#pragma once
// What measures on a CUDA device share: memory, and the time of a launch among others.

#include <cublas_v2.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstddef>
#include <functional>
#include <utility>
#include <vector>

namespace tenfold {

void check(cudaError_t error, const char* what);
void check(cublasStatus_t status, const char* what);

class Memory {
 public:
  explicit Memory(std::size_t bytes) {
    check(cudaMalloc(&p_, std::max<std::size_t>(bytes, 16)), "cudaMalloc");
  }
  template <typename T>
  explicit Memory(const std::vector<T>& from) : Memory(from.size() * sizeof(T)) {
    check(cudaMemcpy(p_, from.data(), from.size() * sizeof(T), cudaMemcpyHostToDevice), "upload");
  }
  Memory(Memory&& other) noexcept : p_(std::exchange(other.p_, nullptr)) {}
  ~Memory() { cudaFree(p_); }
  template <typename T>
  T* as() const {
    return static_cast<T*>(p_);
  }

 private:
  void* p_ = nullptr;
};

// n of them on the device, within -1 and 1.
Memory random_floats(std::size_t n);

using Launch = std::function<void(std::size_t run, cudaStream_t stream)>;

// Microseconds of one launch: the median of graphs of `runs`.
double time_us(std::size_t runs, const Launch& launch);

}  // namespace tenfold
