#pragma once
// Memory of the device, and of the host where the device reaches it.

#include <cstddef>
#include <cstdint>

#include "kernels/buffer.h"

namespace tenfold::cuda {

Buffer device_memory(std::size_t bytes);  // throws out_of_memory, naming the size and what is free
Buffer pinned_memory(std::size_t bytes);  // likewise

// Grows and never shrinks. What it held is lost when it grows.
class Growing {
 public:
  explicit Growing(Buffer (*allocate)(std::size_t)) : allocate_(allocate) {}
  // moves: counts how often the memory moved or was lost.
  template <typename T>
  T* get(std::size_t count, std::uint64_t* moves = nullptr) {
    if (count * sizeof(T) > buffer_.bytes()) {
      if (moves != nullptr) ++*moves;
      buffer_ = {};
      buffer_ = allocate_(count * sizeof(T) * 5 / 4);
    }
    return buffer_.as<T>();
  }

 private:
  Buffer (*allocate_)(std::size_t);
  Buffer buffer_;
};

}  // namespace tenfold::cuda
