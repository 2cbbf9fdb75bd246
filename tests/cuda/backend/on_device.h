#pragma once
// The CUDA backend as the program opens it; tests skip aloud where there is no device.

#include <gtest/gtest.h>

#include "kernels/device.h"
#include "kernels/error.h"

namespace tenfold::testing {

inline std::unique_ptr<Backend> on_device(Activations activations = Activations::int8) {
  return make_backend({"cuda", {1, "", activations}});
}

class CudaTest : public ::testing::Test {
 protected:
  void SetUp() override {
    try {
      on_device();
    } catch (const Error& error) {
      GTEST_SKIP() << "NOT TESTED: " << error.what();
    }
  }
};

}  // namespace tenfold::testing
