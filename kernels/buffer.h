#pragma once
// Buffer: the only owner of memory for tensors. On the host it is 64-byte aligned, zero-filled,
// large ones on huge pages where the system offers them; untouched pages cost nothing.

#include <cstddef>
#include <span>
#include <utility>

namespace tenfold {

class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(std::size_t bytes);  // throws out_of_memory, naming the size
  using Release = void (*)(void* memory, std::size_t bytes) noexcept;
  // Takes over memory that `release` gives back; without one, a mapping of whole pages.
  static Buffer adopt(void* memory, std::size_t bytes, Release release = unmap) noexcept {
    Buffer buffer;
    buffer.data_ = static_cast<std::byte*>(memory);
    buffer.bytes_ = bytes;
    buffer.release_ = release;
    return buffer;
  }
  Buffer(Buffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)),
        bytes_(std::exchange(other.bytes_, 0)),
        release_(other.release_) {}
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    std::swap(release_, other.release_);
    return *this;
  }
  ~Buffer() {
    if (data_ != nullptr) release_(data_, bytes_);
  }

  std::byte* data() const noexcept { return data_; }
  std::size_t bytes() const noexcept { return bytes_; }
  template <typename T>
  T* as() const noexcept {
    return reinterpret_cast<T*>(data_);
  }

 private:
  static void unmap(void* memory, std::size_t bytes) noexcept;

  std::byte* data_ = nullptr;
  std::size_t bytes_ = 0;
  Release release_ = unmap;
};

// Scratch that grows and never shrinks, so that a token loop allocates nothing once warm.
class Scratch {
 public:
  template <typename T>
  T* get(std::size_t count) {
    return get<T>(count, [](std::size_t bytes) { return Buffer(bytes); });
  }
  // allocate(bytes) gives a Buffer, wherever it is.
  template <typename T, typename Allocate>
  T* get(std::size_t count, const Allocate& allocate) {
    if (count * sizeof(T) > buffer_.bytes()) {
      buffer_ = {};  // first: there may not be room for both
      buffer_ = allocate(count * sizeof(T) * 5 / 4);
    }
    return buffer_.as<T>();
  }

 private:
  Buffer buffer_;
};

}  // namespace tenfold
