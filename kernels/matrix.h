#pragma once
// A weight: [rows, cols] = [output channels, input channels], row-major, f32, f16 or bf16. Either
// owned (dequantized or converted on load) or a view into a mapped file.

#include <cstddef>
#include <cstdint>

#include "kernels/buffer.h"
#include "kernels/dtype.h"

namespace tenfold {

struct MatrixView {
  const std::byte* data = nullptr;
  DType dtype = DType::f32;
  std::int64_t rows = 0, cols = 0;

  std::size_t row_bytes() const noexcept {
    return static_cast<std::size_t>(cols) * (dtype == DType::f32 ? 4 : 2);
  }
  std::size_t bytes() const noexcept { return row_bytes() * static_cast<std::size_t>(rows); }
  bool empty() const noexcept { return data == nullptr; }
};

struct Matrix {
  Buffer storage;  // empty where `view` points into a mapped file
  MatrixView view;
};

}  // namespace tenfold
