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
  constexpr int kDevices = 64;
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

// Found best on an H100 (docs/gpu.md): many warps with two segments each where two such thread
// blocks reside. Else, of few tokens half as many that look further ahead; of more they stay, so
// that each has the activations of short rows in its registers.
template <typename F, int block, int n_tokens>
Tuning decode_tuning(Tuning t) {
  constexpr bool many_warps = kDecodeBlocks<F, block, n_tokens> == 2;
  if (t.decode_warps == 0) t.decode_warps = many_warps || n_tokens > 4 ? 16 : 8;
  if (t.stages == 0) t.stages = many_warps || F::bits == 8 || block == 32 ? 2 : 3;
  return t;
}

// Runs of n_tokens tokens, one after the other.
template <typename F, int block, int min_kind, int n_tokens>
cudaError_t launch_decode(const BandProduct& a, const DeviceLimits& limits, bool overlap,
                          cudaStream_t stream, const Tuning& tuning) {
  Tuning t = decode_tuning<F, block, n_tokens>(tuning);
  if (t.stages < 2 || t.stages > 3) return cudaErrorInvalidValue;
  if (t.decode_warps != 4 && t.decode_warps != 8 && t.decode_warps != 16) {
    return cudaErrorInvalidValue;
  }
  int shared = decode_shared<F, block, min_kind, n_tokens>(t.decode_warps, t.stages);
  while (shared > limits.shared_per_block && t.decode_warps > 4) {
    t.decode_warps /= 2;
    shared = decode_shared<F, block, min_kind, n_tokens>(t.decode_warps, t.stages);
  }
  constexpr auto kernel = packed_decode<F, block, min_kind, n_tokens>;
  int registers = 0;
  cudaError_t error = registers_of<kernel>(limits, &registers);
  const int threads = 32 * t.decode_warps;
  const int resident = resident_blocks(limits, registers, threads, shared) * limits.processors;
  const auto grid = static_cast<unsigned>(std::min(a.panels, resident));
  for (int token = 0; token < a.x.tokens && error == cudaSuccess; token += n_tokens) {
    error = launch_on(
        stream, overlap, grid, static_cast<unsigned>(threads), static_cast<std::size_t>(shared),
        kernel, a,
        DecodeShape{t.stages, t.stages * Segment<F, block, min_kind>::kStageBytes, token});
  }
  return error;
}

// Three runs of 16 tokens take less than a tile of 64, on an H100 too.
inline constexpr int kMostDecodeTokens = 48;

// As many rows as may share a tile; where that leaves processors idle, fewer, whose columns four
// warps share.
inline GemmShape gemm_shape(const BandProduct& a, const DeviceLimits& limits, const Tuning& t) {
  const int tiles = (a.x.tokens + kGemmTokens - 1) / kGemmTokens;
  const bool wide = (a.panels + 7) / 8 * tiles >= limits.processors;
  GemmShape s{t.panels, t.ways, t.stages};
  if (s.ways == 0) s.ways = wide ? 1 : 4;
  if (s.panels == 0) s.panels = wide ? 8 : 2;
  if (s.stages == 0) s.stages = 2;
  return s;
}

template <typename F, int block, int min_kind>
cudaError_t launch_gemm(const BandProduct& a, const DeviceLimits& limits, bool overlap,
                        cudaStream_t stream, const Tuning& tuning) {
  GemmShape s = gemm_shape(a, limits, tuning);
  const bool good = (s.ways == 1 || s.ways == 4) && s.panels >= 1 && s.stages >= 2 &&
                    s.stages <= 3 && 32 * s.panels * s.ways <= kGemmThreads;
  if (!good) return cudaErrorInvalidValue;
  const int segments = segments_of(a.band.cols);
  int shared = gemm_shared<F, block, min_kind>(s, segments);
  while (shared > limits.shared_per_block && (s.panels > 1 || s.stages > 2 || s.ways > 1)) {
    if (s.panels > 1) {
      s.panels /= 2;
    } else if (s.stages > 2) {
      --s.stages;
    } else {
      s.ways = 1;
    }
    shared = gemm_shared<F, block, min_kind>(s, segments);
  }
  if (shared > limits.shared_per_block) return cudaErrorInvalidValue;
  constexpr auto kernel = packed_gemm<F, block, min_kind>;
  int registers = 0;
  const cudaError_t error = registers_of<kernel>(limits, &registers);
  if (error != cudaSuccess) return error;
  const dim3 grid(static_cast<unsigned>((a.panels + s.panels - 1) / s.panels),
                  static_cast<unsigned>((a.x.tokens + kGemmTokens - 1) / kGemmTokens));
  return launch_on(stream, overlap, grid, static_cast<unsigned>(32 * s.panels * s.ways),
                   static_cast<std::size_t>(shared), kernel, a, s);
}

template <typename F, int block, int min_kind>
cudaError_t by_tokens(const BandProduct& a, const DeviceLimits& limits, bool overlap,
                      cudaStream_t stream, const Tuning& tuning) {
  if (a.x.tokens <= 4) {
    return launch_decode<F, block, min_kind, 4>(a, limits, overlap, stream, tuning);
  }
  const int tile = tuning.tile_tokens != 0           ? tuning.tile_tokens
                   : a.x.tokens <= 8                 ? 8
                   : a.x.tokens <= kMostDecodeTokens ? 16
                                                     : kGemmTokens;
  if (tile == 8) return launch_decode<F, block, min_kind, 8>(a, limits, overlap, stream, tuning);
  if (tile == 16) {
    // Of 32 columns' blocks, registers have no room for the factors of 16 tokens.
    constexpr int n_tokens = block == 32 ? 8 : 16;
    return launch_decode<F, block, min_kind, n_tokens>(a, limits, overlap, stream, tuning);
  }
  if (tile != kGemmTokens) return cudaErrorInvalidValue;
  return launch_gemm<F, block, min_kind>(a, limits, overlap, stream, tuning);
}

template <typename F, int block>
cudaError_t by_minimum(const BandProduct& a, const DeviceLimits& limits, bool overlap,
                       cudaStream_t stream, const Tuning& tuning) {
  switch (a.band.min_kind) {
    case MinKind::zero:
      return by_tokens<F, block, 0>(a, limits, overlap, stream, tuning);
    case MinKind::midrise:
      return by_tokens<F, block, 1>(a, limits, overlap, stream, tuning);
    case MinKind::f16:
      return by_tokens<F, block, 2>(a, limits, overlap, stream, tuning);
  }
  return cudaErrorInvalidValue;
}

}  // namespace detail

template <typename F>
cudaError_t launch_band(const BandProduct& a, const DeviceLimits& limits, bool overlap,
                        cudaStream_t stream, const Tuning& tuning) {
  switch (a.band.block) {
    case 32:
      return detail::by_minimum<F, 32>(a, limits, overlap, stream, tuning);
    case 64:
      return detail::by_minimum<F, 64>(a, limits, overlap, stream, tuning);
    case 128:
      return detail::by_minimum<F, 128>(a, limits, overlap, stream, tuning);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace tenfold::cuda
