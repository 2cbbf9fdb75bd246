#include <cuda_runtime.h>

#include <algorithm>
#include <cstddef>
#include <span>
#include <stdexcept>

#include "kernels/cuda/activations.h"
#include "kernels/cuda/device_layout.h"
#include "kernels/cuda/packed_linear.h"
#include "tests/cuda/device_linear.h"
#include "tests/cuda/device_memory.h"

namespace tenfold {
namespace {

// Keeps what a product works on.
class Memory {
 public:
  std::byte* get(std::size_t bytes) { return memory_.emplace_back(bytes).get(); }
  template <typename T>
  T* copy(const T* from, std::size_t count) {
    if (from == nullptr || count == 0) return nullptr;
    const auto* bytes = reinterpret_cast<const std::byte*>(from);
    memory_.emplace_back(std::vector<std::byte>(bytes, bytes + count * sizeof(T)));
    return reinterpret_cast<T*>(memory_.back().get());
  }
  template <typename T>
  T* copy(const std::vector<T>& from) {
    return copy(from.data(), from.size());
  }

 private:
  std::vector<DeviceArray<std::byte>> memory_;
};

template <typename T>
std::vector<T> from_device(const T* from, std::size_t count) {
  std::vector<T> to(count);
  check_cuda(cudaMemcpy(to.data(), from, count * sizeof(T), cudaMemcpyDeviceToHost),
             "copy from the device");
  return to;
}

std::vector<cuda::ActivationBand> cut_of(const MatrixView& weight) {
  std::vector<cuda::ActivationBand> bands;
  for (const Band& band : weight.all_bands()) {
    const bool whole_row = band.group >= band.cols();
    bands.push_back({static_cast<int>(band.col_begin), static_cast<int>(band.cols()),
                     static_cast<int>(whole_row ? kMaxActivationBlock : band.group)});
  }
  return bands;
}

std::array<cuda::DeviceInput, kMaxBands> prepare(const MatrixView& weight,
                                                 const std::vector<float>& x, int tokens,
                                                 float outlier, Memory& memory) {
  const auto bands = cut_of(weight);
  const auto cols = static_cast<std::size_t>(weight.cols);
  const cuda::ActivationSource source{memory.copy(x), weight.cols,
                                      memory.copy(weight.map.source, cols),
                                      memory.copy(weight.map.factor, cols), outlier};
  std::byte* to = memory.get(cuda::activation_bytes(bands, tokens));
  check_cuda(cuda::launch_prepare(source, bands, tokens, to, nullptr), "launch_prepare");
  return cuda::lay_out_activations(bands, tokens, to);
}

DevicePlane plane_of(const cuda::DeviceInput& in, int block, int token, int plane) {
  const auto n = static_cast<std::size_t>(in.padded_tokens),
             cols = static_cast<std::size_t>(in.cols);
  const std::size_t at = static_cast<std::size_t>(plane) * n + static_cast<std::size_t>(token);
  const auto codes = from_device(in.codes + at * cols, cols);
  const auto blocks = cols / static_cast<std::size_t>(block);
  const auto factors = from_device(in.factors, blocks * n * 4);
  const auto flags = from_device(in.second, cols / cuda::kSegmentCols * n);
  DevicePlane result;
  result.codes.resize(cols);
  for (std::size_t c = 0; c < cols; ++c) {
    const auto place = cuda::activation_place(static_cast<int>(c % 128));
    result.codes[c] = codes[c / 128 * 128 + static_cast<std::size_t>(place)];
  }
  for (std::size_t b = 0; b < blocks; ++b) {
    result.scale.push_back(factors[(b * 2 * n + at) * 2]);
    result.sum.push_back(factors[(b * 2 * n + at) * 2 + 1]);
  }
  for (std::size_t s = 0; s < cols / cuda::kSegmentCols; ++s) {
    result.counts.push_back(plane == 0 || flags[s * n + static_cast<std::size_t>(token)] != 0);
  }
  return result;
}

// y is left to the caller.
cuda::DeviceProduct product_of(const MatrixView& weight,
                               const std::array<cuda::DeviceInput, kMaxBands>& input,
                               Memory& memory) {
  cuda::DeviceProduct product;
  std::copy(input.begin(), input.end(), product.x);
  for (const Band& band : weight.all_bands()) {
    const cuda::DeviceWeights made = cuda::device_weights(band, weight.rows);
    product.bands[product.n_bands++] = {band.format,
                                        band.min_kind,
                                        made.block,
                                        static_cast<int>(band.cols()),
                                        made.segment_bytes,
                                        memory.copy(made.segments),
                                        memory.copy(made.row_factors)};
  }
  product.rows = static_cast<int>(weight.rows);
  return product;
}

// Kernels that `work` launches.
template <typename Work>
int count_launches(const Work& work) {
  cudaStream_t stream;
  cudaGraph_t graph;
  std::size_t nodes = 0;
  check_cuda(cudaStreamCreate(&stream), "stream");
  check_cuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capture");
  work(stream);
  check_cuda(cudaStreamEndCapture(stream, &graph), "capture");
  check_cuda(cudaGraphGetNodes(graph, nullptr, &nodes), "nodes");
  cudaGraphDestroy(graph);
  cudaStreamDestroy(stream);
  return static_cast<int>(nodes);
}

std::vector<cuda::DeviceProduct> of_band(std::span<const cuda::DeviceProduct> products, int band) {
  std::vector<cuda::DeviceProduct> result(products.begin(), products.end());
  for (cuda::DeviceProduct& product : result) {
    product.n_bands = 1;
    product.bands[0] = product.bands[band];
    product.x[0] = product.x[band];
    if (band > 0) product.bias = nullptr, product.accumulate = true;
  }
  return result;
}

void launch(std::span<const cuda::DeviceProduct> products, const DeviceRun& run) {
  cuda::DeviceLimits limits;
  check_cuda(cuda::device_limits(0, &limits), "device_limits");
  if (run.shared_per_block > 0) {
    limits.shared_per_block = std::min(limits.shared_per_block, run.shared_per_block);
  }
  const LaunchShape& s = run.shape;
  const cuda::Tuning tuning{s.decode_warps, s.tile_tokens, s.panels, s.ways, s.stages};
  const auto work = [&](cudaStream_t stream) {
    for (int band = 0; run.by_band && band < products[0].n_bands; ++band) {
      check_cuda(cuda::launch_linear(of_band(products, band), limits, stream, tuning),
                 "launch_linear");
    }
    if (run.by_band) return;
    check_cuda(cuda::launch_linear(products, limits, stream, tuning), "launch_linear");
  };
  work(nullptr);
  check_cuda(cudaDeviceSynchronize(), "product");
  if (run.launches >= 0 && count_launches(work) != run.launches) {
    throw std::runtime_error("another number of launches");
  }
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
  check_cuda(cudaGetDeviceProperties(&properties, 0), "cudaGetDeviceProperties");
  return properties.name;
}

DevicePlanes device_prepare(const MatrixView& weight, const std::vector<float>& x, int tokens,
                            float outlier) {
  Memory memory;
  const auto inputs = prepare(weight, x, tokens, outlier, memory);
  check_cuda(cudaDeviceSynchronize(), "prepare");
  const auto cut = cut_of(weight);
  DevicePlanes planes(cut.size());
  for (std::size_t b = 0; b < cut.size(); ++b) {
    for (int t = 0; t < tokens; ++t) {
      planes[b].push_back(
          {plane_of(inputs[b], cut[b].block, t, 0), plane_of(inputs[b], cut[b].block, t, 1)});
    }
  }
  return planes;
}

std::vector<float> device_linear(const MatrixView& weight, const std::vector<float>& x, int tokens,
                                 std::vector<float> y, const DeviceRun& run) {
  Memory memory;
  cuda::DeviceProduct product =
      product_of(weight, prepare(weight, x, tokens, run.outlier, memory), memory);
  product.bias = memory.copy(run.bias, static_cast<std::size_t>(weight.rows));
  product.y = memory.copy(y);
  product.ldy = run.ldy;
  product.accumulate = run.accumulate;
  launch({&product, 1}, run);
  return from_device(product.y, y.size());
}

std::vector<std::vector<float>> device_linear_group(const std::vector<MatrixView>& weights,
                                                    const std::vector<float>& x, int tokens,
                                                    const DeviceRun& run) {
  Memory memory;
  const auto input = prepare(weights[0], x, tokens, run.outlier, memory);
  std::vector<cuda::DeviceProduct> products;
  for (const MatrixView& weight : weights) {
    products.push_back(product_of(weight, input, memory));
    products.back().y =
        memory.copy(std::vector<float>(static_cast<std::size_t>(weight.rows * tokens)));
    products.back().ldy = weight.rows;
  }
  launch(products, run);
  std::vector<std::vector<float>> y;
  for (const cuda::DeviceProduct& product : products) {
    y.push_back(from_device(product.y, static_cast<std::size_t>(product.rows * tokens)));
  }
  return y;
}

}  // namespace tenfold
