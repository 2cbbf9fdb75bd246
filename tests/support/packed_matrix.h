#pragma once
// A matrix of random packed and float bands.

#include <string>
#include <vector>

#include "kernels/matrix.h"

namespace tenfold {

struct BandShape {
  Format format;
  MinKind min_kind;
  std::int64_t col_begin, col_end;
  std::int64_t group;  // 0: the whole row
};

struct PackedMatrix {
  // extreme: codes 2^bits - 1 and zero points 0 everywhere, scales powers of two.
  PackedMatrix(std::int64_t rows, std::int64_t cols, const std::vector<BandShape>& bands,
               bool mapped = false, bool extreme = false);
  PackedMatrix(const PackedMatrix&) = delete;
  PackedMatrix& operator=(const PackedMatrix&) = delete;

  MatrixView view;
  std::string description;

 private:
  std::vector<Buffer> memory_;
  std::vector<std::int32_t> source_;
  std::vector<float> factor_;
};

}  // namespace tenfold
