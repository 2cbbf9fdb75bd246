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

struct Candidate {
  float value;
  int index;
};
__device__ __forceinline__ Candidate better(Candidate a, Candidate b) {
  return b.value > a.value || (b.value == a.value && b.index < a.index) ? b : a;
}

__global__ void __launch_bounds__(kThreads)
    row_argmax(const float* logits, std::int64_t vocab, std::int32_t* best) {
  __shared__ Candidate candidates[kThreads / 32];
  begin_kernel();
  const float* row = logits + blockIdx.x * vocab;
  Candidate mine{-INFINITY, static_cast<int>(vocab)};
  for (auto i = static_cast<int>(threadIdx.x); i < vocab; i += kThreads) {
    mine = better(mine, {row[i], i});
  }
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) {
    mine = better(mine, {__shfl_xor_sync(0xffffffffu, mine.value, mask),
                         __shfl_xor_sync(0xffffffffu, mine.index, mask)});
  }
  if (threadIdx.x % 32 == 0) candidates[threadIdx.x / 32] = mine;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (const Candidate& other : candidates) mine = better(mine, other);
  best[blockIdx.x] = mine.index < vocab ? mine.index : 0;
}

}  // namespace

cudaError_t nll(const float* logits, std::int64_t vocab, const std::int32_t* targets,
                std::int64_t n, double* nll, cudaStream_t stream) {
  if (n == 0) return cudaSuccess;
  return launch(stream, static_cast<unsigned>(n), kThreads, 0, row_nll, logits, vocab, targets,
                nll);
}

cudaError_t argmax(const float* logits, std::int64_t vocab, std::int64_t n, std::int32_t* best,
                   cudaStream_t stream) {
  if (n == 0) return cudaSuccess;
  return launch(stream, static_cast<unsigned>(n), kThreads, 0, row_argmax, logits, vocab, best);
}

}  // namespace tenfold::cuda
