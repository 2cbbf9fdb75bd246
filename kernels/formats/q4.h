#pragma once
// 4-bit codes: one plane.

#include "kernels/formats/plane.h"

namespace tenfold {

struct Q4 {
  static constexpr int bits = 4;
  static constexpr int n_planes = 1;
  static constexpr Plane planes[n_planes] = {{4, 0}};
};

}  // namespace tenfold
