#pragma once
// Memory of the device, and of the host where the device reaches it.

#include <cstddef>

#include "kernels/buffer.h"

namespace tenfold::cuda {

Buffer device_memory(std::size_t bytes);  // throws out_of_memory, naming the size and what is free
Buffer pinned_memory(std::size_t bytes);  // likewise

// Grows and never shrinks. What it held is lost when it grows.
class Growing {
 public:
  explicit Growing(Buffer (*allocate)(std::size_t)) : allocate_(allocate) {}
  // grown: set where the memory moved.
  template <typename T>
  T* get(std::size_t count, bool* grown = nullptr) {
    if (count * sizeof(T) > buffer_.bytes()) {
      buffer_ = {};
      buffer_ = allocate_(count * sizeof(T) * 5 / 4);
      if (grown != nullptr) *grown = true;
    }
    return buffer_.as<T>();
  }

 private:
  Buffer (*allocate_)(std::size_t);
  Buffer buffer_;
};

}  // namespace tenfold::cuda
