#include "kernels/cuda/packed_band.h"
#include "kernels/cuda/packed_linear.h"

namespace tenfold::cuda {
namespace {

cudaError_t launch_one(const BandProduct& band, const DeviceLimits& limits, bool overlap,
                       cudaStream_t stream, const Tuning& tuning) {
  switch (band.band.format) {
#define PACKED_FORMAT(id, name, Type) \
  case Format::name:                  \
    return launch_band<Type>(band, limits, overlap, stream, tuning);
#include "kernels/formats/formats.def"
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace

cudaError_t device_limits(int device, DeviceLimits* limits) {
  limits->device = device;
  const struct {
    cudaDeviceAttr attribute;
    int* value;
  } wanted[] = {
      {cudaDevAttrComputeCapabilityMajor, &limits->major},
      {cudaDevAttrComputeCapabilityMinor, &limits->minor},
      {cudaDevAttrMultiProcessorCount, &limits->processors},
      {cudaDevAttrMaxThreadsPerMultiProcessor, &limits->threads_per_processor},
      {cudaDevAttrMaxRegistersPerMultiprocessor, &limits->registers_per_processor},
      {cudaDevAttrMaxSharedMemoryPerMultiprocessor, &limits->shared_per_processor},
      {cudaDevAttrMaxSharedMemoryPerBlockOptin, &limits->shared_per_block},
  };
  for (const auto& one : wanted) {
    const cudaError_t error = cudaDeviceGetAttribute(one.value, one.attribute, device);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

cudaError_t launch_linear(const DeviceProduct& product, const DeviceLimits& limits, bool overlap,
                          cudaStream_t stream, const Tuning& tuning) {
  if (product.n_bands < 1 || product.n_bands > kMaxBands || product.rows < 1) {
    return cudaErrorInvalidValue;
  }
  for (int b = 0; b < product.n_bands; ++b) {
    if (product.x[b].tokens < 1) return cudaErrorInvalidValue;
    const BandProduct band{
        product.bands[b], product.x[b], b == 0 ? product.bias : nullptr, product.y,
        product.ldy,      product.rows, product.accumulate || b > 0};
    const cudaError_t error = launch_one(band, limits, overlap, stream, tuning);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

}  // namespace tenfold::cuda
