#pragma once
// Overflow-safe unsigned arithmetic for lengths, offsets and counts that come from a file.

#include <cstdint>
#include <optional>
#include <span>

namespace tenfold {

inline std::optional<std::uint64_t> checked_add(std::uint64_t a, std::uint64_t b) noexcept {
  std::uint64_t sum = 0;
  if (__builtin_add_overflow(a, b, &sum)) return std::nullopt;
  return sum;
}

inline std::optional<std::uint64_t> checked_mul(std::uint64_t a, std::uint64_t b) noexcept {
  std::uint64_t product = 0;
  if (__builtin_mul_overflow(a, b, &product)) return std::nullopt;
  return product;
}

// Product of a shape; nullopt on overflow or on a negative extent. An empty shape is a scalar (1).
inline std::optional<std::uint64_t> checked_product(std::span<const std::int64_t> shape) noexcept {
  std::uint64_t product = 1;
  for (const std::int64_t extent : shape) {
    if (extent < 0) return std::nullopt;
    const auto next = checked_mul(product, static_cast<std::uint64_t>(extent));
    if (!next) return std::nullopt;
    product = *next;
  }
  return product;
}

}  // namespace tenfold
