#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/packed_band.h"
#include "kernels/cuda/packed_linear.h"

namespace tenfold::cuda {
namespace {

cudaError_t launch_one(const BandProduct& band, const DeviceLimits& limits, cudaStream_t stream,
                       const Tuning& tuning) {
  switch (band.band.format) {
#define PACKED_FORMAT(id, name, Type) \
  case Format::name:                  \
    return launch_band<Type>(band, limits, stream, tuning);
#include "kernels/formats/formats.def"
    default:
      return cudaErrorInvalidValue;
  }
}

bool alike(const DeviceBand& a, const DeviceBand& b) {
  return a.format == b.format && a.min_kind == b.min_kind && a.block == b.block &&
         a.cols == b.cols && a.segment_bytes == b.segment_bytes &&
         (a.row_factors == nullptr) == (b.row_factors == nullptr);
}

BandProduct band_of(std::span<const DeviceProduct> products, int b) {
  BandProduct result;
  result.band = products[0].bands[b];
  result.x = products[0].x[b];
  for (const DeviceProduct& p : products) {
    const int begin = result.panels;
    result.panels += divide_up(p.rows, kPanelRows);
    result.parts[result.n_parts++] = {p.bands[b].segments,
                                      p.bands[b].row_factors,
                                      b == 0 ? p.bias : nullptr,
                                      p.y,
                                      p.ldy,
                                      p.rows,
                                      begin,
                                      result.panels,
                                      p.accumulate || b > 0};
  }
  return result;
}

}  // namespace

cudaError_t device_limits(int device, DeviceLimits* limits) {
  limits->device = device;
  const struct {
    cudaDeviceAttr attribute;
    int* value;
  } wanted[] = {
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

std::vector<Tuning> tuning_candidates(int tokens) {
  std::vector<Tuning> result;
  for (const int stages : {2, 3}) {
    for (const int warps : {4, 8, 16}) {
      if (tokens <= 4) {
        result.push_back({warps, 0, 0, 0, stages});
      } else if (warps > 4 && tokens <= 64) {
        for (const int run : {8, 16}) result.push_back({warps, run, 0, 0, stages});
      }
    }
    for (const int panels : {1, 2, 4, 8}) {
      for (const int ways : {1, 4}) {
        if (tokens > 8 && panels * ways <= 8) result.push_back({0, 64, panels, ways, stages});
      }
    }
  }
  return result;
}

bool share_a_launch(const DeviceProduct& a, const DeviceProduct& b) {
  if (a.n_bands != b.n_bands) return false;
  for (int i = 0; i < a.n_bands; ++i) {
    if (!alike(a.bands[i], b.bands[i]) || a.x[i].codes != b.x[i].codes) return false;
  }
  return true;
}

cudaError_t launch_linear(std::span<const DeviceProduct> products, const DeviceLimits& limits,
                          cudaStream_t stream, const Tuning& tuning) {
  if (products.empty() || products.size() > kMaxParts) return cudaErrorInvalidValue;
  const DeviceProduct& first = products[0];
  if (first.n_bands < 1 || first.n_bands > kMaxBands) return cudaErrorInvalidValue;
  for (const DeviceProduct& product : products) {
    if (product.rows < 1 || !share_a_launch(first, product)) return cudaErrorInvalidValue;
  }
  for (int b = 0; b < first.n_bands; ++b) {
    if (first.x[b].tokens < 1) return cudaErrorInvalidValue;
  }
  if (first.n_bands == 2) {
    const BandProduct bands[] = {band_of(products, 0), band_of(products, 1)};
    const auto error = launch_pair(bands, limits, stream, tuning);
    if (error) return *error;
  }
  for (int b = 0; b < first.n_bands; ++b) {
    const cudaError_t error = launch_one(band_of(products, b), limits, stream, tuning);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

}  // namespace tenfold::cuda
