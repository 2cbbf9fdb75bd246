#include "bench/random_f16.h"

#include <cmath>
#include <cstring>

#include "kernels/half.h"

namespace tenfold {
namespace {

// x with P(X < x) = p for 0.5 <= p < 1, by bisection on the complementary error function.
double normal_quantile(double p) {
  double low = 0;
  double high = 8;
  for (int i = 0; i < 48; ++i) {
    const double middle = (low + high) / 2;
    (1 - std::erfc(middle / std::sqrt(2.0)) / 2 < p ? low : high) = middle;
  }
  return (low + high) / 2;
}

// Vigna's SplitMix64: every seed starts a stream of its own, so that blocks are independent.
std::uint64_t next(std::uint64_t& state) {
  std::uint64_t z = (state += 0x9e3779b97f4a7c15u);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

}  // namespace

RandomF16::RandomF16(double sd)
    : quantiles_(std::make_unique<std::array<std::uint16_t, 1 << 16>>()) {
  constexpr std::size_t kHalf = 1 << 15;
  for (std::size_t i = 0; i < kHalf; ++i) {
    const double p = 0.5 + (static_cast<double>(i) + 0.5) / (2.0 * kHalf);
    const auto value = static_cast<float>(sd * normal_quantile(p));
    (*quantiles_)[kHalf + i] = f32_to_f16(value);
    (*quantiles_)[kHalf - 1 - i] = f32_to_f16(-value);
  }
}

void RandomF16::fill(std::uint64_t seed, std::span<std::uint16_t> out) const {
  std::uint64_t state = seed * 0xd1342543de82ef95u + 1;
  next(state);
  for (std::size_t i = 0; i < out.size(); i += 4) {
    const std::uint64_t bits = next(state);
    std::uint16_t picks[4];
    std::memcpy(picks, &bits, sizeof picks);
    for (std::size_t j = 0; j < 4 && i + j < out.size(); ++j) {
      out[i + j] = (*quantiles_)[picks[j]];
    }
  }
}

}  // namespace tenfold
