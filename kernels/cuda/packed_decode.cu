#include <algorithm>

#include "kernels/cuda/packed_decode.cuh"
#include "kernels/cuda/packed_decode.h"

namespace tenfold::cuda {
namespace {

// Found best on an H100 (docs/gpu.md): many warps with two segments each, where shared memory and
// registers let two such thread blocks reside; else half as many that look further ahead.
template <typename F, int block, int n_tokens>
inline constexpr bool kManyWarps = block == 128 && F::bits < 8 && (n_tokens == 1 || F::bits <= 2);
template <typename F, int block, int n_tokens>
inline constexpr int kWarps = kManyWarps<F, block, n_tokens> ? 16 : 8;
template <typename F, int block, int n_tokens>
inline constexpr int kStages =
    kManyWarps<F, block, n_tokens> || F::bits == 8 || block == 32 ? 2 : 3;

template <typename F, int block, int min_kind, int n_tokens>
cudaError_t launch(const DeviceProduct& a, bool overlap, cudaStream_t stream) {
  constexpr int warps = kWarps<F, block, n_tokens>, stages = kStages<F, block, n_tokens>;
  const auto kernel = packed_decode<F, block, min_kind, n_tokens, warps, stages>;
  const auto shared = decode_shared<F, block, min_kind, n_tokens, warps, stages>(a.band.cols);
  cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                           static_cast<int>(shared));
  int device = 0, major = 0, processors = 0, blocks = 0;
  if (error == cudaSuccess) error = cudaGetDevice(&device);
  if (error == cudaSuccess) {
    error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  }
  if (error == cudaSuccess && major < 8) error = cudaErrorNotSupported;
  if (error == cudaSuccess) {
    error = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
  }
  if (error == cudaSuccess) {
    error = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, 32 * warps, shared);
  }
  if (error != cudaSuccess) return error;
  const int panels = (a.rows + kPanelRows - 1) / kPanelRows;
  cudaLaunchConfig_t config{};
  config.gridDim = static_cast<unsigned>(std::min(panels, std::max(blocks, 1) * processors));
  config.blockDim = 32 * warps;
  config.dynamicSmemBytes = shared;
  config.stream = stream;
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  config.attrs = &attribute;
  config.numAttrs = overlap ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel, a);
}

template <typename F, int block, int min_kind>
cudaError_t by_tokens(const DeviceProduct& a, bool overlap, cudaStream_t stream) {
  return a.x.tokens == 1 ? launch<F, block, min_kind, 1>(a, overlap, stream)
                         : launch<F, block, min_kind, kTile>(a, overlap, stream);
}

template <typename F, int block>
cudaError_t by_minimum(const DeviceProduct& a, bool overlap, cudaStream_t stream) {
  switch (a.band.min_kind) {
    case MinKind::zero:
      return by_tokens<F, block, 0>(a, overlap, stream);
    case MinKind::midrise:
      return by_tokens<F, block, 1>(a, overlap, stream);
    case MinKind::f16:
      return by_tokens<F, block, 2>(a, overlap, stream);
  }
  return cudaErrorInvalidValue;
}

template <typename F>
cudaError_t by_block(const DeviceProduct& a, bool overlap, cudaStream_t stream) {
  switch (a.band.block) {
    case 32:
      return by_minimum<F, 32>(a, overlap, stream);
    case 64:
      return by_minimum<F, 64>(a, overlap, stream);
    case 128:
      return by_minimum<F, 128>(a, overlap, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace

cudaError_t launch_decode(const DeviceProduct& product, bool overlap, cudaStream_t stream) {
  if (product.x.tokens < 1 || product.x.tokens > kTile) return cudaErrorInvalidValue;
  switch (product.band.format) {
#define PACKED_FORMAT(id, name, Type) \
  case Format::name:                  \
    return by_block<Type>(product, overlap, stream);
#include "kernels/formats/formats.def"
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace tenfold::cuda
