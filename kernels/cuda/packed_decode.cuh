#pragma once
// The kernel of packed_linear.h for a run of at most 4, 8 or 16 tokens. A thread block takes panels
// blockIdx.x, blockIdx.x + gridDim.x, ...; each of its warps has a run of a row's slices, so that
// the activations of short rows stay in its registers. Of 4 tokens, columns 2t and 2t + 1 of the
// tensor core's eight are the two planes of token t, which is lane q = t's to scale and add. Of
// more, the columns of a tile are 8 tokens, of which 2q and 2q + 1 are lane q's, and a second plane
// takes another round.
//
// Weights go through shared memory, each warp's for itself: the next stages - 1 segments are on
// their way while one is multiplied, and warps need not wait for each other. Any of 4, 8 and 16
// warps, 2 or 3 stages.

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/packed_fragments.cuh"

namespace tenfold::cuda {

namespace detail {

// Sums of a slice in shared memory, [n_tokens][rows]: free of bank conflicts for four lanes q by
// 8 rows.
template <int n_tokens>
struct DecodeSums {
  static constexpr int kToken = n_tokens == 4 ? 24 : 20;  // floats from one to the next
  static constexpr int kSlice = n_tokens * kToken;
};

// The activations of a segment: the lane's columns of the tensor core's, and the factors of its
// tokens.
template <int block, int n_tokens>
struct DecodeInput {
  static constexpr int kBlocks = kSegmentCols / block;
  static constexpr int kTiles = n_tokens <= kTile ? 1 : n_tokens / kTile;
  static constexpr int kOwn = n_tokens == 4 ? 1 : 2;  // tokens of a lane and tile
  unsigned codes[kTiles][2][8];
  unsigned factors[kTiles][kBlocks][2 * kOwn];  // of the first plane
  bool second = false;                          // a token has something in its second plane

  // Where the lane reads a band's segment; of the run's tokens, how many there are.
  struct Place {
    const std::int8_t* codes;
    const float* factors;
    const std::uint8_t* second;
    int padded, tokens;
    __device__ __forceinline__ Place(const DeviceInput& in, int token, int segment, int lane)
        : padded(n_tokens == 4 ? kTile : in.padded_tokens), tokens(in.tokens - token) {
      const int g = lane / 4, q = lane % 4;
      const std::int64_t first = n_tokens == 4 ? g % 2 * kTile + g / 2 : token + g;
      codes = in.codes + first * in.cols + q * 32;
      factors = in.factors + 2 * (token + kOwn * q);
      second = in.second + token;
      advance(segment);
    }
    __device__ __forceinline__ void advance(int segments) {
      codes += segments * kSegmentCols;
      factors += segments * kBlocks * 4 * padded;
      second += segments * padded;
    }
  };

  // in: what `at` is a place of.
  __device__ __forceinline__ void load(const Place& at, const DeviceInput& in) {
    unsigned flags = 0;
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      if (tile > 0 && tile * kTile >= at.tokens) continue;
      const auto* from = reinterpret_cast<const unsigned*>(at.second) + 2 * tile;
      flags |= n_tokens == 4 ? from[0] : from[0] | from[1];
    }
    second = __any_sync(~0u, flags != 0);  // all lanes have the same: the compiler sees it now
    if constexpr (n_tokens == 4) {
      const int g = static_cast<int>(threadIdx.x) % 32 / 4;
      if (g / 2 < at.tokens && (second || g % 2 == 0)) load_codes(at.codes, codes[0]);
      load_factors(at, 0, factors[0]);
    } else {
      load_plane(at, in, 0);
    }
  }
  __device__ __forceinline__ void load_plane(const Place& at, const DeviceInput& in, int plane) {
    const int g = static_cast<int>(threadIdx.x) % 32 / 4;
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      if (tile > 0 && tile * kTile >= at.tokens) continue;
      const std::int64_t rows = std::int64_t{plane} * at.padded + tile * kTile;
      if (tile * kTile + g < at.tokens) load_codes(at.codes + rows * in.cols, codes[tile]);
      load_factors(at, rows, factors[tile]);
    }
  }
  static __device__ __forceinline__ void load_codes(const std::int8_t* from, unsigned (&to)[2][8]) {
    load_dwords<8>(from, to[0]);
    load_dwords<8>(from + 128, to[1]);
  }
  // row: of [2 planes][padded tokens], from the lane's first one.
  static __device__ __forceinline__ void load_factors(const Place& at, std::int64_t row,
                                                      unsigned (&to)[kBlocks][2 * kOwn]) {
#pragma unroll
    for (int i = 0; i < kBlocks; ++i) {
      load_dwords<2 * kOwn>(at.factors + 2 * (i * 2 * at.padded + row), to[i]);
    }
  }
};

// The dot products of a block: rows 2g and 2g + 1 by columns 2q and 2q + 1 of each tile.
template <int i, typename F, int block, int min_kind, int n_tiles>
__device__ __forceinline__ void multiply_block(const Segment<F, block, min_kind>& w,
                                               const unsigned (&codes)[n_tiles][2][8],
                                               float (&dots)[n_tiles][2][2]) {
  constexpr int kSteps = block / 32;
  constexpr bool stay = kCanStay<F>;
  int c[n_tiles][2][4];  // of even and odd steps
#pragma unroll
  for (auto& tile : c) {
#pragma unroll
    for (int n = 0; n < 4; ++n) tile[0][n] = tile[1][n] = kMagicBits;
  }
  unroll<kSteps>([&](auto step) {
    constexpr int s = decltype(step)::value, j = i * kSteps + s;
    constexpr int odd = stay ? j % 2 : 0;
    unsigned a[4];
    w.template operand<j, stay>(a);
#pragma unroll
    for (int tile = 0; tile < n_tiles; ++tile) {
      const unsigned* b = codes[tile][j / 4] + j % 4 * 2;
      mma(c[tile][odd], a, b[0], b[1], c[tile][odd]);
    }
  });
#pragma unroll
  for (int tile = 0; tile < n_tiles; ++tile) {
#pragma unroll
    for (int n = 0; n < 4; ++n) {
      float& dot = dots[tile][n / 2][n % 2];
      if constexpr (!stay) {
        dot = dot_of(c[tile][0][n]);
      } else if constexpr (kSteps > 1) {
        dot = dot_of<F::bits>(c[tile][0][n], c[tile][1][n]);
      } else if constexpr (i % 2 == 0) {
        dot = dot_of(c[tile][0][n]);
      } else {
        dot = dot_of_staying<F::bits>(c[tile][1][n]);
      }
    }
  }
}

// Adds a segment to the sums of rows 2g and 2g + 1 and token q.
template <typename F, int block, int min_kind>
__device__ __forceinline__ void add_segment(const Segment<F, block, min_kind>& w,
                                            DecodeInput<block, 4>& x,
                                            const typename DecodeInput<block, 4>::Place& at,
                                            float (&acc)[1][1][2]) {
  constexpr int kBlocks = kSegmentCols / block;
  float dots[kBlocks][1][2][2];
  float(&sums)[2] = acc[0][0];
  unroll<kBlocks>([&](auto b) {
    constexpr int i = decltype(b)::value;
    multiply_block<i>(w, x.codes, dots[i]);
    const float2 s = w.template scales<i>();
    const float2 m = w.template minima<i>(s);
    add_block(s.x, m.x, x.factors[0][i], dots[i][0][0][0], sums[0]);
    add_block(s.y, m.y, x.factors[0][i], dots[i][0][1][0], sums[1]);
  });
  if (!x.second) return;
  unsigned factors[kBlocks][2];
  DecodeInput<block, 4>::load_factors(at, at.padded, factors);
  unroll<kBlocks>([&](auto b) {
    constexpr int i = decltype(b)::value;
    const float2 s = w.template scales<i>();
    const float2 m = w.template minima<i>(s);
    add_block(s.x, m.x, factors[i], dots[i][0][0][1], sums[0]);
    add_block(s.y, m.y, factors[i], dots[i][0][1][1], sums[1]);
  });
}

// The same for tokens 2q and 2q + 1 of each tile. stays: x is needed again as it is.
template <typename F, int block, int min_kind, int n_tokens>
__device__ __forceinline__ void add_segment(const Segment<F, block, min_kind>& w,
                                            DecodeInput<block, n_tokens>& x,
                                            const typename DecodeInput<block, n_tokens>::Place& at,
                                            const DeviceInput& in, bool stays,
                                            float (&acc)[n_tokens / kTile][2][2]) {
  constexpr int kBlocks = kSegmentCols / block, kTiles = n_tokens / kTile;
#pragma unroll 1
  for (int plane = 0;; ++plane) {
    unroll<kBlocks>([&](auto b) {
      constexpr int i = decltype(b)::value;
      float dots[kTiles][2][2];
      multiply_block<i>(w, x.codes, dots);
      const float2 s = w.template scales<i>();
      const float2 m = w.template minima<i>(s);
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
        for (int t = 0; t < 2; ++t) {
          const unsigned* factors = x.factors[tile][i] + 2 * t;
          add_block(s.x, m.x, factors, dots[tile][0][t], acc[tile][t][0]);
          add_block(s.y, m.y, factors, dots[tile][1][t], acc[tile][t][1]);
        }
      }
    });
    if (!x.second) return;
    if (plane == 1) break;
    x.load_plane(at, in, 1);
  }
  if (stays) x.load_plane(at, in, 0);
}

// A lane's sums of a slice to shared memory.
template <int n_tokens, int n_tiles, int n_own>
__device__ __forceinline__ void put_sums(const float (&acc)[n_tiles][n_own][2], float* slice,
                                         int lane) {
  const int g = lane / 4, q = lane % 4;
#pragma unroll
  for (int tile = 0; tile < n_tiles; ++tile) {
#pragma unroll
    for (int t = 0; t < n_own; ++t) {
      const int token = tile * kTile + n_own * q + t;
      float* to = slice + token * DecodeSums<n_tokens>::kToken + 2 * g;
      asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(shared_address(to)),
                   "f"(acc[tile][t][0]), "f"(acc[tile][t][1])
                   : "memory");  // which the compiler would split
    }
  }
}

// Thread i's row and token: of 8, even ones come first, whose sums lie in different banks.
template <int n_tokens>
struct DecodeCell {
  int row, token;
  __device__ __forceinline__ explicit DecodeCell(int i) : row(i % 8 + i / (8 * n_tokens) * 8) {
    const int nth = i / 8 % n_tokens;
    token = n_tokens == 4 ? nth : nth / 8 * 8 + nth % 4 * 2 + nth / 4 % 2;
  }
  // Over the slices of a band.
  __device__ __forceinline__ float total(const float* sums) const {
    const float* from = sums + token * DecodeSums<n_tokens>::kToken + row;
    float quarters[kQuarters] = {};
#pragma unroll
    for (int slice = 0; slice < kSlices; ++slice) {
      float& quarter = quarters[slice / kQuarterSlices];
      quarter = __fadd_rn(quarter, from[slice * DecodeSums<n_tokens>::kSlice]);
    }
    float total = 0;
#pragma unroll
    for (const float quarter : quarters) total = __fadd_rn(total, quarter);
    return total;
  }
};

template <int n_tokens>
__device__ __forceinline__ void finish_decode(const BandProduct& a, int first_token, int panel,
                                              const float* sums) {
  const auto threads = static_cast<int>(blockDim.x);
  for (auto i = static_cast<int>(threadIdx.x); i < kPanelRows * n_tokens; i += threads) {
    const DecodeCell<n_tokens> cell(i);
    if (first_token + cell.token >= a.x.tokens) continue;
    const float total = cell.total(sums);
    const BandPart part = part_of(a, panel);
    store(part, (panel - part.first_panel) * kPanelRows + cell.row, first_token + cell.token,
          total);
  }
}

// The weights that a warp copies next, ahead of what it multiplies: its run of segments of panel
// after panel.
template <typename Segment>
struct DecodeAhead {
  typename Segment::Place at{};
  int panel, part_end = 0;  // of its part, in panels
  int begin, run;           // segments of a panel
  int in_run = 0;           // those left in this panel; 0 after the last
  std::int64_t row_bytes, segment_bytes;

  __device__ __forceinline__ DecodeAhead(const BandProduct& a, int first, int end)
      : panel(static_cast<int>(blockIdx.x)),
        begin(first),
        run(end - first),
        row_bytes(std::int64_t{segments_of(a.band.cols)} * a.band.segment_bytes),
        segment_bytes(a.band.segment_bytes) {
    enter_part(a);
  }
  __device__ __forceinline__ void enter_part(const BandProduct& a) {
    if (panel >= a.panels) return let_next_begin();
    const BandPart part = part_of(a, panel);
    part_end = part.end_panel;
    in_run = run;
    const std::int64_t in_part = panel - part.first_panel;
    at.codes = part.segments + in_part * row_bytes + begin * segment_bytes;
    at.factors = part.row_factors == nullptr ? at.codes + Segment::kCodeBytes
                                             : part.row_factors + in_part * Segment::kFactorBytes;
  }
  __device__ __forceinline__ void next_panel(const BandProduct& a, bool one_group) {
    panel += static_cast<int>(gridDim.x);
    if (panel >= part_end) return enter_part(a);
    in_run = run;
    const std::int64_t step = gridDim.x * row_bytes - (run - 1) * segment_bytes;
    at.advance(step, one_group ? std::int64_t{gridDim.x} * Segment::kFactorBytes : step);
  }
  __device__ __forceinline__ void copy(const BandProduct& a, bool one_group, unsigned stage,
                                       int lane) {
    if (in_run > 0) {
      Segment::copy(at, stage, lane);
      if (--in_run > 0) {
        at.advance(segment_bytes, one_group ? 0 : segment_bytes);
      } else {
        next_panel(a, one_group);
      }
    }
    commit_copies();
  }
};

}  // namespace detail

struct DecodeShape {
  int stages, ring_bytes;  // of a warp
  int first_token;
};

// Bytes of shared memory.
template <typename F, int block, int min_kind, int n_tokens>
constexpr int decode_shared(int warps, int stages) {
  return 2 * kSlices * detail::DecodeSums<n_tokens>::kSlice * static_cast<int>(sizeof(float)) +
         warps * stages * detail::Segment<F, block, min_kind>::kStageBytes;
}

// Thread blocks of 16 warps that registers let reside where there are that many.
template <typename F, int block, int n_tokens>
inline constexpr int kDecodeBlocks = block == 128 && (n_tokens == 4 ? F::bits < 8
                                                                    : n_tokens == 8 && F::bits < 3)
                                         ? 2
                                         : 1;

template <typename F, int block, int min_kind, int n_tokens>
__global__ void __launch_bounds__(512, kDecodeBlocks<F, block, n_tokens>)
    packed_decode(BandProduct a, DecodeShape shape) {
  using Segment = detail::Segment<F, block, min_kind>;
  using Input = detail::DecodeInput<block, n_tokens>;
  using Sums = detail::DecodeSums<n_tokens>;
  extern __shared__ uint4 shared[];  // sums, then [warps][stages] segments
  // The same in all lanes, and the compiler sees it.
  const int warp = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / 32, 0);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int segments = segments_of(a.band.cols);
  const int slices = kSlices / (static_cast<int>(blockDim.x) / 32);  // of this warp
  const int first_slice = warp * slices;
  const int begin = slice_begin(first_slice, segments);
  const int end = slice_begin(first_slice + slices, segments);
  auto* sums = reinterpret_cast<float*>(shared);  // [2][kSlices] of Sums
  int other_half = kSlices * Sums::kSlice;
  const unsigned ring = detail::shared_address(sums + 2 * other_half) + warp * shape.ring_bytes;
  const unsigned ring_end = ring + shape.ring_bytes;

  const bool one_group = a.parts[0].row_factors != nullptr;
  detail::DecodeAhead<Segment> ahead(a, begin, end);
  unsigned stage = ring, ahead_stage = ring;
  for (; ahead_stage + Segment::kStageBytes < ring_end; ahead_stage += Segment::kStageBytes) {
    ahead.copy(a, one_group, ahead_stage, lane);
  }
  wait_for_inputs();
  Input x{};
  typename Input::Place at(a.x, shape.first_token, begin, lane);
  if (begin < end) x.load(at, a.x);

#pragma unroll 1
  for (int panel = static_cast<int>(blockIdx.x); panel < a.panels;
       panel += static_cast<int>(gridDim.x)) {
    int segment = begin;
#pragma unroll 1
    for (int slice = first_slice; slice < first_slice + slices; ++slice) {
      const int slice_end = slices == 1 ? end : slice_begin(slice + 1, segments);
      float acc[Input::kTiles][Input::kOwn][2] = {};
#pragma unroll 1
      for (; segment < slice_end; ++segment) {
        __syncwarp();  // all lanes have read what is overwritten now
        ahead.copy(a, one_group, ahead_stage, lane);
        ahead_stage = stage;
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
        if constexpr (n_tokens == 4) {
          detail::add_segment(now, x, at, acc);
        } else {
          detail::add_segment(now, x, at, a.x, end - begin == 1, acc);
        }
        if (end - begin > 1) {
          at.advance(segment + 1 < end ? 1 : begin + 1 - end);
          x.load(at, a.x);
        }
      }
      detail::put_sums<n_tokens>(acc, sums + slice * Sums::kSlice, lane);
    }
    __syncthreads();
    detail::finish_decode<n_tokens>(a, shape.first_token, panel, sums);
    // The other half is free: its sums were read before the barrier above.
    sums += other_half;
    other_half = -other_half;
  }
}

}  // namespace tenfold::cuda
