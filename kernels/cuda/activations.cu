#include <algorithm>

#include "kernels/cuda/activations.h"
#include "kernels/cuda/device_layout.h"
#include "kernels/cuda/exp.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/norm_row.cuh"
#include "kernels/cuda/reduce.cuh"

namespace tenfold::cuda {
namespace {

constexpr int kLaneCols = 4;  // of 128 columns
constexpr int kMaxThreads = 512;
constexpr int kBatch = 6;  // loads a thread has on their way for the sum of squares
// Thread blocks share a token's segments where there are few tokens. Each of them squares the whole
// token, so that they are not worth it beyond so many in all, or with fewer segments each.
constexpr int kMostBlocks = 128;
constexpr int kLeastShare = 4;
// Of a row that is made in shared memory: 64 KB are what every device has, some for reductions.
constexpr std::int64_t kMostMadeCols = 15 * 1024;
constexpr std::size_t kDefaultShared = 47 * 1024;  // may be used without asking
// Below it a step counts as 0, so that its inverse stays finite.
constexpr float kLeastStep = 1.17549435e-38f;

struct PreparedBand {
  ActivationBand cut;
  int segments = 0;
  std::int8_t* codes = nullptr;
  float* factors = nullptr;
  std::uint8_t* second = nullptr;
};
struct Run {
  int begin = 0, n = 0;
};
struct Args {
  ActivationSource from;
  PreparedBand bands[kMaxBands];
  int tokens = 0, padded_tokens = 0;
  int segments = 0, share = 0;  // of all bands; of a thread block
  Run runs[kMaxBands];          // of bands, as long as one follows another without a gap
  int n_runs = 0;
};

__device__ __forceinline__ int lane_index() { return static_cast<int>(threadIdx.x % 32); }

// How a lane reads its columns: at once where all is aligned, through a map or not.
enum class Reading { plain, mapped, one_by_one };

// Columns col ... col + 3 of a token, `n` of them: the rest is 0.
template <Reading reading>
__device__ __forceinline__ void read_columns(const ActivationSource& from, const float* x, int col,
                                             int n, float (&v)[kLaneCols]) {
  if constexpr (reading == Reading::one_by_one) {
#pragma unroll
    for (int i = 0; i < kLaneCols; ++i) {
      v[i] = 0;
      if (i >= n) continue;
      v[i] = x[from.source == nullptr ? col + i : from.source[col + i]];
      if (from.factor != nullptr) v[i] = __fmul_rn(v[i], from.factor[col + i]);
    }
    return;
  }
  float4 four{0, 0, 0, 0};
  if (n > 0) {
    if (reading == Reading::plain || from.source == nullptr) {
      four = *reinterpret_cast<const float4*>(x + col);
    } else {
      const int4 at = *reinterpret_cast<const int4*>(from.source + col);
      four = {x[at.x], x[at.y], x[at.z], x[at.w]};
    }
    if (reading == Reading::mapped && from.factor != nullptr) {
      const float4 by = *reinterpret_cast<const float4*>(from.factor + col);
      four = {__fmul_rn(four.x, by.x), __fmul_rn(four.y, by.y), __fmul_rn(four.z, by.z),
              __fmul_rn(four.w, by.w)};
    }
  }
  v[0] = four.x, v[1] = four.y, v[2] = four.z, v[3] = four.w;
}

// The thread's part of kBatch * kStep columns of a run, for the sum of squares. Which columns are a
// thread's, and their order, do not depend on how many thread blocks share a token.
template <Reading reading>
struct Batch {
  // Where thread blocks are smaller, runs are no longer than one step of theirs.
  static constexpr int kStep = kMaxThreads * kLaneCols;
  float v[kBatch][kLaneCols];

  __device__ __forceinline__ void read(const Args& a, const float* x, Run run, int first) {
    const int c = first + static_cast<int>(threadIdx.x) * kLaneCols;
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      read_columns<reading>(a.from, x, run.begin + c + i * kStep, run.n - c - i * kStep, v[i]);
    }
  }
  __device__ __forceinline__ void add_squares(float (&sums)[kLaneCols]) const {
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
#pragma unroll
      for (int j = 0; j < kLaneCols; ++j) sums[j] = __fmaf_rn(v[i][j], v[i][j], sums[j]);
    }
  }
};

// The sum of squares of a token's input, of which `batch` is the first part; all threads take part
// and get it.
template <Reading reading>
__device__ __forceinline__ float energy_of(const Args& a, const float* x, Batch<reading>& batch) {
  __shared__ float shared[32];
  float sums[kLaneCols] = {};
  batch.add_squares(sums);
  int first = kBatch * Batch<reading>::kStep;
  for (int r = 0; r < a.n_runs; ++r) {
    for (; first < a.runs[r].n; first += kBatch * Batch<reading>::kStep) {
      batch.read(a, x, a.runs[r], first);
      batch.add_squares(sums);
    }
    first = 0;
  }
  const float sum = __fadd_rn(__fadd_rn(sums[0], sums[1]), __fadd_rn(sums[2], sums[3]));
  return block_reduce(sum, Add{}, shared);
}

// value / divisor, as __fdiv_rn has it: one correction of a product with the rounded inverse. True
// of all values that are not negative, where the result is normal.
template <int divisor>
__device__ __forceinline__ float divided_by(float value) {
  constexpr float kInverse = 1.0f / divisor;
  const float near = __fmul_rn(value, kInverse);
  const float exact = __fmaf_rn(__fmaf_rn(-float{divisor}, near, value), kInverse, near);
  return value <= 3.402823466e38f ? exact : value;
}

// 1 / step, as __frcp_rn has it for normal values whose inverse is normal; 0 for infinity.
__device__ __forceinline__ float inverse_of(float step) {
  float near;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(near) : "f"(step));
  const float exact = __fmaf_rn(near, __fmaf_rn(-step, near, 1.0f), near);
  return step <= 3.402823466e38f ? exact : 0.0f;
}

// Over groups of `lanes` lanes, for both halves of a segment; values are not negative.
__device__ __forceinline__ void group_max(float (&values)[2], int lanes) {
#if __CUDA_ARCH__ >= 800
  if (lanes == 32) {
    for (float& v : values) v = __uint_as_float(__reduce_max_sync(~0u, __float_as_uint(v)));
    return;
  }
#endif
  for (int distance = lanes / 2; distance > 0; distance /= 2) {
    for (float& v : values) v = fmaxf(v, __shfl_xor_sync(~0u, v, distance));
  }
}
__device__ __forceinline__ void group_sum(int (&values)[2], int lanes) {
#if __CUDA_ARCH__ >= 800
  if (lanes == 32) {
    for (int& v : values) v = __reduce_add_sync(~0u, v);
    return;
  }
#endif
  for (int distance = lanes / 2; distance > 0; distance /= 2) {
    for (int& v : values) v += __shfl_xor_sync(~0u, v, distance);
  }
}

// One plane of a block that `lanes` lanes hold.
struct Plane {
  unsigned codes;  // the lane's four
  float scale, sum;
};

// A plane of both halves of a segment: steps of `step`.
__device__ __forceinline__ void quantize(const float (&v)[2][kLaneCols], const float (&step)[2],
                                         int lanes, Plane (&planes)[2]) {
  constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: the sum's low byte is the code
  int totals[2];
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const bool nothing = !(step[h] >= kLeastStep);
    const float inverse = nothing ? 0.0f : inverse_of(step[h]);
    unsigned rounded[kLaneCols];
#pragma unroll
    for (int i = 0; i < kLaneCols; ++i) {
      const float inside = fmaxf(fminf(__fmul_rn(v[h][i], inverse), 127.0f), -127.0f);
      rounded[i] = __float_as_uint(__fadd_rn(inside, kMagic));
    }
    const unsigned codes = __byte_perm(__byte_perm(rounded[0], rounded[1], 0x0040),
                                       __byte_perm(rounded[2], rounded[3], 0x0040), 0x5410);
    planes[h] = {codes, nothing ? 0.0f : step[h], 0};
    totals[h] = __dp4a(static_cast<int>(codes), 0x01010101, 0);
  }
  group_sum(totals, lanes);
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    planes[h].sum = __fmul_rn(planes[h].scale, __int2float_rn(totals[h]));
  }
}

// A lane's share of its warp's segment: four columns of each half, and of their blocks what does
// not depend on the token's other columns.
struct Share {
  int band, segment;  // the latter of the band
  int shift;          // 2^shift lanes hold a block
  float v[2][kLaneCols];
  float largest[2];
  Plane first[2];

  // i: of all bands' segments.
  template <Reading reading>
  __device__ __forceinline__ void read(const Args& a, const float* x, bool padding, int i) {
    for (band = 0; i >= a.bands[band].segments; ++band) i -= a.bands[band].segments;
    segment = i;
    const ActivationBand& cut = a.bands[band].cut;
    shift = cut.block == 128 ? 5 : cut.block == 64 ? 4 : 3;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int c = segment * kSegmentCols + h * 128 + lane_index() * kLaneCols;
      read_columns<reading>(a.from, x, cut.col_begin + c, padding ? 0 : cut.cols - c, v[h]);
    }
  }
  __device__ __forceinline__ void round() {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      largest[h] = 0;
      for (const float value : v[h]) largest[h] = fmaxf(largest[h], fabsf(value));
    }
    group_max(largest, 1 << shift);
    quantize(v, {divided_by<127>(largest[0]), divided_by<127>(largest[1])}, 1 << shift, first);
  }
  // The second plane; true where any lane has something in it.
  __device__ __forceinline__ bool round_rest(float limit, int cols, Plane (&second)[2]) const {
    bool needs[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int begin =
          segment * kSegmentCols + h * 128 + (lane_index() >> shift << shift) * kLaneCols;
      const int n = max(0, min(kLaneCols << shift, cols - begin));
      const float extent = __fmul_rn(__fmul_rn(largest[h], largest[h]), __int2float_rn(n));
      needs[h] = !(extent <= limit);
      second[h] = {};
    }
    if (!__any_sync(~0u, needs[0] || needs[1])) return false;
    float rest[2][kLaneCols], step[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
#pragma unroll
      for (int i = 0; i < kLaneCols; ++i) {
        const auto code = static_cast<std::int8_t>(first[h].codes >> 8 * i);
        const float kept = __fmul_rn(first[h].scale, __int2float_rn(code));
        rest[h][i] = needs[h] ? __fsub_rn(v[h][i], kept) : 0.0f;
      }
      step[h] = needs[h] ? divided_by<254>(first[h].scale) : 0.0f;
    }
    quantize(rest, step, 1 << shift, second);
    return true;
  }
  // Codes of the second plane only where it has any: elsewhere its scale is 0.
  __device__ __forceinline__ void store(const Args& a, int token, const Plane (&rest)[2],
                                        bool has_second) const {
    const int lane = lane_index();
    const PreparedBand& to = a.bands[band];
    const std::int64_t cols = std::int64_t{to.segments} * kSegmentCols;
    std::int8_t* codes =
        to.codes + token * cols + segment * kSegmentCols + activation_place(lane * kLaneCols);
    const std::int64_t second_codes = a.padded_tokens * cols;
    float2* factors = reinterpret_cast<float2*>(to.factors) + token;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      *reinterpret_cast<unsigned*>(codes + h * 128) = first[h].codes;
      if (has_second) *reinterpret_cast<unsigned*>(codes + second_codes + h * 128) = rest[h].codes;
      if ((lane & ((1 << shift) - 1)) != 0) continue;
      const int block = ((segment * 2 + h) * 32 + lane) >> shift;
      const std::int64_t at = std::int64_t{block} * 2 * a.padded_tokens;
      factors[at] = {first[h].scale, first[h].sum};
      factors[at + a.padded_tokens] = {rest[h].scale, rest[h].sum};
    }
    if (lane == 0) {
      to.second[std::int64_t{segment} * a.padded_tokens + token] = has_second ? 1 : 0;
    }
  }
};

__device__ __forceinline__ bool is_padding(const Args& a) {
  return static_cast<int>(blockIdx.x) >= a.tokens;
}

// The thread block's part of a token whose input is x. Padding becomes zeros. All loads of a warp's
// first segment and of the sum of squares are on their way before any is waited for.
template <Reading reading>
__device__ __forceinline__ void round_row(const Args& a, const float* x) {
  const int token = static_cast<int>(blockIdx.x);
  const bool padding = is_padding(a);
  const int end = min(a.segments, (static_cast<int>(blockIdx.y) + 1) * a.share);
  int segment = static_cast<int>(blockIdx.y) * a.share + static_cast<int>(threadIdx.x / 32);
  Share mine;
  if (segment < end) mine.read<reading>(a, x, padding, segment);
  const bool measure = a.from.outlier > 0 && !padding;
  Batch<reading> batch;
  if (measure) batch.read(a, x, a.runs[0], 0);
  if (segment < end) mine.round();
  const float limit = measure ? __fmul_rn(a.from.outlier, energy_of(a, x, batch)) : 0.0f;
  while (segment < end) {
    Plane rest[2];
    const bool second = mine.round_rest(limit, padding ? 0 : a.bands[mine.band].cut.cols, rest);
    mine.store(a, token, rest, second);
    segment += static_cast<int>(blockDim.x / 32);
    if (segment >= end) break;
    mine.read<reading>(a, x, padding, segment);
    mine.round();
  }
}

// Grid: [padded tokens, parts of a token's segments], as of the kernels below.
template <Reading reading>
__global__ void __launch_bounds__(kMaxThreads, 2) prepare(Args a) {
  begin_kernel();
  round_row<reading>(a, a.from.x + (is_padding(a) ? 0 : blockIdx.x) * a.from.ldx);
}

// A row that each of its thread blocks makes, whole, in shared memory. One of them writes each
// column of y.
class MadeRow {
 public:
  __device__ __forceinline__ explicit MadeRow(const MadeRows& rows)
      : x_(rows.x + blockIdx.x * rows.dim), y_(rows.y + blockIdx.x * rows.dim) {
    const int share = (static_cast<int>(rows.dim) / 4 + gridDim.y - 1) / gridDim.y * 4;
    begin_ = static_cast<int>(blockIdx.y) * share;
    end_ = begin_ + share;
  }
  static __device__ __forceinline__ float* shared() {
    extern __shared__ float4 row[];
    return reinterpret_cast<float*>(row);
  }
  __device__ __forceinline__ const float* x() const { return x_; }
  __device__ __forceinline__ void operator()(int column, const Columns<true>& v) const {
    v.store(shared() + column);
    if (column >= begin_ && column < end_) v.store(y_ + column);
  }

 private:
  const float* x_;
  float* y_;
  int begin_, end_;
};

template <Reading reading, bool centered>
__global__ void __launch_bounds__(kMaxThreads) prepare_normed(Args a, MadeRows rows, int threads) {
  const auto dim = static_cast<int>(rows.dim);
  // Ahead, as norms.cu does.
  const Row<true> weights(rows.with, rows.with == nullptr ? 0 : dim, threads);
  begin_kernel();
  if (!is_padding(a)) {
    const MadeRow made(rows);
    const Row<true> row(made.x(), dim, threads);
    normalize<centered>(row, weights, rows.with, rows.bias, rows.eps, dim, made);
  }
  __syncthreads();
  round_row<reading>(a, MadeRow::shared());
}

template <Reading reading>
__global__ void __launch_bounds__(kMaxThreads) prepare_gated(Args a, MadeRows rows) {
  constexpr int kLoads = 3;  // of each input, on their way
  begin_kernel();
  if (!is_padding(a)) {
    const MadeRow made(rows);
    const float* up = rows.with + blockIdx.x * rows.dim;
    const auto dim = static_cast<int>(rows.dim);
    const auto step = static_cast<int>(blockDim.x) * 4;
    for (int first = static_cast<int>(threadIdx.x) * 4; first < dim; first += kLoads * step) {
      Columns<true> gates[kLoads], ups[kLoads];
#pragma unroll
      for (int i = 0; i < kLoads; ++i) {
        const int column = first + i * step;
        if (column < dim) gates[i].load(made.x() + column), ups[i].load(up + column);
      }
#pragma unroll
      for (int i = 0; i < kLoads; ++i) {
        const int column = first + i * step;
        if (column >= dim) continue;
#pragma unroll
        for (int j = 0; j < 4; ++j) gates[i].v[j] = silu_mul_of(gates[i].v[j], ups[i].v[j]);
        made(column, gates[i]);
      }
    }
  }
  __syncthreads();
  round_row<reading>(a, MadeRow::shared());
}

std::size_t round_up_16(std::size_t n) { return (n + 15) / 16 * 16; }

int padded(int tokens) { return divide_up(tokens, kTile) * kTile; }

Reading reading_of(const ActivationSource& from, std::span<const ActivationBand> bands) {
  auto places =
      reinterpret_cast<std::uintptr_t>(from.x) | reinterpret_cast<std::uintptr_t>(from.source) |
      reinterpret_cast<std::uintptr_t>(from.factor) | static_cast<std::uintptr_t>(from.ldx % 4 * 4);
  for (const ActivationBand& band : bands) {
    places |= static_cast<std::uintptr_t>((band.col_begin | band.cols) % 4 * 4);
  }
  if (places % 16 != 0) return Reading::one_by_one;
  return from.source != nullptr || from.factor != nullptr ? Reading::mapped : Reading::plain;
}

ActivationSource source_of(const MadeRows& rows, const ActivationSource& from) {
  ActivationSource made = from;
  made.x = rows.y;
  made.ldx = rows.dim;
  return made;
}

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

namespace {

// What a launch is given, and its shape.
struct Call {
  Args args;
  dim3 grid;
  unsigned threads = 0;
};

// Of the matrix alone, as the order of the sum of squares follows from it.
unsigned threads_for(int longest_run) {
  return static_cast<unsigned>(
      std::clamp(divide_up(longest_run, 32 * kLaneCols) * 32, 32, kMaxThreads));
}

cudaError_t arrange(const ActivationSource& from, std::span<const ActivationBand> bands, int tokens,
                    std::byte* memory, Call* call) {
  if (tokens < 1 || bands.empty() || bands.size() > kMaxBands) return cudaErrorInvalidValue;
  const auto inputs = lay_out_activations(bands, tokens, memory);
  Args& args = call->args;
  args.from = from;
  args.tokens = tokens;
  args.padded_tokens = padded(tokens);
  for (std::size_t b = 0; b < bands.size(); ++b) {
    const int block = bands[b].block;
    if (block != 32 && block != 64 && block != 128) return cudaErrorInvalidValue;
    args.bands[b] = {
        bands[b], segments_of(bands[b].cols), const_cast<std::int8_t*>(inputs[b].codes),
        const_cast<float*>(inputs[b].factors), const_cast<std::uint8_t*>(inputs[b].second)};
    args.segments += args.bands[b].segments;
    if (b == 0 || bands[b].col_begin != bands[b - 1].col_begin + bands[b - 1].cols) {
      args.runs[args.n_runs++].begin = bands[b].col_begin;
    }
    args.runs[args.n_runs - 1].n += bands[b].cols;
  }
  const int most =
      std::min(kMostBlocks / args.padded_tokens, divide_up(args.segments, kLeastShare));
  args.share = std::max(1, divide_up(args.segments, std::max(1, most)));
  call->grid = {static_cast<unsigned>(args.padded_tokens),
                static_cast<unsigned>(std::max(1, divide_up(args.segments, args.share)))};
  int longest = 0;
  for (const Run& run : args.runs) longest = std::max(longest, run.n);
  call->threads = threads_for(longest);
  return cudaSuccess;
}

template <typename Kernel, typename... Rest>
cudaError_t launch_made(const Call& call, const MadeRows& rows, cudaStream_t stream, Kernel* kernel,
                        const Rest&... rest) {
  const auto shared = static_cast<std::size_t>(rows.dim) * sizeof(float);
  if (shared > kDefaultShared) {
    const cudaError_t error = cudaFuncSetAttribute(
        kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared));
    if (error != cudaSuccess) return error;
  }
  return launch(stream, call.grid, call.threads, shared, kernel, call.args, rows, rest...);
}

}  // namespace

cudaError_t launch_prepare(const ActivationSource& from, std::span<const ActivationBand> bands,
                           int tokens, std::byte* memory, cudaStream_t stream) {
  Call call;
  const cudaError_t error = arrange(from, bands, tokens, memory, &call);
  if (error != cudaSuccess) return error;
  const Reading reading = reading_of(from, bands);
  const auto kernel = reading == Reading::plain    ? prepare<Reading::plain>
                      : reading == Reading::mapped ? prepare<Reading::mapped>
                                                   : prepare<Reading::one_by_one>;
  return launch(stream, call.grid, call.threads, 0, kernel, call.args);
}

bool can_make(const MadeRows& rows, const ActivationSource& from,
              std::span<const ActivationBand> bands, int tokens) {
  std::uintptr_t places = 0;
  for (const float* p : {rows.x, rows.with, rows.bias, static_cast<const float*>(rows.y)}) {
    places |= reinterpret_cast<std::uintptr_t>(p);
  }
  if (places % 16 != 0 || rows.dim % 4 != 0 || rows.dim > kMostMadeCols) return false;
  // What others read while it is written; more tokens than thread blocks that run at once.
  if (rows.y == rows.x || rows.y == rows.with || padded(tokens) > kMostBlocks) return false;
  if (reading_of(source_of(rows, from), bands) == Reading::one_by_one) return false;
  if (rows.by == MadeRows::By::silu_mul) return true;
  int cols = 0;
  for (const ActivationBand& band : bands) cols = std::max(cols, band.cols);
  return norm_threads(static_cast<int>(rows.dim)) <= static_cast<int>(threads_for(cols));
}

cudaError_t launch_prepare(const MadeRows& rows, const ActivationSource& from,
                           std::span<const ActivationBand> bands, int tokens, std::byte* memory,
                           cudaStream_t stream) {
  if (!can_make(rows, from, bands, tokens)) return cudaErrorInvalidValue;
  Call call;
  const cudaError_t error = arrange(source_of(rows, from), bands, tokens, memory, &call);
  if (error != cudaSuccess) return error;
  const bool mapped = reading_of(call.args.from, bands) == Reading::mapped;
  if (rows.by == MadeRows::By::silu_mul) {
    return launch_made(call, rows, stream,
                       mapped ? prepare_gated<Reading::mapped> : prepare_gated<Reading::plain>);
  }
  const auto normed = [&]<bool centered>(std::bool_constant<centered>) {
    return launch_made(call, rows, stream,
                       mapped ? prepare_normed<Reading::mapped, centered>
                              : prepare_normed<Reading::plain, centered>,
                       norm_threads(static_cast<int>(rows.dim)));
  };
  return rows.by == MadeRows::By::layer_norm ? normed(std::true_type{}) : normed(std::false_type{});
}

}  // namespace tenfold::cuda
