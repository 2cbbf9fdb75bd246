#pragma once
// The little of protobuf's wire format that SentencePiece models use: varints, 32-bit floats and
// length-delimited fields, in both directions.

#include <bit>
#include <cstdint>
#include <string>
#include <string_view>

#include "kernels/error.h"

namespace tenfold {

struct ProtoField {
  std::uint32_t number = 0;
  std::uint64_t value = 0;  // a varint, or the bits of a fixed-width value
  std::string_view bytes;   // length-delimited only

  bool flag() const noexcept { return value != 0; }
  float real() const noexcept { return std::bit_cast<float>(static_cast<std::uint32_t>(value)); }
};

class ProtoReader {
 public:
  ProtoReader(std::string_view message, std::string_view path) : rest_(message), path_(path) {}

  // false at the end. Throws bad_file where the message is cut or malformed.
  bool next(ProtoField& field) {
    if (rest_.empty()) return false;
    const std::uint64_t tag = varint();
    field = {};
    field.number = static_cast<std::uint32_t>(tag >> 3);
    switch (tag & 7) {
      case 0:
        field.value = varint();
        return true;
      case 1:
        field.value = fixed(8);
        return true;
      case 2:
        field.bytes = take(varint());
        return true;
      case 5:
        field.value = fixed(4);
        return true;
      default:
        throw_file_error(path_, "field {} has wire type {}, not a SentencePiece model",
                         field.number, tag & 7);
    }
  }

 private:
  std::string_view take(std::uint64_t length) {
    if (length > rest_.size()) {
      throw_file_error(path_, "a field needs {} bytes where {} are left; file truncated?", length,
                       rest_.size());
    }
    const std::string_view bytes = rest_.substr(0, static_cast<std::size_t>(length));
    rest_.remove_prefix(bytes.size());
    return bytes;
  }
  std::uint64_t fixed(std::size_t n_bytes) {
    std::uint64_t value = 0;
    const std::string_view bytes = take(n_bytes);
    for (std::size_t i = n_bytes; i-- > 0;) {
      value = value << 8 | static_cast<unsigned char>(bytes[i]);
    }
    return value;
  }
  std::uint64_t varint() {
    std::uint64_t value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
      const auto byte = static_cast<unsigned char>(take(1)[0]);
      value |= std::uint64_t{byte & 0x7Fu} << shift;
      if (byte < 0x80) return value;
    }
    throw_file_error(path_, "a number is longer than 64 bits");
  }

  std::string_view rest_, path_;
};

class ProtoWriter {
 public:
  void number(std::uint32_t field, std::uint64_t value) {
    varint(std::uint64_t{field} << 3);
    varint(value);
  }
  void real(std::uint32_t field, float value) {
    varint(std::uint64_t{field} << 3 | 5);
    const auto bits = std::bit_cast<std::uint32_t>(value);
    for (unsigned shift = 0; shift < 32; shift += 8) {
      message_ += static_cast<char>(static_cast<unsigned char>(bits >> shift));
    }
  }
  void bytes(std::uint32_t field, std::string_view value) {
    varint(std::uint64_t{field} << 3 | 2);
    varint(value.size());
    message_ += value;
  }
  const std::string& message() const noexcept { return message_; }
  std::string take() { return std::move(message_); }

 private:
  void varint(std::uint64_t value) {
    for (; value >= 0x80; value >>= 7) message_ += static_cast<char>(0x80 | (value & 0x7F));
    message_ += static_cast<char>(value);
  }

  std::string message_;
};

}  // namespace tenfold
