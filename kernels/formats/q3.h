#pragma once
// 3-bit codes: a plane of the low two bits and a plane of the high bit.

#include "kernels/formats/plane.h"

namespace tenfold {

struct Q3 {
  static constexpr int bits = 3;
  static constexpr int n_planes = 2;
  static constexpr Plane planes[n_planes] = {{2, 0}, {1, 2}};
};

}  // namespace tenfold
