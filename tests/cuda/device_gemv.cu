#include <cuda_runtime.h>

#include <cstddef>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/cuda/packed_gemv.cuh"
#include "tests/cuda/device_gemv.h"

namespace tenfold {
namespace {

void check(cudaError_t error, const char* what) {
  if (error != cudaSuccess) {
    throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
  }
}

struct FreeOnDevice {
  void operator()(std::byte* p) const { cudaFree(p); }
};

// Copies to the device, each an allocation of exactly its size, so that reads past an end are seen.
class Uploads {
 public:
  template <typename T>
  T* copy(const T* from, std::int64_t count) {
    if (from == nullptr || count == 0) return nullptr;
    const auto bytes = static_cast<std::size_t>(count) * sizeof(T);
    void* to = nullptr;
    check(cudaMalloc(&to, bytes), "cudaMalloc");
    memory_.emplace_back(static_cast<std::byte*>(to));
    check(cudaMemcpy(to, from, bytes, cudaMemcpyHostToDevice), "cudaMemcpy to the device");
    return static_cast<T*>(to);
  }

 private:
  std::vector<std::unique_ptr<std::byte, FreeOnDevice>> memory_;
};

}  // namespace

std::string cuda_device(std::string* why_not) {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess || count == 0) {
    *why_not = error != cudaSuccess ? cudaGetErrorString(error) : "no device";
    return "";
  }
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, 0), "cudaGetDeviceProperties");
  return properties.name;
}

std::vector<float> device_gemv(const PackedArgs& args) {
  Uploads uploads;
  const std::int64_t panels = (args.rows + kPanelRows - 1) / kPanelRows;
  std::vector<PackedBand> bands(args.bands, args.bands + args.n_bands);
  for (PackedBand& band : bands) {
    band.codes = uploads.copy(band.codes, panels * band.panel_code_bytes);
    band.scale = uploads.copy(band.scale, panels * band.groups * kPanelRows * 2);
    band.min = uploads.copy(band.min, panels * band.panel_min_bytes);
  }
  PackedArgs device = args;
  device.bands = uploads.copy(bands.data(), args.n_bands);
  device.bias = uploads.copy(args.bias, args.rows);
  device.x.codes = uploads.copy(args.x.codes, args.x.dwords * 4);
  device.x.scale = uploads.copy(args.x.scale, args.x.blocks);
  device.x.sum = uploads.copy(args.x.sum, args.x.blocks);
  device.y = uploads.copy(args.y, args.rows);
  const auto blocks = static_cast<unsigned>((panels + cuda::kGemvWarps - 1) / cuda::kGemvWarps);
  cuda::packed_gemv<<<blocks, 32 * cuda::kGemvWarps>>>(device);
  check(cudaGetLastError(), "launch");
  check(cudaDeviceSynchronize(), "packed_gemv");
  std::vector<float> y(static_cast<std::size_t>(args.rows));
  check(cudaMemcpy(y.data(), device.y, y.size() * sizeof(float), cudaMemcpyDeviceToHost),
        "cudaMemcpy from the device");
  return y;
}

}  // namespace tenfold
