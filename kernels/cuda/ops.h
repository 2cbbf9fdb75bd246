#pragma once
// The operations of a forward pass other than products, on a CUDA device; what each means is said
// at Backend. All pointers are to device memory. Each launches on `stream` and returns the launch's
// error: none waits, allocates or looks at what the device holds, so that a graph can capture them,
// and none has a grid that depends on positions. A row's result depends on that row alone, in every
// bit; bits differ between devices, though, and from the CPU's.

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "kernels/backend.h"
#include "kernels/cuda/packed_linear.h"

namespace tenfold::cuda {

// Where each token of a step stands, on the device. Tokens of one sequence that follow each other
// are in order of position.
struct DevicePlaces {
  const std::int32_t* positions = nullptr;  // [tokens]
  const std::int32_t* tables = nullptr;     // [tokens] row of `pages`
  const std::int32_t* pages = nullptr;      // [rows, stride] page ids of a sequence
  int stride = 0;                           // >= pages of the longest sequence of the step
  int tokens = 0;
};

// y may be x in both. weight is null or [dim], as is bias.
cudaError_t rms_norm(const float* x, const float* weight, float eps, std::int64_t tokens,
                     std::int64_t dim, float* y, cudaStream_t stream);
cudaError_t layer_norm(const float* x, const float* weight, const float* bias, float eps,
                       std::int64_t tokens, std::int64_t dim, float* y, cudaStream_t stream);

// The CPU's bits.
cudaError_t rope(float* x, const float* cos, const float* sin, std::int64_t tokens,
                 std::int64_t heads, std::int64_t head_dim, bool interleaved, cudaStream_t stream);

// The CPU's bits, but for NaNs. k, v: [tokens, kv_heads * head_dim].
cudaError_t store_kv(const KvLayer& kv, const DevicePlaces& places, const float* k, const float* v,
                     cudaStream_t stream);

// rope() of q [tokens, heads * head_dim] and of k, then store_kv(): in one launch.
cudaError_t rope_and_store_kv(const KvLayer& kv, const DevicePlaces& places, const float* cos,
                              const float* sin, std::int64_t heads, bool interleaved, float* q,
                              float* k, const float* v, cudaStream_t stream);

// Bytes of scratch, aligned to 16, that attention() needs for a step of so many tokens.
std::size_t attention_scratch(std::int64_t tokens, std::int64_t heads, std::int64_t head_dim,
                              int stride);
// head_dim: even, at most 256; else, and where heads is no multiple of kv_heads,
// cudaErrorInvalidValue. A token's bits depend on its sequence alone: not on the batch, on `stride`
// or on how its context was cut into steps. Only values that are not finite reach further: tokens
// of the step before theirs may become NaN.
cudaError_t attention(const KvLayer& kv, const DevicePlaces& places, const float* q,
                      std::int64_t heads, float scale, float* out, void* scratch,
                      cudaStream_t stream);

// y may be gate.
cudaError_t silu_mul(const float* gate, const float* up, std::int64_t n, float* y,
                     cudaStream_t stream);
cudaError_t relu(float* x, std::int64_t n, cudaStream_t stream);

// A table of rows as it lies on the device, its bands in column order without gaps.
struct DeviceTable {
  DeviceBand bands[kMaxBands];
  int n_bands = 0;
};
// The CPU's bits. ids: [tokens]; dim: columns of all bands; y: [tokens, dim].
cudaError_t embed_rows(const DeviceTable& table, const std::int32_t* ids, std::int64_t tokens,
                       std::int64_t dim, float* y, bool accumulate, cudaStream_t stream);

// y[i, :] = x[rows[i], :]
cudaError_t gather_rows(const float* x, const std::int32_t* rows, std::int64_t n, std::int64_t dim,
                        float* y, cudaStream_t stream);

// NaN where any of the row's logits is.
cudaError_t nll(const float* logits, std::int64_t vocab, const std::int32_t* targets,
                std::int64_t n, double* nll, cudaStream_t stream);
// The k best of each of n rows; where k is out of range, cudaErrorInvalidValue.
cudaError_t top_k(const float* logits, std::int64_t vocab, std::int64_t n, int k, TopLogit* best,
                  cudaStream_t stream);

// What an input map makes of activations, as cuBLAS takes it:
// out[t, c] = x[t * ldx + source[c]] * factor[c], rounded to f32, f16 or bf16. source null: c;
// factor null: 1.
cudaError_t convert_rows(const float* x, std::int64_t ldx, const std::int32_t* source,
                         const float* factor, std::int64_t tokens, std::int64_t cols, Format format,
                         void* out, cudaStream_t stream);
// y[t * ldy + r] = product[t, r] + bias[r], added to y where `accumulate`; bias may be null.
cudaError_t add_bias(const float* product, const float* bias, std::int64_t tokens,
                     std::int64_t rows, float* y, std::int64_t ldy, bool accumulate,
                     cudaStream_t stream);

}  // namespace tenfold::cuda
