#pragma once
// The product of kernels/cuda/packed_decode.h on a CUDA device, for host data.

#include <span>
#include <string>
#include <vector>

#include "kernels/cpu/kernel_table.h"
#include "kernels/matrix.h"

namespace tenfold {

// "NVIDIA H100 80GB HBM3", or "" and why_not where there is no device to run on.
std::string cuda_device(std::string* why_not);

struct DecodeExtras {
  const float* bias = nullptr;  // [rows] or null
  bool accumulate = false;
};

// y of tokens, each prepared by itself for a matrix of this one band; y: [tokens, rows], what it
// held before. Throws std::runtime_error with CUDA's words.
std::vector<float> device_decode(const Band& band, std::int64_t rows,
                                 std::span<const PreparedInput> tokens, std::vector<float> y,
                                 const DecodeExtras& extras);

}  // namespace tenfold
