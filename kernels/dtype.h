#pragma once
// Element types of a weight as files store them. The ids are GGML's, because GGUF writes them.
// F32, F16 and BF16 are what kernels read directly; the rest is dequantized on load.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace tenfold {

enum class DType : std::uint32_t {
  f32 = 0,
  f16 = 1,
  q4_0 = 2,
  q4_1 = 3,
  q5_0 = 6,
  q5_1 = 7,
  q8_0 = 8,
  q2_k = 10,
  q3_k = 11,
  q4_k = 12,
  q5_k = 13,
  q6_k = 14,
  i8 = 24,
  i32 = 26,
  i64 = 27,
  bf16 = 30,
};

struct DTypeTraits {
  std::string_view name;  // "F16", "Q4_1", ...
  std::uint32_t block;    // elements per block
  std::uint32_t bytes;    // bytes per block
  bool dequantizable;     // can become f32 (false for the integer types)
};

// nullopt for an id that is not in the list above.
std::optional<DTypeTraits> dtype_traits(std::uint32_t id) noexcept;
// For a DType that is known to be valid.
DTypeTraits dtype_traits(DType type) noexcept;

inline bool is_float(DType t) noexcept {
  return t == DType::f32 || t == DType::f16 || t == DType::bf16;
}

}  // namespace tenfold
