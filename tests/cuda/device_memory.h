#pragma once
// Host data on a CUDA device for a test's call, each piece an allocation of exactly its size, so
// that reads past an end are seen.

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace tenfold {

inline void check_cuda(cudaError_t error, const char* what) {
  if (error != cudaSuccess) {
    throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
  }
}

template <typename T>
class DeviceArray {
 public:
  explicit DeviceArray(const std::vector<T>& from) : size_(from.size()) {
    if (size_ == 0) return;
    void* p = nullptr;
    check_cuda(cudaMalloc(&p, size_ * sizeof(T)), "cudaMalloc");
    memory_.reset(static_cast<T*>(p));
    check_cuda(cudaMemcpy(p, from.data(), size_ * sizeof(T), cudaMemcpyHostToDevice),
               "copy to the device");
  }
  // Filled with bytes 0xff: NaNs.
  explicit DeviceArray(std::size_t size) : DeviceArray(filled(size)) {}

  T* get() const { return memory_.get(); }
  // Null where there is nothing.
  operator T*() const { return get(); }  // NOLINT(google-explicit-constructor)

  // Waits for what the device does.
  std::vector<T> read() const {
    check_cuda(cudaDeviceSynchronize(), "kernel");
    std::vector<T> result(size_);
    if (size_ > 0) {
      check_cuda(cudaMemcpy(result.data(), get(), size_ * sizeof(T), cudaMemcpyDeviceToHost),
                 "copy from the device");
    }
    return result;
  }

 private:
  static std::vector<T> filled(std::size_t size) {
    std::vector<T> values(size);
    auto* bytes = reinterpret_cast<unsigned char*>(values.data());
    for (std::size_t i = 0; i < size * sizeof(T); ++i) bytes[i] = 0xff;
    return values;
  }
  struct Free {
    void operator()(T* p) const { cudaFree(p); }
  };

  std::size_t size_ = 0;
  std::unique_ptr<T, Free> memory_;
};

}  // namespace tenfold
