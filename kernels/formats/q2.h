#pragma once
// 2-bit codes: one plane.

#include "kernels/formats/plane.h"

namespace tenfold {

struct Q2 {
  static constexpr int bits = 2;
  static constexpr int n_planes = 1;
  static constexpr Plane planes[n_planes] = {{2, 0}};
};

}  // namespace tenfold
