#pragma once
// y = W x for packed weights and at most kTile tokens, on int8 tensor cores (sm_80 and later);
// weights and activations lie as device_layout.h says. All pointers are to device memory, aligned
// to 16 bytes.

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "kernels/formats/format.h"

namespace tenfold::cuda {

struct DeviceInput {
  const std::int8_t* codes = nullptr;  // [tokens][cols]
  const float* factors = nullptr;      // [blocks][tokens][2]: scale, and scale * the sum of codes
  int tokens = 0, padded_tokens = 0;   // at most kTile; kTile
  int cols = 0;                        // padded
};

struct DeviceBand {
  Format format = Format::q4;
  MinKind min_kind = MinKind::zero;
  int block = 0;  // columns of an activation block: 32, 64 or 128
  int cols = 0;
  int segment_bytes = 0;
  const std::byte* segments = nullptr;
  const std::byte* row_factors = nullptr;  // null where each segment has its own
};

// y[t, r] = sum_c W[r, c] x[t, c] + bias[r]   (added to y where `accumulate`)
struct DeviceProduct {
  DeviceBand band;
  DeviceInput x;
  const float* bias = nullptr;  // [rows] or null
  float* y = nullptr;           // [tokens, rows]
  int rows = 0;
  bool accumulate = false;
};

// cudaErrorNotSupported before sm_80. The sums do not depend on the number of tokens. overlap
// (sm_90): the weights may be on their way while what comes before in the stream still runs, and
// this while what follows loads its own.
cudaError_t launch_decode(const DeviceProduct& product, bool overlap, cudaStream_t stream);

}  // namespace tenfold::cuda
