#pragma once
// y = W x for packed weights and any number of tokens, on int8 tensor cores (sm_75 and later).
// Weights and activations lie as device_layout.h says; activations.h makes the latter. All pointers
// are to device memory, aligned to 16 bytes.

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/formats/format.h"
#include "kernels/matrix.h"

namespace tenfold::cuda {

// What a launch needs to know of a device, asked once.
struct DeviceLimits {
  int device = 0;
  int processors = 0;
  int threads_per_processor = 0, registers_per_processor = 0;
  int shared_per_processor = 0, shared_per_block = 0;  // bytes, the largest that may be asked for
};
cudaError_t device_limits(int device, DeviceLimits* limits);

// The activations of one band.
struct DeviceInput {
  const std::int8_t* codes = nullptr;    // [2 planes][padded_tokens][cols]
  const float* factors = nullptr;        // [blocks][2 planes][padded_tokens][2]: scale, and scale *
                                         // the sum of codes
  const std::uint8_t* second = nullptr;  // [segments][padded_tokens]: 1 where the second plane of a
                                         // token has anything in a segment
  int tokens = 0, padded_tokens = 0;     // the latter a multiple of kTile
  int cols = 0;                          // padded
};

// Of floats, segments are the elements [rows, cols]; block, segment_bytes and row_factors mean
// nothing then. Products take packed ones only.
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
  int n_bands = 0;
  DeviceBand bands[kMaxBands];
  DeviceInput x[kMaxBands];     // of each band, all of as many tokens
  const float* bias = nullptr;  // [rows] or null
  float* y = nullptr;           // [tokens, ldy]
  std::int64_t ldy = 0;
  int rows = 0;
  bool accumulate = false;
};

// Products that one launch takes: q, k and v.
inline constexpr int kMaxParts = 3;

// How a band's kernel is launched: results do not depend on it. Zeros: the default for the shape
// and the device.
struct Tuning {
  int decode_warps = 0;  // of a thread block: 4, 8 or 16
  int tile_tokens = 0;   // more than 4 tokens: in runs of 8 or 16, or in tiles of 64
  int panels = 0;        // of 16 rows that share a tile of activations: 1, 2, 4 or 8
  int ways = 0;          // warps that share a row's columns: 1 or 4; panels * ways <= 8
  int stages = 0;        // segments under way or in use: 2 or 3
  bool operator==(const Tuning&) const = default;
};

// What is worth trying for so many tokens.
std::vector<Tuning> tuning_candidates(int tokens);

// The same input and bands alike but for the weights and the rows.
bool share_a_launch(const DeviceProduct& a, const DeviceProduct& b);

// y of each product: at most kMaxParts, which share a launch for each band, or, of few tokens, one
// for two bands of blocks of 128. cudaErrorInvalidValue for what is not as said above or does not
// fit into the device's shared memory. The sums of a token do not depend on what other tokens there
// are, nor on the launches. Weights may be on their way while what comes
// before in the stream still runs (launch.cuh).
cudaError_t launch_linear(std::span<const DeviceProduct> products, const DeviceLimits& limits,
                          cudaStream_t stream, const Tuning& tuning = {});

}  // namespace tenfold::cuda
