#pragma once
// Sizes of a packed band on a CUDA device, laid out as device_layout.h says.

#include <cstddef>
#include <cstdint>

#include "kernels/matrix.h"

namespace tenfold::cuda {

struct DeviceSizes {
  std::size_t segments = 0;     // bytes
  std::size_t row_factors = 0;  // bytes; 0 where a group is not the whole row
  int segment_bytes = 0;
  int block = 0;  // columns of an activation block: 32, 64 or 128
};
DeviceSizes device_sizes(const Band& band, std::int64_t rows);

}  // namespace tenfold::cuda
