#pragma once
// The products of kernels/cuda on a CUDA device, for host data.

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/matrix.h"

namespace tenfold {

// "NVIDIA H100 80GB HBM3", or "" and why_not where there is no device to run on.
std::string cuda_device(std::string* why_not);

// One plane of one token's band as launch_prepare leaves it, in the order of columns.
struct DevicePlane {
  std::vector<std::int8_t> codes;  // [padded cols]
  std::vector<float> scale, sum;   // [blocks of the padded cols]
  std::vector<bool> counts;        // [segments]: what DeviceInput::second says; first plane: true
};
// [bands][tokens][2 planes]. x: [tokens, weight.cols]. Throws std::runtime_error with CUDA's words,
// as below.
using DevicePlanes = std::vector<std::vector<std::vector<DevicePlane>>>;
DevicePlanes device_prepare(const MatrixView& weight, const std::vector<float>& x, int tokens,
                            float outlier);

// How a launch is tuned: cuda::Tuning, which needs CUDA's headers.
struct LaunchShape {
  int decode_warps = 0, tile_tokens = 0, panels = 0, ways = 0, stages = 0;
};
struct DeviceRun {
  float outlier = 4;
  const float* bias = nullptr;  // [rows] or null
  bool accumulate = false;
  std::int64_t ldy = 0;
  LaunchShape shape;
  int shared_per_block = 0;  // bytes, where another device has less; 0: all
  bool by_band = false;      // as products of one band each
  int launches = -1;         // kernels that the product takes, where that is to be checked
};
// y: [tokens, run.ldy], what it held before.
std::vector<float> device_linear(const MatrixView& weight, const std::vector<float>& x, int tokens,
                                 std::vector<float> y, const DeviceRun& run);
// The products of matrices that share an input and a launch; of `run` how they are launched. y:
// [matrices][tokens, rows].
std::vector<std::vector<float>> device_linear_group(const std::vector<MatrixView>& weights,
                                                    const std::vector<float>& x, int tokens,
                                                    const DeviceRun& run = {});

}  // namespace tenfold
