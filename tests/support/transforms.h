#pragma once
// Large random transforms of a coupling's channels.

#include <algorithm>
#include <cmath>
#include <random>

#include "quantizer/search/coupling.h"

namespace tenfold::testing {

inline void shuffle(ChannelTransform& by, std::mt19937& random) {
  std::shuffle(by.order.begin(), by.order.end(), random);
}

inline void scale(const Coupling& coupling, ChannelTransform& by, std::mt19937& random) {
  std::uniform_real_distribution<float> log(-1.5f, 1.5f);
  for (std::size_t i = 0; i < by.scale.size(); ++i) {
    by.scale[i] = coupling.scales_pairs && i % 2 == 1 ? by.scale[i - 1] : std::exp(log(random));
  }
}

inline void turn(ChannelTransform& by, float most, std::mt19937& random) {
  std::uniform_real_distribution<float> angle(-most, most);
  for (float& one : by.angle) one = angle(random);
}

// Everything that the coupling allows exactly.
inline ChannelTransform random_transform(const Coupling& coupling, std::mt19937& random) {
  ChannelTransform by(coupling.channels);
  if (coupling.permutation == Exactness::exact) shuffle(by, random);
  if (coupling.scale == Exactness::exact) scale(coupling, by, random);
  if (coupling.rotation == Exactness::exact) turn(by, 3.0f, random);
  return by;
}

}  // namespace tenfold::testing
