#pragma once
// The kernel of packed_linear.h for at most kDecodeTokens tokens. A thread block takes panels
// blockIdx.x, blockIdx.x + gridDim.x, ...; each of its warps has a run of a row's slices, so that
// the activations of short rows stay in its registers. Columns 2t and 2t + 1 of the tensor core's
// eight are the two planes of token t, which is lane q = t's to scale and add.
//
// Weights go through shared memory, each lane's for itself: the next stages - 1 segments are on
// their way while one is multiplied, and no barrier stands between. Any of 4, 8 and 16 warps, 2 or
// 3 stages.

#include "kernels/cuda/packed_fragments.cuh"
#include "kernels/cuda/packed_overlap.cuh"

namespace tenfold::cuda {

namespace detail {

// Floats from one token's sums to the next's: free of bank conflicts for four tokens of 8 rows.
inline constexpr int kTokenStride = 24;
inline constexpr int kSliceStride = kDecodeTokens * kTokenStride;

// The activations of a segment: the lane's column of the tensor core's, and the factors of token q.
template <int block>
struct DecodeInput {
  static constexpr int kBlocks = kSegmentCols / block;
  unsigned codes[2][8];
  unsigned factors[2][kBlocks][2];  // [plane]
  bool second = false;              // a token of the tile has something in its second plane

  __device__ __forceinline__ void load(const DeviceInput& in, int segment, int lane) {
    const int g = lane / 4, q = lane % 4;
    const std::int64_t stride = in.padded_tokens;
    second = *reinterpret_cast<const unsigned*>(in.second + segment * stride) != 0;
    if (g / 2 < in.tokens && (second || g % 2 == 0)) {
      const std::int64_t column = g % 2 * stride + g / 2;
      const std::int8_t* x = in.codes + column * in.cols + segment * kSegmentCols + q * 32;
      load_dwords<8>(x, codes[0]);
      load_dwords<8>(x + 128, codes[1]);
    }
    const float* at = in.factors + (segment * (kBlocks * 2 * stride) + q) * 2;
#pragma unroll
    for (int i = 0; i < kBlocks; ++i) load_dwords<2>(at + i * 4 * stride, factors[0][i]);
    if (!second) return;
#pragma unroll
    for (int i = 0; i < kBlocks; ++i) load_dwords<2>(at + (i * 4 + 2) * stride, factors[1][i]);
  }
};

// Adds a segment to the sums of rows 2g and 2g + 1 and token q.
template <typename F, int block, int min_kind>
__device__ __forceinline__ void add_segment(const Segment<F, block, min_kind>& w,
                                            const DecodeInput<block>& x, float (&acc)[2]) {
  constexpr int kBlocks = kSegmentCols / block;
  constexpr int kSteps = block / 32;
  int second[kBlocks][2];
  unroll<kBlocks>([&](auto b) {
    constexpr int i = decltype(b)::value;
    int c[4] = {kMagicBits, kMagicBits, kMagicBits, kMagicBits};
    unroll<kSteps>([&](auto step) {
      constexpr int j = i * kSteps + decltype(step)::value;
      unsigned a[4];
      w.template operand<j>(a);
      mma(c, a, x.codes[j / 4][j % 4 * 2], x.codes[j / 4][j % 4 * 2 + 1], c);
    });
    const float2 s = w.template scales<i>();
    const float2 m = w.template minima<i>(s);
    add_block(s.x, m.x, x.factors[0][i], c[0], acc[0]);
    add_block(s.y, m.y, x.factors[0][i], c[2], acc[1]);
    second[i][0] = c[1], second[i][1] = c[3];
  });
  if (!x.second) return;
  unroll<kBlocks>([&](auto b) {
    constexpr int i = decltype(b)::value;
    const float2 s = w.template scales<i>();
    const float2 m = w.template minima<i>(s);
    add_block(s.x, m.x, x.factors[1][i], second[i][0], acc[0]);
    add_block(s.y, m.y, x.factors[1][i], second[i][1], acc[1]);
  });
}

// A thread for each row and token: the first two warps.
__device__ __forceinline__ void finish_decode(const BandProduct& a, int panel, const float* sums) {
  const int thread = static_cast<int>(threadIdx.x);
  const int row = thread % 8 + thread / 32 * 8, token = thread / 8 % 4;
  if (token >= a.x.tokens) return;
  const float* from = sums + token * kTokenStride + row;
  float quarters[kQuarters] = {};
#pragma unroll
  for (int i = 0; i < kSlices; ++i) {
    float& quarter = quarters[i / kQuarterSlices];
    quarter = __fadd_rn(quarter, from[i * kSliceStride]);
  }
  float total = 0;
#pragma unroll
  for (const float quarter : quarters) total = __fadd_rn(total, quarter);
  store(a, panel * kPanelRows + row, token, total);
}

}  // namespace detail

// Bytes of shared memory.
template <typename F, int block, int min_kind>
constexpr int decode_shared(int warps, int stages) {
  return 2 * kSlices * detail::kSliceStride * static_cast<int>(sizeof(float)) +
         warps * stages * detail::Segment<F, block, min_kind>::kStageBytes;
}

template <typename F, int block, int min_kind>
__global__ void __launch_bounds__(512) packed_decode(BandProduct a, int stages) {
  using Segment = detail::Segment<F, block, min_kind>;
  extern __shared__ uint4 shared[];  // sums, then [warps][stages] segments
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int panels = (a.rows + kPanelRows - 1) / kPanelRows;
  const int segments = segments_of(a.band.cols);
  const int slices = kSlices / (static_cast<int>(blockDim.x) / 32);  // of this warp
  const int begin = slice_begin(warp * slices, segments);
  const int end = slice_begin((warp + 1) * slices, segments);
  constexpr int kFactors = factor_bytes(block, min_kind);
  auto* sums = reinterpret_cast<float*>(shared);  // [2][kSlices][kDecodeTokens][rows]
  int other_half = kSlices * detail::kSliceStride;
  auto* const ring =
      reinterpret_cast<std::byte*>(sums + 2 * other_half) + warp * stages * Segment::kStageBytes;
  std::byte* const ring_end = ring + stages * Segment::kStageBytes;

  // What is copied next, ahead of what is multiplied.
  const std::int64_t row_bytes = std::int64_t{segments} * a.band.segment_bytes;
  const std::int64_t panel_step = gridDim.x * row_bytes - (end - begin) * a.band.segment_bytes;
  int ahead_panel = static_cast<int>(blockIdx.x), ahead = begin;
  const std::byte* at =
      a.band.segments + ahead_panel * row_bytes + std::int64_t{begin} * a.band.segment_bytes;
  std::byte* ahead_stage = ring;
  const auto copy_next = [&] {
    if (ahead_panel < panels) {
      const std::byte* factors = a.band.row_factors == nullptr
                                     ? at + F::bits * 512
                                     : a.band.row_factors + ahead_panel * kFactors;
      Segment::copy(at, factors, ahead_stage, lane);
      at += a.band.segment_bytes;
      if (++ahead == end)
        ahead = begin, ahead_panel += static_cast<int>(gridDim.x), at += panel_step;
    }
    detail::commit_copies();
    ahead_stage += Segment::kStageBytes;
    if (ahead_stage == ring_end) ahead_stage = ring;
  };
  if (begin < end) {
    for (int i = 0; i < stages - 1; ++i) copy_next();
  }
  wait_for_inputs();
  detail::DecodeInput<block> x{};
  if (begin < end) x.load(a.x, begin, lane);

  const std::byte* stage = ring;
  const int g = lane / 4, q = lane % 4;
#pragma unroll 1
  for (int panel = static_cast<int>(blockIdx.x); panel < panels;
       panel += static_cast<int>(gridDim.x)) {
    int segment = begin;
#pragma unroll 1
    for (int slice = warp * slices; slice < (warp + 1) * slices; ++slice) {
      const int slice_end = slice_begin(slice + 1, segments);
      float acc[2] = {};
#pragma unroll 1
      for (; segment < slice_end; ++segment) {
        copy_next();
        if (ahead_panel >= panels) let_next_begin();
        if (stages == 2) {
          detail::wait_for_copies<1>();
        } else {
          detail::wait_for_copies<2>();
        }
        Segment now;
        now.read(stage, lane);
        stage += Segment::kStageBytes;
        if (stage == ring_end) stage = ring;
        detail::add_segment(now, x, acc);
        if (end - begin > 1) x.load(a.x, segment + 1 < end ? segment + 1 : begin, lane);
      }
      *reinterpret_cast<float2*>(sums + slice * detail::kSliceStride + q * detail::kTokenStride +
                                 2 * g) = {acc[0], acc[1]};
    }
    __syncthreads();
    if (threadIdx.x < kPanelRows * kDecodeTokens) detail::finish_decode(a, panel, sums);
    // The other half is free: its sums were read before the barrier above.
    sums += other_half;
    other_half = -other_half;
  }
}

}  // namespace tenfold::cuda
