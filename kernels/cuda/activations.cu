#include <algorithm>

#include "kernels/cuda/activations.h"
#include "kernels/cuda/device_layout.h"
#include "kernels/cuda/packed_overlap.cuh"
#include "kernels/cuda/reduce.cuh"

namespace tenfold::cuda {
namespace {

constexpr int kLaneCols = 4;  // of 128 columns
constexpr int kMaxThreads = 1024;
// Below it a step counts as 0, so that its inverse stays finite.
constexpr float kLeastStep = 1.17549435e-38f;

struct PreparedBand {
  ActivationBand cut;
  int segments = 0;
  std::int8_t* codes = nullptr;
  float* factors = nullptr;
  std::uint8_t* second = nullptr;
};
struct Args {
  ActivationSource from;
  PreparedBand bands[kMaxBands];
  int n_bands = 0, tokens = 0, padded_tokens = 0;
};

// The lane's columns c ... c + 3 of a token's band, zero beyond its end.
__device__ __forceinline__ void read_columns(const Args& a, const ActivationBand& band,
                                             const float* x, int c, float (&v)[kLaneCols]) {
#pragma unroll
  for (int i = 0; i < kLaneCols; ++i) {
    v[i] = 0;
    if (c + i >= band.cols) continue;
    const int col = band.col_begin + c + i;
    v[i] = x[a.from.source == nullptr ? col : a.from.source[col]];
    if (a.from.factor != nullptr) v[i] = __fmul_rn(v[i], a.from.factor[col]);
  }
}

// The sum of squares of a token's input; all threads take part and get it.
__device__ float energy_of(const Args& a, const float* x) {
  __shared__ double sums[kMaxThreads / 32];
  float sum = 0;
  for (int b = 0; b < a.n_bands; ++b) {
    const ActivationBand& band = a.bands[b].cut;
    for (int c = static_cast<int>(threadIdx.x) * kLaneCols; c < band.cols;
         c += static_cast<int>(blockDim.x) * kLaneCols) {
      float v[kLaneCols];
      read_columns(a, band, x, c, v);
#pragma unroll
      for (const float value : v) sum = __fadd_rn(sum, __fmul_rn(value, value));
    }
  }
  return static_cast<float>(block_reduce(double{sum}, Add{}, sums));
}

// One plane of a block that `lanes` lanes hold: steps of `step`.
struct Plane {
  unsigned codes;  // the lane's four
  float scale, sum;
};
__device__ __forceinline__ Plane quantize(const float (&v)[kLaneCols], float step, int lanes) {
  const bool nothing = !(step >= kLeastStep);
  const float inverse = nothing ? 0.0f : __fdiv_rn(1.0f, step);
  Plane plane{0, nothing ? 0.0f : step, 0};
  int total = 0;
#pragma unroll
  for (int i = 0; i < kLaneCols; ++i) {
    const float rounded = rintf(__fmul_rn(v[i], inverse));
    const int code = static_cast<int>(fmaxf(fminf(rounded, 127.0f), -127.0f));
    plane.codes |= (static_cast<unsigned>(code) & 255u) << 8 * i;
    total += code;
  }
  for (int distance = lanes / 2; distance > 0; distance /= 2) {
    total += __shfl_xor_sync(~0u, total, distance);
  }
  plane.sum = __fmul_rn(plane.scale, __int2float_rn(total));
  return plane;
}
__device__ __forceinline__ float code_of(unsigned codes, int i) {
  return __int2float_rn(static_cast<std::int8_t>(codes >> 8 * i));
}

// Both planes of the lane's block in 128 columns from c0 on; true where the second counts.
__device__ __forceinline__ bool quantize_block(const Args& a, const ActivationBand& band,
                                               const float* x, int c0, float energy,
                                               Plane (&planes)[2]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int lanes = band.block / kLaneCols;
  const int begin = c0 + lane / lanes * band.block;  // of the block
  float v[kLaneCols];
  read_columns(a, band, x, c0 + lane * kLaneCols, v);
  float largest = 0;
#pragma unroll
  for (const float value : v) largest = fmaxf(largest, fabsf(value));
  for (int distance = lanes / 2; distance > 0; distance /= 2) {
    largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, distance));
  }
  planes[0] = quantize(v, __fdiv_rn(largest, 127.0f), lanes);
  const int n = max(0, min(band.block, band.cols - begin));
  const float extent = __fmul_rn(__fmul_rn(largest, largest), __int2float_rn(n));
  const bool needs = !(extent <= __fmul_rn(a.from.outlier, energy));
#pragma unroll
  for (int i = 0; i < kLaneCols; ++i) {
    const float kept = __fmul_rn(planes[0].scale, code_of(planes[0].codes, i));
    v[i] = needs ? __fsub_rn(v[i], kept) : 0.0f;
  }
  planes[1] = quantize(v, needs ? __fdiv_rn(planes[0].scale, 254.0f) : 0.0f, lanes);
  return needs;
}

// A warp's segment. Codes of the second plane are written only where they count: elsewhere their
// scale is 0.
__device__ __forceinline__ void prepare_segment(const Args& a, const PreparedBand& band,
                                                const float* x, int segment, int token,
                                                float energy) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int lanes = band.cut.block / kLaneCols;
  Plane planes[2][2];  // [128 columns][plane]
  bool needs = false;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    needs |= quantize_block(a, band.cut, x, segment * kSegmentCols + h * 128, energy, planes[h]);
  }
  const bool second = __any_sync(~0u, needs);
  const std::int64_t cols = std::int64_t{band.segments} * kSegmentCols;
  const int place = activation_place(lane * kLaneCols);
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int block = (segment * kSegmentCols + h * 128) / band.cut.block + lane / lanes;
#pragma unroll
    for (int p = 0; p < 2; ++p) {
      const std::int64_t column = std::int64_t{p} * a.padded_tokens + token;
      if (p == 0 || second) {
        std::int8_t* to = band.codes + column * cols + segment * kSegmentCols + h * 128 + place;
        *reinterpret_cast<unsigned*>(to) = planes[h][p].codes;
      }
      if (lane % lanes == 0) {
        const std::int64_t at = (std::int64_t{block} * 2 + p) * a.padded_tokens + token;
        reinterpret_cast<float2*>(band.factors)[at] = {planes[h][p].scale, planes[h][p].sum};
      }
    }
  }
  if (lane == 0) band.second[std::int64_t{segment} * a.padded_tokens + token] = second ? 1 : 0;
}

// A thread block for each token; those of padding write zeros.
__global__ void __launch_bounds__(kMaxThreads) prepare(Args a) {
  wait_for_inputs();
  let_next_begin();
  const int token = static_cast<int>(blockIdx.x);
  const float* x = a.from.x + (token < a.tokens ? token : 0) * a.from.ldx;
  const bool padding = token >= a.tokens;
  const float energy = a.from.outlier > 0 && !padding ? energy_of(a, x) : 0.0f;
  const int warps = static_cast<int>(blockDim.x) / 32;
  int first = static_cast<int>(threadIdx.x) / 32;
  for (int b = 0; b < a.n_bands; ++b) {
    PreparedBand band = a.bands[b];
    if (padding) band.cut.cols = 0;
    int segment = first;
    for (; segment < band.segments; segment += warps) {
      prepare_segment(a, band, x, segment, token, energy);
    }
    first = segment - band.segments;  // the next band's segments go on with the next warps
  }
}

std::size_t round_up_16(std::size_t n) { return (n + 15) / 16 * 16; }

int padded(int tokens) { return (tokens + kTile - 1) / kTile * kTile; }

// Bytes of a band's codes, factors and flags.
struct Extents {
  std::size_t codes, factors, second;
  std::size_t all() const { return codes + factors + second; }
};
Extents extents(const ActivationBand& band, int tokens) {
  const auto segments = static_cast<std::size_t>(segments_of(band.cols));
  const auto n = static_cast<std::size_t>(padded(tokens));
  const std::size_t blocks = segments * static_cast<std::size_t>(kSegmentCols / band.block);
  return {2 * n * segments * kSegmentCols, blocks * 2 * n * 2 * sizeof(float),
          round_up_16(segments * n)};
}

}  // namespace

std::size_t activation_bytes(std::span<const ActivationBand> bands, int tokens) {
  std::size_t bytes = 0;
  for (const ActivationBand& band : bands) bytes += extents(band, tokens).all();
  return bytes;
}

std::array<DeviceInput, kMaxBands> lay_out_activations(std::span<const ActivationBand> bands,
                                                       int tokens, std::byte* memory) {
  std::array<DeviceInput, kMaxBands> inputs{};
  for (std::size_t b = 0; b < bands.size() && b < inputs.size(); ++b) {
    const Extents bytes = extents(bands[b], tokens);
    inputs[b].codes = reinterpret_cast<const std::int8_t*>(memory);
    inputs[b].factors = reinterpret_cast<const float*>(memory + bytes.codes);
    inputs[b].second = reinterpret_cast<const std::uint8_t*>(memory + bytes.codes + bytes.factors);
    inputs[b].tokens = tokens;
    inputs[b].padded_tokens = padded(tokens);
    inputs[b].cols = segments_of(bands[b].cols) * kSegmentCols;
    memory += bytes.all();
  }
  return inputs;
}

cudaError_t launch_prepare(const ActivationSource& from, std::span<const ActivationBand> bands,
                           int tokens, std::byte* memory, bool overlap, cudaStream_t stream) {
  if (tokens < 1 || bands.empty() || bands.size() > kMaxBands) return cudaErrorInvalidValue;
  const auto inputs = lay_out_activations(bands, tokens, memory);
  Args args;
  args.from = from;
  args.n_bands = static_cast<int>(bands.size());
  args.tokens = tokens;
  args.padded_tokens = padded(tokens);
  int segments = 0;
  for (std::size_t b = 0; b < bands.size(); ++b) {
    const int block = bands[b].block;
    if (block != 32 && block != 64 && block != 128) return cudaErrorInvalidValue;
    args.bands[b] = {
        bands[b], segments_of(bands[b].cols), const_cast<std::int8_t*>(inputs[b].codes),
        const_cast<float*>(inputs[b].factors), const_cast<std::uint8_t*>(inputs[b].second)};
    segments += args.bands[b].segments;
  }
  const auto threads = static_cast<unsigned>(std::clamp(32 * segments, 32, kMaxThreads));
  return launch_on(stream, overlap, static_cast<unsigned>(args.padded_tokens), threads, 0, prepare,
                   args);
}

}  // namespace tenfold::cuda
