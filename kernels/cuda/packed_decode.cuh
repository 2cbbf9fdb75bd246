#pragma once
// The kernel of packed_linear.h for at most kDecodeTokens tokens. A thread block takes panels
// blockIdx.x, blockIdx.x + gridDim.x, ...; each of its warps has a run of a row's slices, so that
// the activations of short rows stay in its registers. Columns 2t and 2t + 1 of the tensor core's
// eight are the two planes of token t, which is lane q = t's to scale and add.
//
// Weights go through shared memory, each warp's for itself: the next stages - 1 segments are on
// their way while one is multiplied, and warps need not wait for each other. Any of 4, 8 and 16
// warps, 2 or 3 stages.

#include "kernels/cuda/packed_fragments.cuh"
#include "kernels/cuda/packed_overlap.cuh"

namespace tenfold::cuda {

namespace detail {

// Floats from one token's sums to the next's: free of bank conflicts for four tokens of 8 rows.
inline constexpr int kTokenStride = 24;
inline constexpr int kSliceStride = kDecodeTokens * kTokenStride;

// The activations of a segment: the lane's column of the tensor core's, and the factors of token q.
// So few tokens are padded to kTile.
template <int block>
struct DecodeInput {
  static constexpr int kBlocks = kSegmentCols / block;
  static constexpr int kFactorStride = kTile * 2;  // floats from plane to plane
  unsigned codes[2][8];
  unsigned factors[kBlocks][2];  // of the first plane
  bool second = false;           // a token has something in its second plane

  // Where the lane reads a band's segment.
  struct Place {
    const std::int8_t* codes;
    const float* factors;
    const std::uint8_t* second;
    __device__ __forceinline__ Place(const DeviceInput& in, int segment, int lane) {
      const int g = lane / 4, q = lane % 4;
      codes = in.codes + std::int64_t{g % 2 * kTile + g / 2} * in.cols + q * 32;
      factors = in.factors + 2 * q;
      second = in.second;
      advance(segment);
    }
    __device__ __forceinline__ void advance(int segments) {
      codes += segments * kSegmentCols;
      factors += segments * (kBlocks * 2 * kFactorStride);
      second += segments * kTile;
    }
  };

  // planes: how many a token must have for the lane to have a column: 1 or 2, 3 for none.
  __device__ __forceinline__ void load(const Place& at, int planes) {
    const unsigned flags = *reinterpret_cast<const unsigned*>(at.second);
    second = __any_sync(~0u, flags != 0);  // all lanes have the same: the compiler sees it now
    if (planes <= (second ? 2 : 1)) {
      load_dwords<8>(at.codes, codes[0]);
      load_dwords<8>(at.codes + 128, codes[1]);
    }
    load_factors(at, 0, factors);
  }
  static __device__ __forceinline__ void load_factors(const Place& at, int plane,
                                                      unsigned (&to)[kBlocks][2]) {
#pragma unroll
    for (int i = 0; i < kBlocks; ++i) {
      load_dwords<2>(at.factors + (i * 2 + plane) * kFactorStride, to[i]);
    }
  }
};

// The dot products of a block: rows 2g and 2g + 1 by the planes of token q.
template <int i, typename F, int block, int min_kind>
__device__ __forceinline__ void multiply_block(const Segment<F, block, min_kind>& w,
                                               const DecodeInput<block>& x, float (&dots)[2][2]) {
  constexpr int kSteps = block / 32;
  constexpr bool stay = kCanStay<F>;
  int c[2][4];  // of even and odd steps
#pragma unroll
  for (int n = 0; n < 4; ++n) c[0][n] = c[1][n] = kMagicBits;
  unroll<kSteps>([&](auto step) {
    constexpr int s = decltype(step)::value, j = i * kSteps + s;
    constexpr int odd = stay ? j % 2 : 0;
    unsigned a[4];
    w.template operand<j, stay>(a);
    mma(c[odd], a, x.codes[j / 4][j % 4 * 2], x.codes[j / 4][j % 4 * 2 + 1], c[odd]);
  });
#pragma unroll
  for (int n = 0; n < 4; ++n) {
    float& dot = dots[n / 2][n % 2];
    if constexpr (!stay) {
      dot = dot_of(c[0][n]);
    } else if constexpr (kSteps > 1) {
      dot = dot_of<F::bits>(c[0][n], c[1][n]);
    } else if constexpr (i % 2 == 0) {
      dot = dot_of(c[0][n]);
    } else {
      dot = dot_of_staying<F::bits>(c[1][n]);
    }
  }
}

// Adds a segment to the sums of rows 2g and 2g + 1 and token q.
template <typename F, int block, int min_kind>
__device__ __forceinline__ void add_segment(const Segment<F, block, min_kind>& w,
                                            const DecodeInput<block>& x,
                                            const typename DecodeInput<block>::Place& at,
                                            float (&acc)[2]) {
  constexpr int kBlocks = kSegmentCols / block;
  float dots[kBlocks][2][2];
  unroll<kBlocks>([&](auto b) {
    constexpr int i = decltype(b)::value;
    multiply_block<i>(w, x, dots[i]);
    const float2 s = w.template scales<i>();
    const float2 m = w.template minima<i>(s);
    add_block(s.x, m.x, x.factors[i], dots[i][0][0], acc[0]);
    add_block(s.y, m.y, x.factors[i], dots[i][1][0], acc[1]);
  });
  if (!x.second) return;
  unsigned factors[kBlocks][2];
  DecodeInput<block>::load_factors(at, 1, factors);
  unroll<kBlocks>([&](auto b) {
    constexpr int i = decltype(b)::value;
    const float2 s = w.template scales<i>();
    const float2 m = w.template minima<i>(s);
    add_block(s.x, m.x, factors[i], dots[i][0][1], acc[0]);
    add_block(s.y, m.y, factors[i], dots[i][1][1], acc[1]);
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

// The weights that a warp copies next, ahead of what it multiplies: its run of segments of panel
// after panel. `at` is one step behind.
template <typename Segment>
struct DecodeAhead {
  typename Segment::Place at;
  std::int64_t factor_step;  // from segment to segment; 0 where a row has one group
  int run, in_run, left;     // segments of a panel, those left in this one, those left in all

  __device__ __forceinline__ DecodeAhead(const std::byte* codes, const std::byte* factors,
                                         std::int64_t code_step, std::int64_t step,
                                         int run_segments, int panels)
      : at{codes - code_step, factors - step},
        factor_step(step),
        run(run_segments),
        in_run(run_segments),
        left(run_segments * panels) {}
  __device__ __forceinline__ void copy(const BandProduct& a, int row_factor_bytes, unsigned stage,
                                       int lane) {
    if (left > 0) {
      --left;
      std::int64_t step = a.band.segment_bytes, step_factors = factor_step;
      if (in_run == 0) {
        const std::int64_t row_bytes =
            std::int64_t{segments_of(a.band.cols)} * a.band.segment_bytes;
        in_run = run;
        step = gridDim.x * row_bytes - std::int64_t{run - 1} * a.band.segment_bytes;
        step_factors = factor_step != 0 ? step : std::int64_t{gridDim.x} * row_factor_bytes;
      }
      --in_run;
      at.advance(step, step_factors);
      Segment::copy(at, stage, lane);
    }
    commit_copies();
  }
};

}  // namespace detail

struct DecodeShape {
  int stages, ring_bytes;  // of a warp
};

// Bytes of shared memory.
template <typename F, int block, int min_kind>
constexpr int decode_shared(int warps, int stages) {
  return 2 * kSlices * detail::kSliceStride * static_cast<int>(sizeof(float)) +
         warps * stages * detail::Segment<F, block, min_kind>::kStageBytes;
}

// Thread blocks of 16 warps that registers let reside where there are that many.
template <typename F, int block>
inline constexpr int kDecodeBlocks = block == 128 && F::bits < 8 ? 2 : 1;

template <typename F, int block, int min_kind>
__global__ void __launch_bounds__(512, kDecodeBlocks<F, block>)
    packed_decode(BandProduct a, DecodeShape shape) {
  using Segment = detail::Segment<F, block, min_kind>;
  using Input = detail::DecodeInput<block>;
  extern __shared__ uint4 shared[];  // sums, then [warps][stages] segments
  // The same in all lanes, and the compiler sees it.
  const int warp = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / 32, 0);
  const int lane = static_cast<int>(threadIdx.x) % 32, g = lane / 4, q = lane % 4;
  const int panels = (a.rows + kPanelRows - 1) / kPanelRows;
  const int segments = segments_of(a.band.cols);
  const int slices = kSlices / (static_cast<int>(blockDim.x) / 32);  // of this warp
  const int first_slice = warp * slices;
  const int begin = slice_begin(first_slice, segments);
  const int end = slice_begin(first_slice + slices, segments);
  auto* sums = reinterpret_cast<float*>(shared);  // [2][kSlices][kDecodeTokens][rows]
  int other_half = kSlices * detail::kSliceStride;
  const unsigned ring = detail::shared_address(sums + 2 * other_half) + warp * shape.ring_bytes;
  const unsigned ring_end = ring + shape.ring_bytes;

  const int panels_left =
      (panels - static_cast<int>(blockIdx.x) + static_cast<int>(gridDim.x) - 1) /
      static_cast<int>(gridDim.x);
  constexpr int kFactors = factor_bytes(block, min_kind);
  const std::byte* weights =
      a.band.segments + (std::int64_t{blockIdx.x} * segments + begin) * a.band.segment_bytes;
  const bool one_group = a.band.row_factors != nullptr;
  detail::DecodeAhead<Segment> ahead(
      weights,
      one_group ? a.band.row_factors + std::int64_t{blockIdx.x} * kFactors
                : weights + F::bits * 512,
      a.band.segment_bytes, one_group ? 0 : a.band.segment_bytes, end - begin, panels_left);
  unsigned stage = ring, ahead_stage = ring;
  for (; ahead_stage + Segment::kStageBytes < ring_end; ahead_stage += Segment::kStageBytes) {
    ahead.copy(a, kFactors, ahead_stage, lane);
  }
  wait_for_inputs();
  Input x{};
  typename Input::Place at(a.x, begin, lane);
  const int planes = g / 2 < a.x.tokens ? 1 + g % 2 : 3;
  if (begin < end) x.load(at, planes);

#pragma unroll 1
  for (int panel = static_cast<int>(blockIdx.x); panel < panels;
       panel += static_cast<int>(gridDim.x)) {
    int segment = begin;
#pragma unroll 1
    for (int slice = first_slice; slice < first_slice + slices; ++slice) {
      const int slice_end = slices == 1 ? end : slice_begin(slice + 1, segments);
      float acc[2] = {};
#pragma unroll 1
      for (; segment < slice_end; ++segment) {
        __syncwarp();  // all lanes have read what is overwritten now
        ahead.copy(a, kFactors, ahead_stage, lane);
        ahead_stage = stage;
        if (ahead.left <= 0) let_next_begin();
        if (shape.stages == 2) {
          detail::wait_for_copies<1>();
        } else {
          detail::wait_for_copies<2>();
        }
        __syncwarp();
        Segment now;
        now.read(stage, lane);
        stage += Segment::kStageBytes;
        if (stage == ring_end) stage = ring;
        detail::add_segment(now, x, at, acc);
        if (end - begin > 1) {
          at.advance(segment + 1 < end ? 1 : begin + 1 - end);
          x.load(at, planes);
        }
      }
      float* to = sums + slice * detail::kSliceStride + q * detail::kTokenStride + 2 * g;
      asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(detail::shared_address(to)),
                   "f"(acc[0]), "f"(acc[1])
                   : "memory");  // which the compiler would split
    }
    __syncthreads();
    if (threadIdx.x < kPanelRows * kDecodeTokens) detail::finish_decode(a, panel, sums);
    // The other half is free: its sums were read before the barrier above.
    sums += other_half;
    other_half = -other_half;
  }
}

}  // namespace tenfold::cuda
