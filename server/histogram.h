#pragma once
// Seconds in buckets, as Prometheus counts them.

#include <array>
#include <cstdint>

namespace tenfold {

struct Histogram {
  static constexpr std::array kBounds = {0.01, 0.025, 0.05, 0.1,  0.25, 0.5,  1.0,
                                         2.5,  5.0,   10.0, 25.0, 60.0, 120.0};
  std::array<std::uint64_t, kBounds.size() + 1> counts = {};  // the last: above all bounds
  std::uint64_t n = 0;
  double sum = 0;

  void add(double seconds) {
    std::size_t i = 0;
    while (i < kBounds.size() && seconds > kBounds[i]) ++i;
    ++counts[i];
    ++n;
    sum += seconds;
  }
};

}  // namespace tenfold
