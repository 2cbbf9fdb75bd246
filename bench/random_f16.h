#pragma once
// Normally distributed f16 values at the speed of memory: each 16 random bits pick one of 65536
// quantiles, rounded to f16 beforehand. Tails end at 4.3 standard deviations.

#include <array>
#include <cstdint>
#include <memory>
#include <span>

namespace tenfold {

class RandomF16 {
 public:
  explicit RandomF16(double sd);
  // The same values for the same seed.
  void fill(std::uint64_t seed, std::span<std::uint16_t> out) const;

 private:
  std::unique_ptr<std::array<std::uint16_t, 1 << 16>> quantiles_;
};

}  // namespace tenfold
