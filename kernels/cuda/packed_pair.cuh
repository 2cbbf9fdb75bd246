#pragma once
// packed_decode.cuh for the two bands of mixed matrices in one launch, where both have blocks of
// kPairBlock columns. Each warp has a run of slices of either band, the first one's before the
// second's, and all sums meet in shared memory. Formats are known at run time only: a branch for
// each segment, the same for all lanes, spares a kernel for each pair of them.
//
// The few segments of a narrow band lie in few slices. So warp w has the slices of warp w + turn
// there, with the turn that leaves no warp much more to do than others.

#include "kernels/cuda/packed_decode.cuh"

namespace tenfold::cuda {

inline constexpr int kPairBlock = 128;

// A band, and what follows from it.
struct PairBand {
  BandProduct product;
  int kind = 0;  // pair_kind
  int bits = 0, factor_bytes = 0;
  int segments = 0;
  std::int64_t row_bytes = 0;  // of a panel
};
struct PairProduct {
  PairBand bands[2];
  int turn = 0;
};

TENFOLD_ANYWHERE constexpr int pair_kind(Format format, int min_kind) {
  return static_cast<int>(format) * 3 + min_kind;
}

namespace detail {

// function<F, min_kind>() of what a kind says.
template <int most_bits, typename Function>
__device__ __forceinline__ void with_kind(int kind, const Function& function) {
  switch (kind) {
#define PACKED_FORMAT(id, name, Type)                                               \
  case pair_kind(Format::name, 0):                                                  \
    if constexpr (Type::bits <= most_bits) function.template operator()<Type, 0>(); \
    break;                                                                          \
  case pair_kind(Format::name, 1):                                                  \
    if constexpr (Type::bits <= most_bits) function.template operator()<Type, 1>(); \
    break;                                                                          \
  case pair_kind(Format::name, 2):                                                  \
    if constexpr (Type::bits <= most_bits) function.template operator()<Type, 2>(); \
    break;
#include "kernels/formats/formats.def"
    default:
      break;
  }
}

// A warp's slices and segments of a band.
struct PairRun {
  int first_slice, begin, end;
  __device__ __forceinline__ PairRun(const PairBand& band, int slice, int slices)
      : first_slice(slice),
        begin(slice_begin(slice, band.segments)),
        end(slice_begin(slice + slices, band.segments)) {}
  __device__ __forceinline__ int count() const { return end - begin; }
};

// The same run of panel after panel.
struct PairPlace {
  const std::byte *codes = nullptr, *factors = nullptr;

  __device__ __forceinline__ void enter(const PairBand& band, int begin, int part, int panel) {
    const BandPart& from = band.product.parts[part];
    const std::int64_t in_part = panel - from.first_panel;
    codes = from.segments + in_part * band.row_bytes +
            std::int64_t{begin} * band.product.band.segment_bytes;
    factors = from.row_factors == nullptr ? codes + band.bits * kBitBytes
                                          : from.row_factors + in_part * band.factor_bytes;
  }
  __device__ __forceinline__ void next_segment(const PairBand& band, bool one_group) {
    codes += band.product.band.segment_bytes;
    if (!one_group) factors += band.product.band.segment_bytes;
  }
  __device__ __forceinline__ void next_panel(const PairBand& band, bool one_group, int run) {
    const std::int64_t panels = gridDim.x;
    const std::int64_t step =
        panels * band.row_bytes - (run - 1) * std::int64_t{band.product.band.segment_bytes};
    codes += step;
    factors += one_group ? panels * band.factor_bytes : step;
  }
  template <int most_bits>
  __device__ __forceinline__ void copy(const PairBand& band, unsigned stage, int lane) const {
    const int at = lane * 16;
#pragma unroll
    for (int i = 0; i < most_bits; ++i) {
      if (i < band.bits) copy_async(codes + at + i * kBitBytes, stage + at + i * kBitBytes);
    }
    if (at < band.factor_bytes) copy_async(factors + at, stage + at + band.bits * kBitBytes);
  }
};

// What DecodeAhead is to one band.
struct PairAhead {
  PairPlace first, second;
  int panel, part = 0, part_end = 0;
  int band = 0, in_run = 0;  // segments left of this band and panel; 0 after the last

  __device__ __forceinline__ PairAhead(const PairProduct& a, const PairRun (&runs)[2])
      : panel(static_cast<int>(blockIdx.x)) {
    enter_part(a, runs);
  }
  __device__ __forceinline__ void enter_part(const PairProduct& a, const PairRun (&runs)[2]) {
    if (panel >= a.bands[0].product.panels || runs[0].count() + runs[1].count() == 0) {
      return let_next_begin();
    }
    const auto& parts = a.bands[0].product.parts;
    while (panel >= parts[part].end_panel) ++part;
    part_end = parts[part].end_panel;
    first.enter(a.bands[0], runs[0].begin, part, panel);
    second.enter(a.bands[1], runs[1].begin, part, panel);
    begin_panel(runs);
  }
  __device__ __forceinline__ void begin_panel(const PairRun (&runs)[2]) {
    band = runs[0].count() > 0 ? 0 : 1;
    in_run = band == 0 ? runs[0].count() : runs[1].count();
  }
  template <int most_bits>
  __device__ __forceinline__ void copy(const PairProduct& a, const PairRun (&runs)[2],
                                       unsigned stage, int lane) {
    if (in_run > 0) {
      if (band == 0) {
        copy_of<most_bits>(a.bands[0], first, runs[0].count(), stage, lane);
      } else {
        copy_of<most_bits>(a.bands[1], second, runs[1].count(), stage, lane);
      }
      if (in_run == 0) next_run(a, runs);
    }
    commit_copies();
  }
  template <int most_bits>
  __device__ __forceinline__ void copy_of(const PairBand& from, PairPlace& at, int run,
                                          unsigned stage, int lane) {
    const bool one_group = from.product.parts[0].row_factors != nullptr;
    at.copy<most_bits>(from, stage, lane);
    if (--in_run > 0) {
      at.next_segment(from, one_group);
    } else {
      at.next_panel(from, one_group, run);
    }
  }
  __device__ __forceinline__ void next_run(const PairProduct& a, const PairRun (&runs)[2]) {
    if (band == 0 && runs[1].count() > 0) {
      band = 1, in_run = runs[1].count();
      return;
    }
    panel += static_cast<int>(gridDim.x);
    if (panel >= part_end) return enter_part(a, runs);
    begin_panel(runs);
  }
};

// A warp at work: its ring of segments in shared memory, and the activations of the next one.
template <int n_tokens, int most_bits>
struct PairWarp {
  using Input = DecodeInput<kPairBlock, n_tokens>;
  using Place = typename Input::Place;
  using Sums = DecodeSums<n_tokens>;
  const PairProduct& a;
  const DecodeShape& shape;
  const int lane, slices;  // the latter of each band
  const PairRun runs[2];
  const int n_segments = runs[0].count() + runs[1].count();
  const int stage_bytes = shape.ring_bytes / shape.stages;
  const unsigned ring, ring_end = ring + shape.ring_bytes;
  unsigned stage = ring, ahead_stage = ring;
  PairAhead ahead{a, runs};
  Input x{};
  Place at = place<0>();

  __device__ __forceinline__ PairWarp(const PairProduct& product, const DecodeShape& launched,
                                      int warp, unsigned rings)
      : a(product),
        shape(launched),
        lane(static_cast<int>(threadIdx.x) % 32),
        slices(kSlices / (static_cast<int>(blockDim.x) / 32)),
        runs{{a.bands[0], (warp + a.turn) * slices % kSlices, slices},
             {a.bands[1], warp * slices, slices}},
        ring(rings + warp * shape.ring_bytes) {
    for (; ahead_stage + stage_bytes < ring_end; ahead_stage += stage_bytes) copy_ahead();
  }
  __device__ __forceinline__ void copy_ahead() {
    ahead.copy<most_bits>(a, runs, ahead_stage, lane);
  }
  template <int b>
  __device__ __forceinline__ Place place() const {
    return Place(a.bands[b].product.x, shape.first_token, runs[b].begin, lane);
  }
  // What comes first of a panel.
  __device__ __forceinline__ void load_first() {
    if (runs[0].count() > 0) {
      x.load(at, a.bands[0].product.x);
    } else if (n_segments > 0) {
      at = place<1>();
      x.load(at, a.bands[1].product.x);
    }
  }
  // What comes after a segment of band b.
  template <int b>
  __device__ __forceinline__ void load_next(int segment) {
    if (n_segments == 1) return;
    const PairRun& run = runs[b];
    if (segment + 1 == run.end && runs[1 - b].count() > 0) {
      at = place<1 - b>();
      x.load(at, a.bands[1 - b].product.x);
    } else {
      at.advance(segment + 1 < run.end ? 1 : run.begin + 1 - run.end);
      x.load(at, a.bands[b].product.x);
    }
  }
  // The next segment of weights comes into its stage.
  __device__ __forceinline__ void wait_for_stage() {
    __syncwarp();  // all lanes have read what is overwritten now
    copy_ahead();
    ahead_stage = stage;
    if (shape.stages == 2) {
      wait_for_copies<1>();
    } else {
      wait_for_copies<2>();
    }
    __syncwarp();
  }
  template <int b>
  __device__ __forceinline__ void add_stage(float (&acc)[Input::kTiles][Input::kOwn][2]) {
    with_kind<most_bits>(a.bands[b].kind, [&]<typename F, int min_kind>() {
      int here = lane;
      keep(here);  // or its places in all kinds' segments would take registers
      Segment<F, kPairBlock, min_kind> now;
      now.read(stage, here);
      if constexpr (n_tokens == 4) {
        add_segment(now, x, at, acc);
      } else {
        add_segment(now, x, at, a.bands[b].product.x, n_segments == 1, acc);
      }
    });
    stage += stage_bytes;
    if (stage == ring_end) stage = ring;
  }
  // The slices of band b; sums: of all of the band.
  template <int b>
  __device__ __forceinline__ void add_run(float* sums) {
    const PairRun& run = runs[b];
    float* to = sums + run.first_slice * Sums::kSlice;
    int segment = run.begin;
#pragma unroll 1
    for (int slice = 1; slice <= slices; ++slice, to += Sums::kSlice) {
      const int slice_end =
          slices == 1 ? run.end : slice_begin(run.first_slice + slice, a.bands[b].segments);
      float acc[Input::kTiles][Input::kOwn][2] = {};
#pragma unroll 1
      for (; segment < slice_end; ++segment) {
        wait_for_stage();
        add_stage<b>(acc);
        load_next<b>(segment);
      }
      put_sums<n_tokens>(acc, to, lane);
    }
  }
};

// First band, then second, as one launch after the other would add them.
template <int n_tokens>
__device__ __forceinline__ void finish_pair(const PairProduct& a, int first_token, int panel,
                                            const float* sums) {
  const BandProduct& first = a.bands[0].product;
  const auto threads = static_cast<int>(blockDim.x);
  for (auto i = static_cast<int>(threadIdx.x); i < kPanelRows * n_tokens; i += threads) {
    const DecodeCell<n_tokens> cell(i);
    const int token = first_token + cell.token;
    if (token >= first.x.tokens) continue;
    const float total = cell.total(sums);
    const float rest = cell.total(sums + kSlices * DecodeSums<n_tokens>::kSlice);
    const BandPart part = part_of(first, panel);
    const int row = (panel - part.first_panel) * kPanelRows + cell.row;
    if (row >= part.rows) continue;
    float* y = part.y + token * part.ldy + row;
    *y = __fadd_rn(updated(part, row, y, total), rest);
  }
}

}  // namespace detail

// Bytes of shared memory.
template <int n_tokens>
constexpr int pair_shared(int warps, int ring_bytes) {
  return 2 * 2 * kSlices * detail::DecodeSums<n_tokens>::kSlice * static_cast<int>(sizeof(float)) +
         warps * ring_bytes;
}

// most_bits: of either band.
template <int n_tokens, int most_bits>
__global__ void __launch_bounds__(512, n_tokens == 4 ? 2 : 1)
    packed_pair(const __grid_constant__ PairProduct a, DecodeShape shape) {
  constexpr int kBand = kSlices * detail::DecodeSums<n_tokens>::kSlice;
  extern __shared__ uint4 shared[];               // sums, then [warps][stages] segments
  auto* sums = reinterpret_cast<float*>(shared);  // [2][bands] of kBand
  int other_half = 2 * kBand;
  // The same in all lanes, and the compiler sees it.
  const int warp_id = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / 32, 0);
  detail::PairWarp<n_tokens, most_bits> warp(a, shape, warp_id,
                                             detail::shared_address(sums + 2 * other_half));
  wait_for_inputs();
  warp.load_first();
#pragma unroll 1
  for (int panel = static_cast<int>(blockIdx.x); panel < a.bands[0].product.panels;
       panel += static_cast<int>(gridDim.x)) {
    warp.template add_run<0>(sums);
    warp.template add_run<1>(sums + kBand);
    __syncthreads();
    detail::finish_pair<n_tokens>(a, shape.first_token, panel, sums);
    // The other half is free: its sums were read before the barrier above.
    sums += other_half;
    other_half = -other_half;
  }
}

}  // namespace tenfold::cuda
