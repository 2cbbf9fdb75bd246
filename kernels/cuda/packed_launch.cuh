#pragma once
// Picks and launches the kernel of one band. Each format is a translation unit of its own
// (packed_q1.cu, ...): nvcc takes its time over them.

#include <algorithm>
#include <atomic>

#include "kernels/cuda/packed_decode.cuh"
#include "kernels/cuda/packed_gemm.cuh"

namespace tenfold::cuda {

namespace detail {

// Registers of a kernel's threads, asked once a device; the first call also lets it have all the
// shared memory that there is.
template <auto kernel>
cudaError_t registers_of(const DeviceLimits& limits, int* registers) {
  static std::atomic<int> known[kDevices];
  if (limits.device < 0 || limits.device >= kDevices) return cudaErrorInvalidDevice;
  std::atomic<int>& here = known[limits.device];
  *registers = here.load(std::memory_order_acquire);
  if (*registers != 0) return cudaSuccess;
  cudaFuncAttributes attributes;
  cudaError_t error = cudaFuncGetAttributes(&attributes, kernel);
  if (error == cudaSuccess) {
    error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 limits.shared_per_block);
  }
  if (error != cudaSuccess) return error;
  *registers = std::max(attributes.numRegs, 1);
  here.store(*registers, std::memory_order_release);
  return cudaSuccess;
}

// Thread blocks that a processor holds at once. Registers come in units of 8 a thread, a block
// takes 1 KiB of shared memory beyond its own.
inline int resident_blocks(const DeviceLimits& limits, int registers, int threads, int shared) {
  const int by_registers = limits.registers_per_processor / ((registers + 7) / 8 * 8 * threads);
  const int by_threads = limits.threads_per_processor / threads;
  const int by_shared = limits.shared_per_processor / (shared + 1024);
  return std::max(1, std::min({by_registers, by_threads, by_shared}));
}

// Found best on an H100 (docs/gpu.md): 16 warps with two segments each where two such thread blocks
// reside. Else, of few tokens 8 that look further ahead; of more 16, so that each has the
// activations of short rows in its registers.
template <typename F, int block, int n_tokens>
Tuning decode_tuning(Tuning t) {
  constexpr bool many_warps = kDecodeBlocks<F, block, n_tokens> == 2;
  if (t.decode_warps == 0) t.decode_warps = many_warps || n_tokens > 4 ? 16 : 8;
  if (t.stages == 0) t.stages = many_warps || F::bits == 8 || block == 32 ? 2 : 3;
  return t;
}

struct DecodeRuns {
  int panels, tokens, n_tokens;  // the last of a run
  int threads, shared;           // of a thread block
};

// One run after the other, each with as many thread blocks as reside.
template <auto kernel, typename Products>
cudaError_t launch_runs(const Products& a, const DecodeRuns& runs, DecodeShape shape,
                        const DeviceLimits& limits, cudaStream_t stream) {
  int registers = 0;
  cudaError_t error = registers_of<kernel>(limits, &registers);
  if (error != cudaSuccess) return error;
  const int resident =
      resident_blocks(limits, registers, runs.threads, runs.shared) * limits.processors;
  const auto grid = static_cast<unsigned>(std::min(runs.panels, resident));
  for (; shape.first_token < runs.tokens && error == cudaSuccess;
       shape.first_token += runs.n_tokens) {
    error = launch(stream, grid, static_cast<unsigned>(runs.threads),
                   static_cast<std::size_t>(runs.shared), kernel, a, shape);
  }
  return error;
}

template <typename F, int block, int min_kind, int n_tokens>
cudaError_t launch_decode(const BandProduct& a, const DeviceLimits& limits, cudaStream_t stream,
                          const Tuning& tuning) {
  Tuning t = decode_tuning<F, block, n_tokens>(tuning);
  if (t.stages < 2 || t.stages > 3) return cudaErrorInvalidValue;
  if (t.decode_warps != 4 && t.decode_warps != 8 && t.decode_warps != 16) {
    return cudaErrorInvalidValue;
  }
  const auto shared = [&] {
    return decode_shared<F, block, min_kind, n_tokens>(t.decode_warps, t.stages);
  };
  while (shared() > limits.shared_per_block) {
    if (t.decode_warps > 4) {
      t.decode_warps /= 2;
    } else if (t.stages > 2) {
      --t.stages;
    } else if constexpr (n_tokens > 8) {
      return launch_decode<F, block, min_kind, 8>(a, limits, stream, tuning);
    } else {
      return cudaErrorInvalidValue;
    }
  }
  const int ring_bytes = t.stages * Segment<F, block, min_kind>::kStageBytes;
  return launch_runs<packed_decode<F, block, min_kind, n_tokens>>(
      a, {a.panels, a.x.tokens, n_tokens, 32 * t.decode_warps, shared()}, {t.stages, ring_bytes, 0},
      limits, stream);
}

// Three runs of 16 tokens take less than a tile of 64, on an H100 too.
inline constexpr int kMostDecodeTokens = 48;

// Tokens of a run or a tile, of more than 4.
inline int tile_of(int tokens, const Tuning& tuning) {
  if (tuning.tile_tokens != 0) return tuning.tile_tokens;
  return tokens <= 8 ? 8 : tokens <= kMostDecodeTokens ? 16 : kGemmTokens;
}

// As many rows as may share a tile. Where that leaves processors idle, few, whose columns four
// warps share if there is room for their activations.
template <typename Fits>
GemmShape gemm_shape(const BandProduct& a, const DeviceLimits& limits, const Tuning& t,
                     const Fits& fits) {
  const int tiles = divide_up(a.x.tokens, kGemmTokens);
  const int panels = std::clamp(a.panels * tiles / limits.processors, 1, 8);
  GemmShape s{t.panels, t.ways, t.stages};
  if (s.ways == 0) s.ways = panels < 8 && fits({2, 4, 2}) ? 4 : 1;
  if (s.panels == 0) s.panels = s.ways == 4 ? 2 : panels;
  if (s.stages == 0) s.stages = 2;
  return s;
}

template <typename F, int block, int min_kind>
cudaError_t launch_gemm(const BandProduct& a, const DeviceLimits& limits, cudaStream_t stream,
                        const Tuning& tuning) {
  const auto shared = [segments = segments_of(a.band.cols)](GemmShape s) {
    return gemm_shared<F, block, min_kind>(s, segments);
  };
  const auto fits = [&](GemmShape s) { return shared(s) <= limits.shared_per_block; };
  GemmShape s = gemm_shape(a, limits, tuning, fits);
  const bool good = (s.ways == 1 || s.ways == 4) && s.panels >= 1 && s.stages >= 2 &&
                    s.stages <= 3 && 32 * s.panels * s.ways <= kGemmThreads;
  if (!good) return cudaErrorInvalidValue;
  while (!fits(s)) {
    if (s.stages > 2) {
      --s.stages;
    } else if (s.ways > 1) {
      s.ways = 1;
    } else if (s.panels > 1) {
      s.panels /= 2;
    } else {
      return cudaErrorInvalidValue;
    }
  }
  constexpr auto kernel = packed_gemm<F, block, min_kind>;
  int registers = 0;
  const cudaError_t error = registers_of<kernel>(limits, &registers);
  if (error != cudaSuccess) return error;
  const dim3 grid(static_cast<unsigned>(divide_up(a.panels, s.panels)),
                  static_cast<unsigned>(divide_up(a.x.tokens, kGemmTokens)));
  return launch(stream, grid, static_cast<unsigned>(32 * s.panels * s.ways),
                static_cast<std::size_t>(shared(s)), kernel, a, s);
}

template <typename F, int block, int min_kind>
cudaError_t by_tokens(const BandProduct& a, const DeviceLimits& limits, cudaStream_t stream,
                      const Tuning& tuning) {
  if (a.x.tokens <= 4) {
    return launch_decode<F, block, min_kind, 4>(a, limits, stream, tuning);
  }
  switch (tile_of(a.x.tokens, tuning)) {
    case 8:
      return launch_decode<F, block, min_kind, 8>(a, limits, stream, tuning);
    case 16: {
      // Of 32 columns' blocks, registers have no room for the factors of 16 tokens.
      constexpr int n_tokens = block == 32 ? 8 : 16;
      return launch_decode<F, block, min_kind, n_tokens>(a, limits, stream, tuning);
    }
    case kGemmTokens:
      return launch_gemm<F, block, min_kind>(a, limits, stream, tuning);
    default:
      return cudaErrorInvalidValue;
  }
}

template <typename F, int block>
cudaError_t by_minimum(const BandProduct& a, const DeviceLimits& limits, cudaStream_t stream,
                       const Tuning& tuning) {
  switch (a.band.min_kind) {
    case MinKind::zero:
      return by_tokens<F, block, 0>(a, limits, stream, tuning);
    case MinKind::midrise:
      return by_tokens<F, block, 1>(a, limits, stream, tuning);
    case MinKind::f16:
      return by_tokens<F, block, 2>(a, limits, stream, tuning);
  }
  return cudaErrorInvalidValue;
}

}  // namespace detail

template <typename F>
cudaError_t launch_band(const BandProduct& a, const DeviceLimits& limits, cudaStream_t stream,
                        const Tuning& tuning) {
  switch (a.band.block) {
    case 32:
      return detail::by_minimum<F, 32>(a, limits, stream, tuning);
    case 64:
      return detail::by_minimum<F, 64>(a, limits, stream, tuning);
    case 128:
      return detail::by_minimum<F, 128>(a, limits, stream, tuning);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace tenfold::cuda
