// Products of few and many tokens by the matrices of a LLaMA-2-7B layer on a CUDA device, in every
// width, beside cuBLAS with f16 weights, the rounding of activations before them, and the other
// operations of a step. Each time is the median of CUDA graphs whose launches go round over copies
// of a matrix, more than the L2 cache holds; a launch waits for the one before it, as the layers of
// a model do. Shares are of the read bandwidth measured in the same run.
//
//   cuda_bench [--quick | --profile | --tune]
//
// "q4 + q1" is a matrix of two bands (g128), a fifth of its columns in the first; "q4, q1" the same
// with a launch for each.
//
// --quick: of the packed widths only 2 and 4 bits g128 and 4 beside 1. --profile: one launch of 2
// bits, for ncu. --tune: the best of the ways to launch a product, for each width and number of
// tokens, beside the default.

#include <cublas_v2.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>
#include <random>
#include <span>
#include <utility>
#include <vector>

#include "bench/cuda_operations.h"
#include "bench/cuda_time.h"
#include "kernels/cuda/activations.h"
#include "kernels/cuda/device_layout.h"
#include "kernels/cuda/packed_linear.h"
#include "kernels/half.h"

namespace tenfold {
namespace {

constexpr std::size_t kRotate = 320u << 20;  // bytes of copies
constexpr int kLayers = 32;
constexpr int kTokens[] = {1, 4, 8, 16, 64, 512};

struct Shape {
  const char* name;
  int rows, cols;
};
constexpr Shape kShapes[] = {{"q, k, v", 12288, 4096},
                             {"output", 4096, 4096},
                             {"gate, up", 22016, 4096},
                             {"down", 4096, 11008}};

__global__ void read_all(const uint4* from, std::size_t n, unsigned* to) {
  unsigned sum = 0;
  const std::size_t stride = std::size_t{gridDim.x} * blockDim.x;
  for (std::size_t i = std::size_t{blockIdx.x} * blockDim.x + threadIdx.x; i + 3 * stride < n;
       i += 4 * stride) {
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const uint4 v = __ldcs(from + i + k * stride);
      sum += v.x ^ v.y ^ v.z ^ v.w;
    }
  }
  if (sum == 0x12345) *to = sum;  // keeps the loads
}
__global__ void nothing() {}

// GB/s.
double read_bandwidth(int processors) {
  const std::size_t bytes = std::size_t{4} << 30;
  const Memory from(bytes), to(4);
  check(cudaMemset(from.as<void>(), 1, bytes), "memset");
  const double us = time_us(3, [&](std::size_t, cudaStream_t stream) {
    read_all<<<processors * 8, 512, 0, stream>>>(from.as<uint4>(), bytes / 16, to.as<unsigned>());
  });
  return static_cast<double>(bytes) * 1e-3 / us;
}

// Random codes, scales and zero points, as the file holds them.
struct FileBand {
  FileBand(Shape shape, Format format, std::int64_t group, std::mt19937& random)
      : layout(packed_layout(format, MinKind::zero, shape.rows, shape.cols, group)),
        codes(static_cast<std::size_t>(layout.code_bytes)),
        min(static_cast<std::size_t>(layout.min_bytes)),
        scale(static_cast<std::size_t>(layout.scale_bytes) / 2) {
    for (std::byte& b : codes) b = static_cast<std::byte>(random());
    for (std::byte& b : min) b = static_cast<std::byte>(random());
    for (std::uint16_t& s : scale)
      s = f32_to_f16(0.01f + 1e-4f * static_cast<float>(random() % 99));
    band = {format,
            MinKind::zero,
            0,
            shape.cols,
            group,
            codes.data(),
            reinterpret_cast<const std::byte*>(scale.data()),
            min.data()};
  }
  std::int64_t bytes() const { return layout.code_bytes + layout.scale_bytes + layout.min_bytes; }

  PackedLayout layout;
  std::vector<std::byte> codes, min;
  std::vector<std::uint16_t> scale;
  Band band;
};

// Random activations of a matrix, rounded on the device.
class Input {
 public:
  Input(int tokens, std::vector<cuda::ActivationBand> bands)
      : bands_(std::move(bands)),
        tokens_(tokens),
        cols_(bands_.back().col_begin + bands_.back().cols),
        x_(random_floats(static_cast<std::size_t>(tokens) * static_cast<std::size_t>(cols_))),
        prepared_(cuda::activation_bytes(bands_, tokens)) {
    prepare(nullptr);
  }
  int tokens() const { return tokens_; }
  void prepare(cudaStream_t stream) const {
    const cuda::ActivationSource from{x_.as<float>(), cols_, nullptr, nullptr, 4};
    check(cuda::launch_prepare(from, bands_, tokens_, prepared_.as<std::byte>(), stream),
          "launch_prepare");
  }
  cuda::DeviceInput view(std::size_t band) const {
    return cuda::lay_out_activations(bands_, tokens_, prepared_.as<std::byte>())[band];
  }

 private:
  std::vector<cuda::ActivationBand> bands_;
  int tokens_, cols_;
  Memory x_, prepared_;
};

void print_row(const char* weights, const char* shape, int tokens, double us, double bytes,
               double bandwidth) {
  const double gbs = bytes * 1e-3 / us;
  std::printf("| %-8s | %-8s | %3d | %7.2f | %5.0f | %3.0f %% |\n", weights, shape, tokens, us, gbs,
              100 * gbs / bandwidth);
  std::fflush(stdout);
}

cuda::DeviceLimits limits_of_device() {
  cuda::DeviceLimits limits;
  check(cuda::device_limits(0, &limits), "device_limits");
  return limits;
}

struct Width {
  const char* name;
  Format format;
  std::int64_t group;
  // Where a fifth of the columns has 4 bits: in one launch, or in one for each band.
  enum { one_band, mixed, apart } bands = one_band;
};

// A matrix of random weights, several times over.
class Packed {
 public:
  Packed(Shape shape, const Width& width) : shape_(shape), apart_(width.bands == Width::apart) {
    const int first = width.bands == Width::one_band ? 0 : shape.cols / 5 / 16 * 16;
    std::mt19937 random(1);
    if (first > 0) add({shape.name, shape.rows, first}, Format::q4, width.group, random);
    add({shape.name, shape.rows, shape.cols - first}, width.format, width.group, random);
    std::size_t bytes = 0;
    for (const OneBand& band : bands_) bytes += band.weights.size();
    for (OneBand& band : bands_) {
      for (std::size_t n = 0; n < kRotate; n += bytes) band.copies.emplace_back(band.weights);
      band.weights = {};
    }
  }
  std::int64_t bytes() const { return bytes_; }
  Input input(int tokens) const {
    std::vector<cuda::ActivationBand> cuts;
    int begin = 0;
    for (const OneBand& band : bands_) {
      cuts.push_back({begin, band.on_device.cols, band.on_device.block});
      begin += band.on_device.cols;
    }
    return {tokens, cuts};
  }

  // Microseconds of a product.
  double time(const Input& input, const cuda::Tuning& tuning) const {
    const Memory y(static_cast<std::size_t>(shape_.rows) *
                   static_cast<std::size_t>(input.tokens()) * sizeof(float));
    const std::size_t copies = bands_[0].copies.size();
    return time_us(std::max<std::size_t>(copies, 20), [&](std::size_t run, cudaStream_t stream) {
      cuda::DeviceProduct product;
      product.y = y.as<float>();
      product.ldy = product.rows = shape_.rows;
      for (std::size_t b = 0; b < bands_.size(); ++b) {
        const int at = product.n_bands++;
        product.bands[at] = bands_[b].on_device;
        product.bands[at].segments = bands_[b].copies[run % copies].as<std::byte>();
        product.x[at] = input.view(b);
        if (!apart_ && b + 1 < bands_.size()) continue;
        launch(product, stream, tuning);
        product.n_bands = 0;
        product.accumulate = true;
      }
    });
  }

 private:
  struct OneBand {
    cuda::DeviceBand on_device;
    std::vector<std::byte> weights;
    std::vector<Memory> copies;
  };
  void add(Shape shape, Format format, std::int64_t group, std::mt19937& random) {
    const FileBand file(shape, format, group, random);
    cuda::DeviceWeights made = cuda::device_weights(file.band, shape.rows);
    OneBand& band = bands_.emplace_back();
    band.on_device = {format,  MinKind::zero, made.block, shape.cols, made.segment_bytes,
                      nullptr, nullptr};
    band.weights = std::move(made.segments);
    bytes_ += file.bytes();
  }
  static void launch(const cuda::DeviceProduct& product, cudaStream_t stream,
                     const cuda::Tuning& tuning) {
    static const cuda::DeviceLimits limits = limits_of_device();
    check(cuda::launch_linear({&product, 1}, limits, stream, tuning), "launch_linear");
  }

  Shape shape_;
  bool apart_;
  std::vector<OneBand> bands_;  // those of more bits first
  std::int64_t bytes_ = 0;
};

double time_packed(const Packed& weights, Shape shape, int tokens, double bandwidth,
                   const char* name) {
  const double us = weights.time(weights.input(tokens), {});
  print_row(name, shape.name, tokens, us, static_cast<double>(weights.bytes()), bandwidth);
  return us;
}

void time_prepare(Shape shape, int tokens) {
  const Input input(tokens, {{0, shape.cols, 128}});
  const double us = time_us(20, [&](std::size_t, cudaStream_t stream) { input.prepare(stream); });
  std::printf("| rounding | %d columns | %3d | %7.2f |       |       |\n", shape.cols, tokens, us);
}

double time_cublas(cublasHandle_t handle, Shape shape, int tokens, double bandwidth) {
  const std::size_t bytes = static_cast<std::size_t>(shape.rows) * shape.cols * 2;
  const Memory workspace(64u << 20),
      x(static_cast<std::size_t>(shape.cols) * static_cast<std::size_t>(tokens) * 2),
      y(static_cast<std::size_t>(shape.rows) * static_cast<std::size_t>(tokens) * 2);
  std::vector<Memory> copies;
  while (copies.size() * bytes < kRotate) {
    check(cudaMemset(copies.emplace_back(bytes).as<void>(), 0x2c, bytes), "memset");
  }
  check(cudaMemset(x.as<void>(), 0x2c,
                   static_cast<std::size_t>(shape.cols) * static_cast<std::size_t>(tokens) * 2),
        "memset");
  const float one = 1, zero = 0;
  const double us =
      time_us(std::max<std::size_t>(copies.size(), 20), [&](std::size_t run, cudaStream_t stream) {
        check(cublasSetStream(handle, stream), "stream");
        check(cublasSetWorkspace(handle, workspace.as<void>(), 64u << 20), "workspace");
        check(cublasGemmEx(handle, CUBLAS_OP_T, CUBLAS_OP_N, shape.rows, tokens, shape.cols, &one,
                           copies[run % copies.size()].as<void>(), CUDA_R_16F, shape.cols,
                           x.as<void>(), CUDA_R_16F, shape.cols, &zero, y.as<void>(), CUDA_R_16F,
                           shape.rows, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
              "gemm");
      });
  print_row("f16", shape.name, tokens, us, static_cast<double>(bytes), bandwidth);
  return us;
}

void print_layers(const char* name, int tokens, double us) {
  std::printf("| %-8s | %d layers | %3d | %7.0f |       |       |\n", name, kLayers, tokens,
              kLayers * us);
}

constexpr Width kWidths[] = {{"q1 g128", Format::q1, 128},
                             {"q2 g128", Format::q2, 128},
                             {"q3 g128", Format::q3, 128},
                             {"q4 g128", Format::q4, 128},
                             {"q2 g64", Format::q2, 64},
                             {"q4 g32", Format::q4, 32},
                             {"q8 g128", Format::q8, 128},
                             {"q4 + q1", Format::q1, 128, Width::mixed},
                             {"q4, q1", Format::q1, 128, Width::apart},
                             {"q4 + q2", Format::q2, 128, Width::mixed}};
constexpr Width kQuickWidths[] = {kWidths[1], kWidths[3], kWidths[7], kWidths[8]};

void print_table(std::span<const Width> widths) {
  cudaDeviceProp device;
  check(cudaGetDeviceProperties(&device, 0), "no device");
  const double bandwidth = read_bandwidth(device.multiProcessorCount);
  const double empty =
      time_us(100, [](std::size_t, cudaStream_t stream) { nothing<<<1, 32, 0, stream>>>(); });
  std::printf(
      "%s, sm_%d%d, %d SMs, L2 %d MiB; reads %.0f GB/s; an empty kernel in a graph: %.2f us\n\n",
      device.name, device.major, device.minor, device.multiProcessorCount, device.l2CacheSize >> 20,
      bandwidth, empty);
  std::printf("| weights | matrix | tokens | us | GB/s | of read |\n|---|---|---|---|---|---|\n");
  cublasHandle_t handle;
  check(cublasCreate(&handle), "cublasCreate");
  for (const Width& width : widths) {
    std::array<double, std::size(kTokens)> all{};
    for (const Shape shape : kShapes) {
      const Packed weights(shape, width);
      for (std::size_t i = 0; i < all.size(); ++i) {
        all[i] += time_packed(weights, shape, kTokens[i], bandwidth, width.name);
      }
    }
    for (std::size_t i = 0; i < all.size(); ++i) print_layers(width.name, kTokens[i], all[i]);
  }
  for (const int tokens : kTokens) {
    time_prepare(kShapes[1], tokens);
    time_prepare(kShapes[3], tokens);
    if (tokens == 1 || tokens == 16) time_operations(tokens);
    double all = 0;
    for (const Shape shape : kShapes) all += time_cublas(handle, shape, tokens, bandwidth);
    print_layers("f16", tokens, all);
  }
  cublasDestroy(handle);
}

void print_tuning() {
  std::printf(
      "| weights | matrix | tokens | default us | best us | warps, tile, panels, ways, stages |\n");
  std::printf("|---|---|---|---|---|---|\n");
  for (const Width& width : kWidths) {
    for (const Shape shape : kShapes) {
      const Packed weights(shape, width);
      for (const int tokens : kTokens) {
        const Input input = weights.input(tokens);
        double best = 1e30;
        cuda::Tuning with;
        for (const cuda::Tuning& tuning : cuda::tuning_candidates(tokens)) {
          const double us = weights.time(input, tuning);
          if (us < best) best = us, with = tuning;
        }
        std::printf("| %-8s | %-8s | %3d | %7.2f | %7.2f | %d, %d, %d, %d, %d |\n", width.name,
                    shape.name, tokens, weights.time(input, {}), best, with.decode_warps,
                    with.tile_tokens, with.panels, with.ways, with.stages);
        std::fflush(stdout);
      }
    }
  }
}

}  // namespace
}  // namespace tenfold

int main(int argc, char** argv) {
  const char* what = argc > 1 ? argv[1] : "";
  if (std::strcmp(what, "--profile") == 0) {
    const tenfold::Shape shape = tenfold::kShapes[2];
    tenfold::time_packed(tenfold::Packed(shape, tenfold::kWidths[1]), shape, 1, 1, "q2 g128");
  } else if (std::strcmp(what, "--tune") == 0) {
    tenfold::print_tuning();
  } else if (std::strcmp(what, "--quick") == 0) {
    tenfold::print_table(tenfold::kQuickWidths);
  } else {
    tenfold::print_table(tenfold::kWidths);
  }
}
