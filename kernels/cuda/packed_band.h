#pragma once
// One band of a product, between packed_linear.cu and the formats' units.

#include <cstdint>

#include "kernels/cuda/packed_linear.h"
#include "kernels/formats/all.h"

namespace tenfold::cuda {

struct BandProduct {
  DeviceBand band;
  DeviceInput x;
  const float* bias = nullptr;
  float* y = nullptr;
  std::int64_t ldy = 0;
  int rows = 0;
  bool accumulate = false;
};

template <typename F>
cudaError_t launch_band(const BandProduct& product, const DeviceLimits& limits, bool overlap,
                        cudaStream_t stream, const Tuning& tuning);

}  // namespace tenfold::cuda
