// Products of the host's floats that the device takes.

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "kernels/backend.h"
#include "tests/cuda/backend/on_device.h"
#include "tests/support/random.h"

namespace tenfold {
namespace {

using testing::on_device;

class CudaHostLinear : public testing::CudaTest {};

struct Shape {
  std::int64_t rows, cols, tokens;
};

TEST_F(CudaHostLinear, AsTheCpu) {
  const auto device = on_device();
  const auto alone = make_cpu_backend({1, ""});
  const auto helped = make_cpu_backend({1, ""}, device.get());
  for (const Shape& s : {Shape{300, 257, 221}, {4096, 64, 65}, {129, 2048, 64}}) {
    const std::vector<float> w = random_floats(static_cast<std::size_t>(s.rows * s.cols), 1),
                             x = random_floats(static_cast<std::size_t>(s.tokens * s.cols), 2),
                             bias = random_floats(static_cast<std::size_t>(s.rows), 3);
    for (const bool accumulate : {false, true}) {
      for (const float* b : {static_cast<const float*>(nullptr), bias.data()}) {
        std::vector<float> expected = random_floats(static_cast<std::size_t>(s.tokens * s.rows), 4),
                           found = expected;
        Linear part{float_matrix(w.data(), Format::f32, s.rows, s.cols), b, expected.data(), s.rows,
                    accumulate};
        alone->linear({&part, 1}, x.data(), s.cols, s.tokens);
        part.y = found.data();
        helped->linear({&part, 1}, x.data(), s.cols, s.tokens);
        for (std::size_t i = 0; i < found.size(); ++i) {
          ASSERT_NEAR(found[i], expected[i], 1e-5 * std::sqrt(static_cast<double>(s.cols)) + 1e-5);
        }
      }
    }
  }
}

// What it does not take stays as it was.
TEST_F(CudaHostLinear, LeavesTheRest) {
  const auto device = on_device();
  const std::vector<float> w = random_floats(1 << 18, 5), x = random_floats(64 << 10, 6);
  std::vector<float> y(1 << 20, 7.0f);
  const Linear few{float_matrix(w.data(), Format::f32, 256, 1024), nullptr, y.data(), 256, false};
  EXPECT_FALSE(device->host_linear(few, x.data(), 1024, 63));
  Linear gaps = few;
  gaps.ldy = 257;
  EXPECT_FALSE(device->host_linear(gaps, x.data(), 1024, 64));
  Linear biased = few;
  biased.bias = w.data();
  EXPECT_FALSE(device->host_linear(biased, x.data(), 1024, 64));
  const Linear halves{float_matrix(w.data(), Format::f16, 256, 1024), nullptr, y.data(), 256,
                      false};
  EXPECT_FALSE(device->host_linear(halves, x.data(), 1024, 64));
  EXPECT_EQ(y, std::vector<float>(1 << 20, 7.0f));
  EXPECT_TRUE(device->host_linear(few, x.data(), 1024, 64));
}

}  // namespace
}  // namespace tenfold
