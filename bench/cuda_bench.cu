// Products of one and eight tokens by the matrices of a LLaMA-2-7B layer on a CUDA device, in every
// width, beside cuBLAS with f16 weights. Each time is the median of CUDA graphs whose launches go
// round over copies of a matrix, more than the L2 cache holds; a launch waits for the one before
// it, as the layers of a model do. Shares are of the read bandwidth measured in the same run.
//
//   cuda_bench [--profile]     --profile: one launch of 2 bits, for ncu

#include <cublas_v2.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "kernels/cuda/device_layout.h"
#include "kernels/cuda/packed_decode.h"
#include "kernels/half.h"

namespace tenfold {
namespace {

constexpr std::size_t kRotate = 320u << 20;  // bytes of copies
constexpr int kLayers = 32;

struct Shape {
  const char* name;
  int rows, cols;
};
constexpr Shape kShapes[] = {{"q, k, v", 12288, 4096},
                             {"output", 4096, 4096},
                             {"gate, up", 22016, 4096},
                             {"down", 4096, 11008}};

void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "cuda_bench: %s: %s\n", what, cudaGetErrorString(error));
  std::exit(1);
}
void check(cublasStatus_t status, const char* what) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  std::fprintf(stderr, "cuda_bench: %s: cuBLAS status %d\n", what, static_cast<int>(status));
  std::exit(1);
}

class Memory {
 public:
  explicit Memory(std::size_t bytes) {
    check(cudaMalloc(&p_, std::max<std::size_t>(bytes, 16)), "cudaMalloc");
  }
  template <typename T>
  explicit Memory(const std::vector<T>& from) : Memory(from.size() * sizeof(T)) {
    check(cudaMemcpy(p_, from.data(), from.size() * sizeof(T), cudaMemcpyHostToDevice), "upload");
  }
  Memory(Memory&& other) noexcept : p_(std::exchange(other.p_, nullptr)) {}
  ~Memory() { cudaFree(p_); }
  template <typename T>
  T* as() const {
    return static_cast<T*>(p_);
  }

 private:
  void* p_ = nullptr;
};

using Launch = std::function<void(std::size_t run, cudaStream_t stream)>;

// Microseconds of one launch.
double time_us(std::size_t runs, const Launch& launch) {
  cudaStream_t stream;
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  cudaEvent_t begin, end;
  check(cudaStreamCreate(&stream), "stream");
  launch(0, stream);
  check(cudaStreamSynchronize(stream), "first run");
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), "capture");
  for (std::size_t i = 0; i < runs; ++i) launch(i, stream);
  check(cudaStreamEndCapture(stream, &graph), "end of capture");
  check(cudaGraphInstantiate(&exec, graph, 0), "instantiate");
  check(cudaEventCreate(&begin), "event");
  check(cudaEventCreate(&end), "event");
  std::vector<float> times;
  for (int i = 0; i < 13; ++i) {
    check(cudaEventRecord(begin, stream), "record");
    check(cudaGraphLaunch(exec, stream), "graph");
    check(cudaEventRecord(end, stream), "record");
    check(cudaEventSynchronize(end), "graph");
    float ms = 0;
    check(cudaEventElapsedTime(&ms, begin, end), "time");
    if (i >= 2) times.push_back(ms);  // the first ones warm up
  }
  std::sort(times.begin(), times.end());
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  cudaGraphExecDestroy(exec);
  cudaGraphDestroy(graph);
  cudaStreamDestroy(stream);
  return static_cast<double>(times[times.size() / 2]) * 1e3 / static_cast<double>(runs);
}

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

cuda::DeviceInput random_input(int tokens, int cols, int block, std::mt19937& random,
                               std::vector<Memory>& memory) {
  const int padded = (cols + cuda::kSegmentCols - 1) / cuda::kSegmentCols * cuda::kSegmentCols;
  std::vector<std::int8_t> codes(static_cast<std::size_t>(cuda::kTile * padded));
  std::vector<float> factors(static_cast<std::size_t>(padded / block * cuda::kTile * 2));
  for (std::int8_t& c : codes) c = static_cast<std::int8_t>(random());
  for (float& f : factors) f = 1e-3f * static_cast<float>(random() % 99);
  const Memory& x = memory.emplace_back(codes);
  const auto* x_codes = x.as<std::int8_t>();
  return {x_codes, memory.emplace_back(factors).as<float>(), tokens, cuda::kTile, padded};
}

void print_row(const char* weights, const char* shape, int tokens, double us, double bytes,
               double bandwidth) {
  const double gbs = bytes * 1e-3 / us;
  std::printf("| %-8s | %-8s | %d | %7.2f | %5.0f | %3.0f %% |\n", weights, shape, tokens, us, gbs,
              100 * gbs / bandwidth);
  std::fflush(stdout);
}

double time_packed(Shape shape, Format format, std::int64_t group, int tokens, double bandwidth,
                   const char* name) {
  std::mt19937 random(1);
  const FileBand file(shape, format, group, random);
  const cuda::DeviceWeights made = cuda::device_weights(file.band, shape.rows);
  std::vector<Memory> memory, copies;
  while (copies.size() * made.segments.size() < kRotate) copies.emplace_back(made.segments);
  const Memory y(static_cast<std::size_t>(shape.rows * cuda::kTile) * sizeof(float));
  cuda::DeviceProduct product;
  product.band = {format,  MinKind::zero, made.block, shape.cols, made.segment_bytes,
                  nullptr, nullptr};
  product.x = random_input(tokens, shape.cols, made.block, random, memory);
  product.y = y.as<float>();
  product.rows = shape.rows;
  const double us =
      time_us(std::max<std::size_t>(copies.size(), 20), [&](std::size_t run, cudaStream_t stream) {
        product.band.segments = copies[run % copies.size()].as<std::byte>();
        check(cuda::launch_decode(product, true, stream), "packed_decode");
      });
  print_row(name, shape.name, tokens, us, static_cast<double>(file.bytes()), bandwidth);
  return us;
}

double time_cublas(cublasHandle_t handle, Shape shape, int tokens, double bandwidth) {
  const std::size_t bytes = static_cast<std::size_t>(shape.rows) * shape.cols * 2;
  const Memory workspace(64u << 20), x(static_cast<std::size_t>(shape.cols * tokens) * 2),
      y(static_cast<std::size_t>(shape.rows * tokens) * 2);
  std::vector<Memory> copies;
  while (copies.size() * bytes < kRotate) {
    check(cudaMemset(copies.emplace_back(bytes).as<void>(), 0x2c, bytes), "memset");
  }
  check(cudaMemset(x.as<void>(), 0x2c, static_cast<std::size_t>(shape.cols * tokens) * 2),
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
  std::printf("| %-8s | %d layers | %d | %7.0f |       |       |\n", name, kLayers, tokens,
              kLayers * us);
}

struct Width {
  const char* name;
  Format format;
  std::int64_t group;
};
constexpr Width kWidths[] = {{"q1 g128", Format::q1, 128}, {"q2 g128", Format::q2, 128},
                             {"q3 g128", Format::q3, 128}, {"q4 g128", Format::q4, 128},
                             {"q2 g64", Format::q2, 64},   {"q4 g32", Format::q4, 32},
                             {"q8 g128", Format::q8, 128}};

void print_table() {
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
  for (const int tokens : {1, cuda::kTile}) {
    for (const Width& width : kWidths) {
      double all = 0;
      for (const Shape shape : kShapes) {
        all += time_packed(shape, width.format, width.group, tokens, bandwidth, width.name);
      }
      print_layers(width.name, tokens, all);
    }
    double all = 0;
    for (const Shape shape : kShapes) all += time_cublas(handle, shape, tokens, bandwidth);
    print_layers("f16", tokens, all);
  }
  cublasDestroy(handle);
}

}  // namespace
}  // namespace tenfold

int main(int argc, char** argv) {
  if (argc > 1 && std::strcmp(argv[1], "--profile") == 0) {
    tenfold::time_packed(tenfold::kShapes[2], tenfold::Format::q2, 128, 1, 1, "q2 g128");
  } else {
    tenfold::print_table();
  }
}
