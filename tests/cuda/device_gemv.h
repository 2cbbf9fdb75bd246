#pragma once
// The product of kernels/cuda/packed_gemv.cuh on a CUDA device, for host data.

#include <string>
#include <vector>

#include "kernels/cpu/kernel_table.h"

namespace tenfold {

// "NVIDIA H100 80GB HBM3", or "" and why_not where there is no device to run on.
std::string cuda_device(std::string* why_not);

// y of one token, args.y being what it held before. All pointers of args are to host memory.
// Throws std::runtime_error with CUDA's words.
std::vector<float> device_gemv(const PackedArgs& args);

}  // namespace tenfold
