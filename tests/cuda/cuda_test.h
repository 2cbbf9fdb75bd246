#pragma once
// What the tests of kernels/cuda share.

#include <gtest/gtest.h>

#include <cstdint>
#include <iostream>
#include <string>
#include <vector>

#include "kernels/matrix.h"
#include "tests/cuda/device_linear.h"
#include "tests/support/random.h"

namespace tenfold {

// Skips where there is no device, or an interpreter of one.
class CudaKernels : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string why_not;
    const std::string device = cuda_device(&why_not);
    if (device.empty()) GTEST_SKIP() << "NOT TESTED: no CUDA device: " << why_not;
    static const bool said = (std::cerr << "Device: " << device << '\n', true);
    (void)said;
  }
};

inline std::vector<Format> packed_formats() {
  return {
#define PACKED_FORMAT(id, name, Type) Format::name,
#include "kernels/formats/formats.def"
  };
}

// [tokens, cols], where every third token has a value that stands out.
inline std::vector<float> activations_with_outliers(int tokens, std::int64_t cols) {
  std::vector<float> x = random_floats(static_cast<std::size_t>(tokens * cols), 7);
  for (std::int64_t t = 0; t < tokens; t += 3) {
    x[static_cast<std::size_t>(t * cols + (5 * t + cols / 2) % cols)] = 40;
  }
  return x;
}

}  // namespace tenfold
