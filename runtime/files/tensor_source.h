#pragma once
// A tensor as a file holds it: name, shape, element type, and its bytes inside a mapped file.
// GGUF, safetensors and pytorch_model.bin readers all produce these, already checked: `data` has
// exactly the size that shape and type imply and lies inside the mapping. `data` may be unaligned.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "kernels/dtype.h"

namespace tenfold {

struct TensorSource {
  std::string name;
  std::vector<std::int64_t> shape;  // row-major, outermost first: a linear layer is [out, in]
  DType dtype = DType::f32;
  std::span<const std::byte> data;

  std::int64_t elements() const noexcept {  // cannot overflow: the reader checked it
    std::int64_t n = 1;
    for (const std::int64_t extent : shape) n *= extent;
    return n;
  }
};

// src: whole blocks of `dtype`; dst: exactly as many floats as those blocks hold.
// f16/bf16/Q*: exact dequantization in float, bit for bit what ggml's dequantize_row_* gives.
// dtype must be dequantizable (dtype_traits).
void dequantize(DType dtype, std::span<const std::byte> src, std::span<float> dst) noexcept;

}  // namespace tenfold
