#pragma once
// 8-bit codes: one plane.

#include "kernels/formats/plane.h"

namespace tenfold {

struct Q8 {
  static constexpr int bits = 8;
  static constexpr int n_planes = 1;
  static constexpr Plane planes[n_planes] = {{8, 0}};
};

}  // namespace tenfold
