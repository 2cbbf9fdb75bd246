// What is asked of logits: a thread block for each row.

#include "kernels/cuda/exp.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/reduce.cuh"

namespace tenfold::cuda {
namespace {

constexpr int kThreads = 512;

__global__ void __launch_bounds__(kThreads)
    row_nll(const float* logits, std::int64_t vocab, const std::int32_t* targets, double* nll) {
  __shared__ float maxima[32];
  __shared__ double sums[32];
  begin_kernel();
  const float* row = logits + blockIdx.x * vocab;
  float highest = -INFINITY;
  for (std::int64_t i = threadIdx.x; i < vocab; i += kThreads) highest = fmaxf(highest, row[i]);
  highest = block_reduce(highest, Max{}, maxima);
  double sum = 0;
  for (std::int64_t i = threadIdx.x; i < vocab; i += kThreads) {
    const float logit = row[i];
    sum += isnan(logit) ? logit : exp_of(__fsub_rn(logit, highest));
  }
  sum = block_reduce(sum, Add{}, sums);
  if (threadIdx.x == 0) {
    nll[blockIdx.x] = double{highest} + log(sum) - double{row[targets[blockIdx.x]]};
  }
}

constexpr int kTopThreads = 1024;
constexpr int kMostHeld = 1024;

using Rank = unsigned long long;

// Larger for what is better, never 0 and of each index another.
__device__ __forceinline__ Rank rank_of(float logit, int index) {
  const unsigned bits = __float_as_uint(__fadd_rn(logit, 0.0f));  // -0 ties with 0
  const unsigned ordered = isnan(logit) ? ~0u : (bits >> 31) != 0 ? ~bits : bits ^ 0x80000000u;
  return Rank{ordered} << 32 | ~static_cast<unsigned>(index);
}
__device__ __forceinline__ TopLogit logit_of(Rank rank) {
  const auto ordered = static_cast<unsigned>(rank >> 32);
  const unsigned bits = (ordered >> 31) != 0 ? ordered ^ 0x80000000u : ~ordered;
  return {__uint_as_float(bits), static_cast<std::int32_t>(~static_cast<unsigned>(rank))};
}

// One that k ranks or more reach: only k, where there are that many. count(bound): those that do.
template <typename Count>
__device__ __forceinline__ Rank bound_of(int k, const Count& count) {
  Rank bound = 0;
  for (int bit = 63; bit >= 0; --bit) {
    const Rank higher = bound | Rank{1} << bit;
    const int n = count(higher);
    if (n >= k) bound = higher;
    if (n == k) break;
  }
  return bound;
}

// What the k-th best of the threads' best ones reaches is nearly always little more than k.
__global__ void __launch_bounds__(kTopThreads)
    row_top(const float* logits, std::int64_t vocab, int k, TopLogit* best) {
  __shared__ Rank held[kMostHeld];
  __shared__ int n_held;
  begin_kernel();
  const float* row = logits + blockIdx.x * vocab;
  const auto n = static_cast<int>(vocab), thread = static_cast<int>(threadIdx.x);
  Rank mine = 0;
#pragma unroll 8
  for (int i = thread; i < n; i += kTopThreads) mine = max(mine, rank_of(row[i], i));
  const auto hold = [&](Rank bound) {
    __syncthreads();
    if (thread == 0) n_held = 0;
    __syncthreads();
    for (int i = thread; i < n && mine >= bound; i += kTopThreads) {
      const Rank rank = rank_of(row[i], i);
      if (rank < bound) continue;
      const int at = atomicAdd(&n_held, 1);
      if (at < kMostHeld) held[at] = rank;
    }
    __syncthreads();
    return n_held;
  };
  int found = hold(bound_of(k, [&](Rank bound) { return __syncthreads_count(mine >= bound); }));
  if (found > kMostHeld) {
    found = hold(bound_of(k, [&](Rank bound) {
      int reached = 0;
      for (int first = 0; first < n; first += kTopThreads) {
        const int i = first + thread;
        reached += __syncthreads_count(i < n && rank_of(row[i], i) >= bound);
      }
      return reached;
    }));
  }
  if (thread >= found) return;
  int place = 0;
  for (int i = 0; i < found; ++i) place += held[i] > held[thread] ? 1 : 0;
  if (place < k) best[std::int64_t{blockIdx.x} * k + place] = logit_of(held[thread]);
}

}  // namespace

cudaError_t nll(const float* logits, std::int64_t vocab, const std::int32_t* targets,
                std::int64_t n, double* nll, cudaStream_t stream) {
  if (n == 0) return cudaSuccess;
  return launch(stream, static_cast<unsigned>(n), kThreads, 0, row_nll, logits, vocab, targets,
                nll);
}

cudaError_t top_k(const float* logits, std::int64_t vocab, std::int64_t n, int k, TopLogit* best,
                  cudaStream_t stream) {
  if (k < 1 || k > kMostTopLogits || k > vocab) return cudaErrorInvalidValue;
  if (n == 0) return cudaSuccess;
  return launch(stream, static_cast<unsigned>(n), kTopThreads, 0, row_top, logits, vocab, k, best);
}

}  // namespace tenfold::cuda
