#pragma once
// Numbers that a seed decides.

#include <cmath>
#include <cstdint>
#include <numbers>

namespace tenfold {

inline std::uint64_t splitmix64(std::uint64_t& state) {
  std::uint64_t z = state += 0x9e3779b97f4a7c15u;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}

// Of the n-th step of what the seed decides: a step can be repeated without those before it.
class StepRandom {
 public:
  StepRandom(std::uint64_t seed, std::uint64_t step) : state_(seed) {
    state_ = splitmix64(state_) ^ step;
    splitmix64(state_);
  }
  std::uint64_t below(std::uint64_t n) { return splitmix64(state_) % n; }
  double uniform() {  // in (0, 1]
    return (static_cast<double>(splitmix64(state_) >> 11) + 1) * 0x1p-53;
  }
  double normal() {
    const double radius = std::sqrt(-2 * std::log(uniform()));
    return radius * std::cos(2 * std::numbers::pi * uniform());
  }

 private:
  std::uint64_t state_;
};

}  // namespace tenfold
