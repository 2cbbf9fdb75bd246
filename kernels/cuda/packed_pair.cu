#include "kernels/cuda/packed_launch.cuh"
#include "kernels/cuda/packed_pair.cuh"

namespace tenfold::cuda {
namespace {

// Segments of a warp's slices.
int segments_of_warp(int warp, int warps, int segments) {
  const int slices = kSlices / warps;
  return slice_begin((warp + 1) * slices, segments) - slice_begin(warp * slices, segments);
}

int best_turn(int first_segments, int second_segments, int warps) {
  int best = 0, least = first_segments + second_segments + 1;
  for (int turn = 0; turn < warps; ++turn) {
    int most = 0;
    for (int warp = 0; warp < warps; ++warp) {
      most = std::max(most, segments_of_warp((warp + turn) % warps, warps, first_segments) +
                                segments_of_warp(warp, warps, second_segments));
    }
    if (most < least) least = most, best = turn;
  }
  return best;
}

PairBand pair_band(const BandProduct& product) {
  const DeviceBand& band = product.band;
  const int min_kind = static_cast<int>(band.min_kind);
  PairBand result;
  result.product = product;
  result.kind = pair_kind(band.format, min_kind);
  result.bits = format_traits(band.format).bits;
  result.factor_bytes = factor_bytes(kPairBlock, min_kind);
  result.segments = segments_of(band.cols);
  result.row_bytes = std::int64_t{result.segments} * band.segment_bytes;
  return result;
}

int stage_bytes(const PairBand& band) { return band.bits * detail::kBitBytes + band.factor_bytes; }

// Sums of both bands leave less shared memory than those of one: perhaps too little.
template <int n_tokens, int most_bits>
std::optional<cudaError_t> launch_run(PairProduct& a, const DeviceLimits& limits,
                                      cudaStream_t stream, Tuning t) {
  if (t.stages == 0) t.stages = n_tokens == 4 ? 2 : 3;
  if (t.decode_warps == 0) t.decode_warps = 16;
  const bool good = t.stages >= 2 && t.stages <= 3 &&
                    (t.decode_warps == 4 || t.decode_warps == 8 || t.decode_warps == 16);
  if (!good) return cudaErrorInvalidValue;
  const int bytes = std::max(stage_bytes(a.bands[0]), stage_bytes(a.bands[1]));
  const auto shared = [&] { return pair_shared<n_tokens>(t.decode_warps, t.stages * bytes); };
  while (shared() > limits.shared_per_block) {
    if (t.stages > 2) {
      --t.stages;
    } else if (t.decode_warps > 4) {
      t.decode_warps /= 2;
    } else {
      return std::nullopt;
    }
  }
  a.turn = best_turn(a.bands[0].segments, a.bands[1].segments, t.decode_warps);
  const BandProduct& first = a.bands[0].product;
  return detail::launch_runs<packed_pair<n_tokens, most_bits>>(
      a, {first.panels, first.x.tokens, n_tokens, 32 * t.decode_warps, shared()},
      {t.stages, t.stages * bytes, 0}, limits, stream);
}

}  // namespace

std::optional<cudaError_t> launch_pair(const BandProduct (&bands)[2], const DeviceLimits& limits,
                                       cudaStream_t stream, const Tuning& tuning) {
  if (bands[0].band.block != kPairBlock || bands[1].band.block != kPairBlock) return std::nullopt;
  PairProduct a{{pair_band(bands[0]), pair_band(bands[1])}};
  // 8 bits find no room in the registers of two thread blocks.
  constexpr int kNarrow = 4;
  const int tokens = bands[0].x.tokens;
  if (tokens <= 4 && std::max(a.bands[0].bits, a.bands[1].bits) <= kNarrow) {
    return launch_run<4, kNarrow>(a, limits, stream, tuning);
  }
  switch (tokens <= 4 ? 8 : detail::tile_of(tokens, tuning)) {
    case 8:
      return launch_run<8, 8>(a, limits, stream, tuning);
    case 16:
      return launch_run<16, 8>(a, limits, stream, tuning);
    default:
      return std::nullopt;
  }
}

}  // namespace tenfold::cuda
