#pragma once
// 1-bit codes: one plane.

#include "kernels/formats/plane.h"

namespace tenfold {

struct Q1 {
  static constexpr int bits = 1;
  static constexpr int n_planes = 1;
  static constexpr Plane planes[n_planes] = {{1, 0}};
};

}  // namespace tenfold
