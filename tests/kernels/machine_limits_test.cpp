#include "kernels/cpu/machine_limits.h"

#include <gtest/gtest.h>

#include <cmath>

#include "kernels/cpu/isa.h"

namespace tenfold {
namespace {

void expect_a_rate(double rate) {
  EXPECT_GT(rate, 0.0);
  EXPECT_TRUE(std::isfinite(rate));
}

TEST(MachineLimits, ReadBandwidthOfAnyNumberOfThreadsAndBytes) {
  for (const int threads : {1, 2, 5}) {
    ReadBandwidth bandwidth(threads, 3 << 20);
    expect_a_rate(bandwidth.measure());
    expect_a_rate(bandwidth.measure());
  }
  expect_a_rate(ReadBandwidth(2, 1).measure());
}

TEST(MachineLimits, PeaksOfEveryInstructionSet) {
  for (const KernelTable* kernels : runnable_kernels()) {
    SCOPED_TRACE(kernels->isa);
    expect_a_rate(measure_int8_peak(kernels->isa, 2));
    expect_a_rate(measure_fma_peak(kernels->isa, 2));
  }
}

}  // namespace
}  // namespace tenfold
