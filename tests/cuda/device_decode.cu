#include <cuda_runtime.h>

#include <cstddef>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/cuda/device_layout.h"
#include "kernels/cuda/packed_decode.h"
#include "tests/cuda/device_decode.h"

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
  T* copy(const T* from, std::size_t count) {
    if (from == nullptr || count == 0) return nullptr;
    void* to = nullptr;
    check(cudaMalloc(&to, count * sizeof(T)), "cudaMalloc");
    memory_.emplace_back(static_cast<std::byte*>(to));
    check(cudaMemcpy(to, from, count * sizeof(T), cudaMemcpyHostToDevice), "copy to the device");
    return static_cast<T*>(to);
  }
  template <typename T>
  T* copy(const std::vector<T>& from) {
    return copy(from.data(), from.size());
  }

 private:
  std::vector<std::unique_ptr<std::byte, FreeOnDevice>> memory_;
};

struct Activations {
  std::vector<std::int8_t> codes;
  std::vector<float> factors;
  int cols = 0;
};

Activations arrange(std::span<const PreparedInput> tokens, std::int64_t cols, int block) {
  Activations made;
  made.cols =
      static_cast<int>((cols + cuda::kSegmentCols - 1) / cuda::kSegmentCols * cuda::kSegmentCols);
  const auto padded = static_cast<std::size_t>(made.cols);
  const std::size_t blocks = padded / static_cast<std::size_t>(block);
  made.codes.resize(cuda::kTile * padded);
  made.factors.resize(blocks * cuda::kTile * 2);
  for (std::size_t t = 0; t < tokens.size(); ++t) {
    for (std::int64_t c = 0; c < cols; ++c) {
      const auto place = c / 128 * 128 + cuda::activation_place(static_cast<int>(c % 128));
      made.codes[t * padded + static_cast<std::size_t>(place)] = tokens[t].codes[c];
    }
    for (std::int64_t b = 0; b < tokens[t].blocks; ++b) {
      float* to = &made.factors[(static_cast<std::size_t>(b) * cuda::kTile + t) * 2];
      to[0] = tokens[t].scale[b];
      to[1] = tokens[t].sum[b];
    }
  }
  return made;
}

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

std::vector<float> device_decode(const Band& band, std::int64_t rows,
                                 std::span<const PreparedInput> tokens, std::vector<float> y,
                                 const DecodeExtras& extras) {
  Uploads uploads;
  const cuda::DeviceWeights weights = cuda::device_weights(band, rows);
  const Activations x = arrange(tokens, band.cols(), weights.block);
  cuda::DeviceProduct product;
  product.band = {band.format,
                  band.min_kind,
                  weights.block,
                  static_cast<int>(band.cols()),
                  weights.segment_bytes,
                  uploads.copy(weights.segments),
                  uploads.copy(weights.row_factors)};
  product.x = {uploads.copy(x.codes), uploads.copy(x.factors), static_cast<int>(tokens.size()),
               cuda::kTile, x.cols};
  product.bias = uploads.copy(extras.bias, static_cast<std::size_t>(rows));
  product.y = uploads.copy(y);
  product.rows = static_cast<int>(rows);
  product.accumulate = extras.accumulate;
  check(cuda::launch_decode(product, true, nullptr), "launch");
  check(cudaDeviceSynchronize(), "packed_decode");
  check(cudaMemcpy(y.data(), product.y, y.size() * sizeof(float), cudaMemcpyDeviceToHost),
        "copy from the device");
  return y;
}

}  // namespace tenfold
