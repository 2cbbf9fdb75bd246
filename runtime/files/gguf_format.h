#pragma once
// What the GGUF reader and writer share: value type ids, limits, and the size of a tensor.

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "kernels/dtype.h"
#include "runtime/files/string_array.h"

namespace tenfold::gguf {

inline constexpr std::string_view kMagic = "GGUF";
inline constexpr std::uint32_t kWrittenVersion = 3;
inline constexpr std::string_view kAlignmentKey = "general.alignment";
inline constexpr std::int64_t kDefaultAlignment = 32;  // of a file that does not say
inline constexpr std::int64_t kWrittenAlignment = 64;
inline constexpr std::int64_t kMinAlignment = 8;
inline constexpr std::int64_t kMaxAlignment = 1u << 16;
inline constexpr std::uint32_t kMaxDims = 4;
// Metadata and tensor table end before this; what a larger (sparse) file claims is not believed.
inline constexpr std::uint64_t kMaxHeaderBytes = 1u << 30;

enum class ValueType : std::uint32_t {
  u8 = 0,
  i8 = 1,
  u16 = 2,
  i16 = 3,
  u32 = 4,
  i32 = 5,
  f32 = 6,
  boolean = 7,
  string = 8,
  array = 9,
  u64 = 10,
  i64 = 11,
  f64 = 12,
};

template <typename T>
struct TypeTag {
  using type = T;
};

// Calls f(TypeTag<T>{}) with the element type T of `type`; false for an array or an unknown id.
template <typename F>
bool visit_type(ValueType type, F&& f) {
  switch (type) {
    case ValueType::u8:
      return f(TypeTag<std::uint8_t>{}), true;
    case ValueType::i8:
      return f(TypeTag<std::int8_t>{}), true;
    case ValueType::u16:
      return f(TypeTag<std::uint16_t>{}), true;
    case ValueType::i16:
      return f(TypeTag<std::int16_t>{}), true;
    case ValueType::u32:
      return f(TypeTag<std::uint32_t>{}), true;
    case ValueType::i32:
      return f(TypeTag<std::int32_t>{}), true;
    case ValueType::f32:
      return f(TypeTag<float>{}), true;
    case ValueType::boolean:
      return f(TypeTag<bool>{}), true;
    case ValueType::string:
      return f(TypeTag<std::string>{}), true;
    case ValueType::u64:
      return f(TypeTag<std::uint64_t>{}), true;
    case ValueType::i64:
      return f(TypeTag<std::int64_t>{}), true;
    case ValueType::f64:
      return f(TypeTag<double>{}), true;
    case ValueType::array:
      break;
  }
  return false;
}

template <typename T>
constexpr ValueType value_type() {
  if constexpr (std::is_same_v<T, bool>) return ValueType::boolean;
  if constexpr (std::is_same_v<T, std::string>) return ValueType::string;
  if constexpr (std::is_same_v<T, std::uint8_t>) return ValueType::u8;
  if constexpr (std::is_same_v<T, std::int8_t>) return ValueType::i8;
  if constexpr (std::is_same_v<T, std::uint16_t>) return ValueType::u16;
  if constexpr (std::is_same_v<T, std::int16_t>) return ValueType::i16;
  if constexpr (std::is_same_v<T, std::uint32_t>) return ValueType::u32;
  if constexpr (std::is_same_v<T, std::int32_t>) return ValueType::i32;
  if constexpr (std::is_same_v<T, std::uint64_t>) return ValueType::u64;
  if constexpr (std::is_same_v<T, std::int64_t>) return ValueType::i64;
  if constexpr (std::is_same_v<T, float>) return ValueType::f32;
  if constexpr (std::is_same_v<T, double>) return ValueType::f64;
}

// What is in a GgufValue: its element type, and whether it is an array of them.
template <typename T>
struct ValueTraits {
  using element = T;
  static constexpr bool is_array = false;
};
template <typename T>
struct ValueTraits<std::vector<T>> {
  using element = T;
  static constexpr bool is_array = true;
};
template <>
struct ValueTraits<StringArray> {
  using element = std::string;
  static constexpr bool is_array = true;
};

// Offset of the next multiple of `alignment`, a power of two. Does not overflow for file offsets.
constexpr std::uint64_t align_up(std::uint64_t offset, std::uint64_t alignment) {
  return (offset + alignment - 1) & ~(alignment - 1);
}

// `stated` as an alignment. Throws bad_file naming `path` unless it is a power of two within the
// limits.
std::uint64_t checked_alignment(std::int64_t stated, std::string_view path);

// Bytes of a tensor, row-major shape. Throws bad_file naming `path` and `name` for a rank beyond
// 1..4, an empty extent, a row that is no whole number of blocks, and a size that overflows.
std::uint64_t tensor_bytes(std::span<const std::int64_t> shape, DType dtype, std::string_view path,
                           std::string_view name);

}  // namespace tenfold::gguf
