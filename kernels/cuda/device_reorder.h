#pragma once
// Packed weights on their way to a CUDA device: copied as the file has them and reordered there,
// to the bytes that device_weights() makes on the CPU, in a fraction of the time.

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "kernels/matrix.h"

namespace tenfold::cuda {

// Bytes of scratch for one panel of a packed band of `rows` rows (no less will do), and for as many
// as are worth copying at a time.
std::size_t least_reorder_scratch(const Band& band);
std::size_t reorder_scratch(const Band& band, std::int64_t rows);

// band: packed, on the host; segments, row_factors: of device_sizes(), the latter null where that
// is 0. The scratch may be of any size from least_reorder_scratch() on: it is used again and again.
// All but `band` are on the device, aligned to 16 bytes. cudaErrorInvalidValue where the scratch is
// too small. May return before `stream` is done.
cudaError_t upload_reordered(const Band& band, std::int64_t rows, std::byte* scratch,
                             std::size_t scratch_bytes, std::byte* segments, std::byte* row_factors,
                             cudaStream_t stream);

}  // namespace tenfold::cuda
