#pragma once
// Bounds-checked reading of little-endian fields from a span. A read past the end is one Error
// (bad_file) that names the file, the field and the byte.

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>

#include "kernels/error.h"

namespace tenfold {

class ByteCursor {
 public:
  // `name` (what messages call the bytes) must outlive the cursor. start <= bytes.size().
  ByteCursor(std::span<const std::byte> bytes, std::string_view name, std::uint64_t start = 0)
      : bytes_(bytes), name_(name), position_(start) {}

  std::uint64_t position() const noexcept { return position_; }
  std::uint64_t remaining() const noexcept { return bytes_.size() - position_; }

  std::span<const std::byte> take(std::uint64_t count, std::string_view field) {
    if (count > remaining()) {
      throw_file_error(name_,
                       "{} at byte {} needs {} bytes, but {} are left; the file is truncated",
                       field, position_, count, remaining());
    }
    const auto result = bytes_.subspan(position_, count);
    position_ += count;
    return result;
  }

  std::string_view take_text(std::uint64_t count, std::string_view field) {
    const auto bytes = take(count, field);
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }

  // Up to the next '\n', which is consumed but not part of the result.
  std::string_view take_line(std::string_view field) {
    const std::string_view rest{reinterpret_cast<const char*>(bytes_.data()) + position_,
                                bytes_.size() - position_};
    const std::size_t end = rest.find('\n');
    if (end == std::string_view::npos) {
      throw_file_error(name_, "{} at byte {} has no end; the file is truncated", field, position_);
    }
    position_ += end + 1;
    return rest.substr(0, end);
  }

  template <std::integral T>
  T read(std::string_view field) {
    T value;
    std::memcpy(&value, take(sizeof(T), field).data(), sizeof(T));
    return value;
  }

 private:
  std::span<const std::byte> bytes_;
  std::string_view name_;
  std::uint64_t position_;
};

}  // namespace tenfold
