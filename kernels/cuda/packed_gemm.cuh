#pragma once
// The kernel of packed_linear.h for many tokens. A thread block has a tile of kGemmTokens tokens
// and `panels` panels of 16 rows; `ways` warps share a panel's columns, each with its quarters of
// the slices (all, or one of four). Warps with the same columns share the activations, which come
// through shared memory; weights come as in packed_decode.cuh, each warp's for itself.
//
// The unit of work is an item: a segment and a plane of the activations. Items of the second plane
// are there only where a token of the tile has something in it. Copies of the next stages - 1 items
// are under way while one is multiplied, with one barrier an item among the warps that share it.

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/packed_fragments.cuh"

namespace tenfold::cuda {

struct GemmShape {
  int panels, ways, stages;
};
inline constexpr int kGemmTokens = 64;
inline constexpr int kGemmTiles = kGemmTokens / kTile;

namespace detail {

// Bytes from one token's codes of a segment to the next's: free of bank conflicts for 16-byte loads
// of two tokens by eight lanes.
inline constexpr int kInputStride = kSegmentCols + 16;

// A segment of one plane of a tile's activations in shared memory: codes, then factors
// [blocks][tokens][2].
template <int block>
struct GemmInput {
  static constexpr int kBlocks = kSegmentCols / block;
  static constexpr int kTokens = kGemmTokens;
  static constexpr int kCodeBytes = kTokens * kInputStride;
  static constexpr int kBytes = kCodeBytes + kBlocks * kTokens * 8;

  // By threads `thread` of `threads`; token: the tile's first; tiles: those that exist.
  static __device__ __forceinline__ void copy(const DeviceInput& in, int segment, int plane,
                                              int token, int tiles, unsigned to, int thread,
                                              int threads) {
    constexpr int kPieces = kSegmentCols / 16;  // of a token
    const std::int64_t first = std::int64_t{plane} * in.padded_tokens + token;
    const std::int8_t* codes = in.codes + first * in.cols + segment * kSegmentCols;
    for (int i = thread; i < tiles * kTile * kPieces; i += threads) {
      const int t = i / kPieces, piece = i % kPieces;
      copy_async(codes + std::int64_t{t} * in.cols + piece * 16,
                 to + t * kInputStride + piece * 16);
    }
    // Factors of two tokens are 16 bytes.
    const float* factors =
        in.factors + (std::int64_t{segment} * kBlocks * 2 * in.padded_tokens + first) * 2;
    for (int i = thread; i < kBlocks * kTokens / 2; i += threads) {
      const int b = i / (kTokens / 2), pair = i % (kTokens / 2);
      if (pair >= tiles * (kTile / 2)) continue;
      copy_async(factors + (std::int64_t{b} * 2 * in.padded_tokens + pair * 2) * 2,
                 to + kCodeBytes + (b * kTokens + pair * 2) * 8);
    }
  }
};

// Adds half (128 columns) h of a segment to the sums of rows 2g, 2g + 1 by tokens 2q, 2q + 1 of
// each pair of tiles of which a bit is set: two, so that one's products run while the other's wait.
// What has no bit adds zeros or is not stored. More of them at a time would leave no registers for
// a second thread block (docs/gpu.md).
template <int h, typename F, int block, int min_kind>
__device__ __forceinline__ void add_half(const Segment<F, block, min_kind>& w, const std::byte* x,
                                         unsigned tiles, int lane, float (&acc)[kGemmTiles][4]) {
  using Input = GemmInput<block>;
  constexpr int kBlocks = 128 / block;
  constexpr int kSteps = block / 32;
  unsigned a[4][4];
  unroll<4>([&](auto j) {
    w.template operand<4 * h + decltype(j)::value, false>(a[decltype(j)::value]);
  });
#pragma unroll
  for (unsigned(&step)[4] : a) {
#pragma unroll
    for (unsigned& codes : step) keep(codes);
  }
  float2 s[kBlocks], m[kBlocks];
  unroll<kBlocks>([&](auto b) {
    constexpr int i = decltype(b)::value;
    s[i] = w.template scales<h * kBlocks + i>();
    m[i] = w.template minima<h * kBlocks + i>(s[i]);
  });
  const int g = lane / 4, q = lane % 4;
  const std::byte* codes = x + g * kInputStride + h * 128 + q * 32;
  const std::byte* factors = x + Input::kCodeBytes + h * kBlocks * Input::kTokens * 8 + q * 16;
#pragma unroll
  for (int n = 0; n < kGemmTiles; n += 2) {
    if ((tiles >> n & 3) == 0) continue;
    uint4 b[2][2];
#pragma unroll
    for (int t = 0; t < 2; ++t) {
      const std::byte* from = codes + (n + t) * kTile * kInputStride;
      b[t][0] = *reinterpret_cast<const uint4*>(from);
      b[t][1] = *reinterpret_cast<const uint4*>(from + 16);
    }
#pragma unroll
    for (int i = 0; i < kBlocks; ++i) {
      int c[2][4];
#pragma unroll
      for (int t = 0; t < 8; ++t) c[t / 4][t % 4] = kMagicBits;
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
        const int j = i * kSteps + step;
#pragma unroll
        for (int t = 0; t < 2; ++t) {
          const uint4& from = b[t][j / 2];
          const unsigned b0 = j % 2 == 0 ? from.x : from.z, b1 = j % 2 == 0 ? from.y : from.w;
          mma(c[t], a[j], b0, b1, c[t]);
        }
      }
#pragma unroll
      for (int t = 0; t < 2; ++t) {
        const uint4 f =
            *reinterpret_cast<const uint4*>(factors + (i * Input::kTokens + (n + t) * kTile) * 8);
        const unsigned first[2] = {f.x, f.y}, second[2] = {f.z, f.w};
        add_block(s[i].x, m[i].x, first, dot_of(c[t][0]), acc[n + t][0]);
        add_block(s[i].x, m[i].x, second, dot_of(c[t][1]), acc[n + t][1]);
        add_block(s[i].y, m[i].y, first, dot_of(c[t][2]), acc[n + t][2]);
        add_block(s[i].y, m[i].y, second, dot_of(c[t][3]), acc[n + t][3]);
      }
    }
  }
}

// Sums of a warp: of the slice, of the quarter, and in `slot` (shared memory, the lane's own
// [kGemmTiles] float4 of 32 lanes) of all its quarters.
struct GemmSums {
  float acc[kGemmTiles][4], quarter[kGemmTiles][4];
  float4* slot;  // + 32 n

  __device__ __forceinline__ void begin(float4* at) {
    slot = at;
#pragma unroll
    for (int n = 0; n < kGemmTiles; ++n) {
      slot[32 * n] = {0, 0, 0, 0};
#pragma unroll
      for (int i = 0; i < 4; ++i) acc[n][i] = quarter[n][i] = 0;
    }
  }
  __device__ __forceinline__ void end_slice() {
#pragma unroll
    for (int n = 0; n < kGemmTiles; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        quarter[n][i] = __fadd_rn(quarter[n][i], acc[n][i]);
        acc[n][i] = 0;
      }
    }
  }
  __device__ __forceinline__ void end_quarter() {
#pragma unroll
    for (int n = 0; n < kGemmTiles; ++n) {
      slot[32 * n] = add(slot[32 * n], quarter[n]);
#pragma unroll
      for (int i = 0; i < 4; ++i) quarter[n][i] = 0;
    }
  }
  static __device__ __forceinline__ float4 add(float4 a, const float (&b)[4]) {
    return {__fadd_rn(a.x, b[0]), __fadd_rn(a.y, b[1]), __fadd_rn(a.z, b[2]), __fadd_rn(a.w, b[3])};
  }
};

// The lane's sums of a panel by a tile's tokens.
__device__ __forceinline__ void store_tile(const BandPart& part, int panel, int first_token,
                                           int tokens, int lane, float4 sums) {
  const int row = panel * kPanelRows + lane / 4 * 2, token = first_token + lane % 4 * 2;
  if (token < tokens) {
    store(part, row, token, sums.x);
    store(part, row + 1, token, sums.z);
  }
  if (token + 1 < tokens) {
    store(part, row, token + 1, sums.y);
    store(part, row + 1, token + 1, sums.w);
  }
}

__device__ __forceinline__ void sync_threads_of(int barrier, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}

// Which of a tile's kGemmTiles have something in the second plane of a segment, one bit each.
__device__ __forceinline__ unsigned second_tiles(const DeviceInput& in, int segment, int token,
                                                 int tiles) {
  const std::uint8_t* flags = in.second + std::int64_t{segment} * in.padded_tokens + token;
  unsigned mask = 0;
  for (int n = 0; n < tiles; ++n) {
    const uint2 eight = *reinterpret_cast<const uint2*>(flags + n * kTile);
    if ((eight.x | eight.y) != 0) mask |= 1u << n;
  }
  return mask;
}

}  // namespace detail

constexpr int gemm_mask_bytes(int segments) { return (segments + 15) / 16 * 16; }

// Bytes of shared memory.
template <typename F, int block, int min_kind>
constexpr int gemm_shared(GemmShape s, int segments) {
  const int warps = s.panels * s.ways;
  return warps * kGemmTiles * 512 + s.ways * s.stages * detail::GemmInput<block>::kBytes +
         warps * s.stages * detail::Segment<F, block, min_kind>::kStageBytes +
         gemm_mask_bytes(segments);
}

inline constexpr int kGemmThreads = 256;

template <typename F, int block, int min_kind>
__global__ void __launch_bounds__(kGemmThreads, 2) packed_gemm(BandProduct a, GemmShape s) {
  using Segment = detail::Segment<F, block, min_kind>;
  using Input = detail::GemmInput<block>;
  // The same in all lanes, and the compiler sees it.
  const int warp = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / 32, 0);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int way = warp / s.panels, in_way = warp % s.panels;
  const int warps = s.panels * s.ways, threads = 32 * s.panels;  // the latter of this way
  const int thread = static_cast<int>(threadIdx.x) - way * threads;
  const int panel = static_cast<int>(blockIdx.x) * s.panels + in_way;
  const bool has_rows = panel < a.panels;
  const BandPart part = detail::part_of(a, panel);
  const int in_part = panel - part.first_panel;
  const int segments = segments_of(a.band.cols);
  const int token = static_cast<int>(blockIdx.y) * Input::kTokens;
  const int tiles = min(kGemmTiles, (a.x.tokens - token + kTile - 1) / kTile);

  // [warps] slots, [ways][stages] activations, [warps][stages] weights, [segments] masks
  extern __shared__ uint4 shared[];
  auto* const slots = reinterpret_cast<float4*>(shared);
  auto* const inputs = reinterpret_cast<std::byte*>(slots + warps * kGemmTiles * 32);
  auto* const weights = inputs + s.ways * s.stages * Input::kBytes;
  auto* const masks =
      reinterpret_cast<std::uint8_t*>(weights + warps * s.stages * Segment::kStageBytes);
  std::byte* const input_ring = inputs + way * s.stages * Input::kBytes;
  const unsigned weight_ring =
      detail::shared_address(weights + warp * s.stages * Segment::kStageBytes);

  int slice = way * (kSlices / s.ways);
  const int slices_end = slice + kSlices / s.ways;
  const int begin = slice_begin(slice, segments), end = slice_begin(slices_end, segments);

  // What is copied next: an item, and where to.
  int next_segment = begin, next_plane = 0, next_input = 0, next_weight = 0;
  const auto copy_weights = [&](int segment, int stage) {
    const std::byte* at =
        part.segments + (std::int64_t{in_part} * segments + segment) * a.band.segment_bytes;
    const std::byte* factors = part.row_factors == nullptr
                                   ? at + Segment::kCodeBytes
                                   : part.row_factors + in_part * Segment::kFactorBytes;
    Segment::copy({at, factors}, weight_ring + stage * Segment::kStageBytes, lane);
  };
  const auto copy_next = [&] {
    if (next_segment < end) {
      if (next_plane == 0 && has_rows) copy_weights(next_segment, next_weight);
      Input::copy(a.x, next_segment, next_plane, token, tiles,
                  detail::shared_address(input_ring + next_input * Input::kBytes), thread, threads);
      if (next_plane == 0 && ++next_weight == s.stages) next_weight = 0;
      if (next_plane == 0 && masks[next_segment] != 0) {
        next_plane = 1;
      } else {
        next_plane = 0, ++next_segment;
      }
    }
    detail::commit_copies();
    if (++next_input == s.stages) next_input = 0;
  };

  wait_for_inputs();
  for (int i = static_cast<int>(threadIdx.x); i < segments; i += 32 * warps) {
    masks[i] = static_cast<std::uint8_t>(detail::second_tiles(a.x, i, token, tiles));
  }
  __syncthreads();
  for (int i = 0; i < s.stages - 1; ++i) copy_next();

  detail::GemmSums sums;
  sums.begin(slots + warp * kGemmTiles * 32 + lane);
  const auto advance_to = [&](int segment) {
    while (slice < slices_end && slice_begin(slice + 1, segments) <= segment) {
      sums.end_slice();
      if (++slice % kQuarterSlices == 0) sums.end_quarter();
    }
  };
  int input = 0, weight = 0;
#pragma unroll 1
  for (int segment = begin; segment < end; ++segment) {
    advance_to(segment);
    const unsigned second = __shfl_sync(~0u, static_cast<unsigned>(masks[segment]), 0);
    Segment now;
#pragma unroll 1
    for (int plane = 0; plane <= (second != 0 ? 1 : 0); ++plane) {
      if (s.stages == 2) {
        detail::wait_for_copies<0>();
      } else {
        detail::wait_for_copies<1>();
      }
      detail::sync_threads_of(1 + way, threads);
      copy_next();
      if (has_rows) {
        now.read(weight_ring + weight * Segment::kStageBytes, lane);
        const std::byte* x = input_ring + input * Input::kBytes;
        const unsigned which = plane == 0 ? (1u << tiles) - 1 : second;
        detail::add_half<0>(now, x, which, lane, sums.acc);
        detail::add_half<1>(now, x, which, lane, sums.acc);
      }
      if (++input == s.stages) input = 0;
    }
    if (++weight == s.stages) weight = 0;
  }
  advance_to(end);
  let_next_begin();
  __syncthreads();
  if (!has_rows) return;
  for (int n = way; n < tiles; n += s.ways) {
    float4 total = {0, 0, 0, 0};
    for (int w = 0; w < s.ways; ++w) {
      const float4 sum = slots[((w * s.panels + in_way) * kGemmTiles + n) * 32 + lane];
      const float parts[4] = {sum.x, sum.y, sum.z, sum.w};
      total = detail::GemmSums::add(total, parts);
    }
    detail::store_tile(part, in_part, token + n * kTile, a.x.tokens, lane, total);
  }
}

}  // namespace tenfold::cuda
