#pragma once
// Small reproducible data for tests.

#include <cstdint>
#include <random>
#include <vector>

namespace tenfold {

inline std::vector<float> random_floats(std::size_t n, std::uint32_t seed, float scale = 1.0f) {
  std::mt19937 rng(seed);
  std::vector<float> values(n);
  for (float& value : values) {
    value = scale * (static_cast<float>(rng()) * 0x1p-31f - 1.0f);
  }
  return values;
}

}  // namespace tenfold
