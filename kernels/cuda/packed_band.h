#pragma once
// One band of products that share an input, between packed_linear.cu and the formats' units.

#include <cstdint>
#include <optional>

#include "kernels/cuda/packed_linear.h"
#include "kernels/formats/all.h"

namespace tenfold::cuda {

// The share of one product in a launch: its panels come after those of the parts before it.
struct BandPart {
  const std::byte* segments = nullptr;
  const std::byte* row_factors = nullptr;  // null in all parts of a launch or in none
  const float* bias = nullptr;
  float* y = nullptr;
  std::int64_t ldy = 0;
  int rows = 0;
  int first_panel = 0, end_panel = 0;
  bool accumulate = false;
};

struct BandProduct {
  DeviceBand band;  // what its parts have in common: all but segments and row_factors
  DeviceInput x;
  BandPart parts[kMaxParts];
  int n_parts = 0, panels = 0;
};

template <typename F>
cudaError_t launch_band(const BandProduct& product, const DeviceLimits& limits, cudaStream_t stream,
                        const Tuning& tuning);

// Both bands of the same products in one launch; nothing where each has to have its own.
std::optional<cudaError_t> launch_pair(const BandProduct (&bands)[2], const DeviceLimits& limits,
                                       cudaStream_t stream, const Tuning& tuning);

}  // namespace tenfold::cuda
