// Rows of a table, which is float or packed as device_layout.h says.

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>

#include "kernels/cuda/device_layout.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/unroll.cuh"
#include "kernels/formats/all.h"

namespace tenfold::cuda {
namespace {

constexpr int kThreads = 256;

__device__ __forceinline__ void put(float value, bool accumulate, float* to) {
  *to = accumulate ? __fadd_rn(*to, value) : value;
}

template <typename T>
__device__ void copy_floats(const DeviceBand& band, std::int64_t row, bool accumulate, float* y) {
  const T* from = reinterpret_cast<const T*>(band.segments) + row * band.cols;
  for (int c = static_cast<int>(threadIdx.x); c < band.cols; c += kThreads) {
    put(static_cast<float>(from[c]), accumulate, y + c);
  }
}

template <typename F>
__device__ __forceinline__ unsigned code_at(const std::byte* segment, int in_panel, int in) {
  unsigned code = 0;
  unroll<F::n_planes>([&](auto plane) {
    constexpr int p = decltype(plane)::value;
    constexpr int bits = F::planes[p].bits;
    constexpr int before = p == 0 ? 0 : F::planes[0].bits;
    const CodePlace place = code_place(F::bits, bits, before, in_panel, in);
    const auto byte = static_cast<unsigned>(segment[place.byte]);
    code |= (byte >> place.bit & ((1u << bits) - 1)) << F::planes[p].shift;
  });
  return code;
}

template <typename F>
__device__ void unpack_row(const DeviceBand& band, std::int64_t row, bool accumulate, float* y) {
  const int segments = (band.cols + kSegmentCols - 1) / kSegmentCols;
  const auto min_kind = static_cast<int>(band.min_kind);
  const std::int64_t panel = row / kPanelRows;
  const auto in_panel = static_cast<int>(row % kPanelRows);
  for (int c = static_cast<int>(threadIdx.x); c < band.cols; c += kThreads) {
    const int in = c % kSegmentCols;
    const std::byte* segment =
        band.segments + (panel * segments + c / kSegmentCols) * band.segment_bytes;
    const std::byte* factors = band.row_factors == nullptr
                                   ? segment + F::bits * 512
                                   : band.row_factors + panel * factor_bytes(band.block, min_kind);
    const FactorPlaces places = factor_places(band.block, min_kind, in_panel, in / band.block);
    const float scale = __half2float(*reinterpret_cast<const __half*>(factors + places.scale));
    float min = 0;
    if (band.min_kind == MinKind::f16) {
      min = __half2float(*reinterpret_cast<const __half*>(factors + places.min));
    } else if (band.min_kind == MinKind::midrise) {
      min = __fmul_rn(-scale, static_cast<float>((1 << F::bits) - 1) * 0.5f);
    } else {
      min = __fmul_rn(-scale, static_cast<float>(static_cast<unsigned>(factors[places.min])));
    }
    const auto code = static_cast<float>(code_at<F>(segment, in_panel, in));
    put(__fadd_rn(__fmul_rn(scale, code), min), accumulate, y + c);
  }
}

// A thread block for each token and band.
__global__ void __launch_bounds__(kThreads)
    embed(DeviceTable table, const std::int32_t* ids, std::int64_t dim, bool accumulate, float* y) {
  begin_kernel();
  y += blockIdx.x * dim;
  const std::int64_t row = ids[blockIdx.x];
  for (unsigned b = 0; b < blockIdx.y; ++b) y += table.bands[b].cols;
  const DeviceBand& band = table.bands[blockIdx.y];
  switch (band.format) {
    case Format::f32:
      return copy_floats<float>(band, row, accumulate, y);
    case Format::f16:
      return copy_floats<__half>(band, row, accumulate, y);
    case Format::bf16:
      return copy_floats<__nv_bfloat16>(band, row, accumulate, y);
#define PACKED_FORMAT(id, name, Type) \
  case Format::name:                  \
    return unpack_row<Type>(band, row, accumulate, y);
#include "kernels/formats/formats.def"
  }
}

}  // namespace

cudaError_t embed_rows(const DeviceTable& table, const std::int32_t* ids, std::int64_t tokens,
                       std::int64_t dim, float* y, bool accumulate, cudaStream_t stream) {
  if (tokens == 0) return cudaSuccess;
  const dim3 grid(static_cast<unsigned>(tokens), static_cast<unsigned>(table.n_bands));
  return launch(stream, grid, kThreads, 0, embed, table, ids, dim, accumulate, y);
}

}  // namespace tenfold::cuda
