#pragma once
// Rounds activations to int8 on the device, as the CPU kernels do (kernels/cpu/packed.inl): the
// same codes, scales and sums, bit for bit. Which blocks get a second code depends on a token's sum
// of squares, which runs in another order than there.

#include <cuda_runtime_api.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/cuda/packed_linear.h"

namespace tenfold::cuda {

// A band's share of a matrix's columns.
struct ActivationBand {
  int col_begin = 0, cols = 0;
  int block = 0;  // columns of a block: 32, 64 or 128; the last may be shorter
  bool operator==(const ActivationBand&) const = default;
};

// Device pointers, as in kernels/cpu/kernel_table.h.
struct ActivationSource {
  const float* x = nullptr;  // [tokens, ldx]
  std::int64_t ldx = 0;
  const std::int32_t* source = nullptr;  // [cols] or null: column c is x[source[c]]
  const float* factor = nullptr;         // [cols] or null: times factor[c]
  float outlier = 0;                     // 0: every block gets a second code
};

// Bytes that the prepared activations of these bands take.
std::size_t activation_bytes(std::span<const ActivationBand> bands, int tokens);
// How they lie in `memory` (aligned to 16 bytes), for DeviceProduct::x.
std::array<DeviceInput, kMaxBands> lay_out_activations(std::span<const ActivationBand> bands,
                                                       int tokens, std::byte* memory);

// Writes what lay_out_activations describes, for all bands in one launch.
cudaError_t launch_prepare(const ActivationSource& from, std::span<const ActivationBand> bands,
                           int tokens, std::byte* memory, cudaStream_t stream);

// Rows y that the same launch makes: the operations of ops.h.
struct MadeRows {
  enum class By { rms_norm, layer_norm, silu_mul };
  By by = By::rms_norm;
  const float* x = nullptr;     // [tokens, dim]
  const float* with = nullptr;  // a norm's weight [dim] or null, or up [tokens, dim]
  const float* bias = nullptr;  // [dim] or null
  float eps = 0;
  std::int64_t dim = 0;
  float* y = nullptr;  // [tokens, dim]
};

// Whether one launch can, and is worth it: not where y is one of the inputs, which all thread
// blocks of a token read.
bool can_make(const MadeRows& rows, const ActivationSource& from,
              std::span<const ActivationBand> bands, int tokens);
// Of y; from.x and from.ldx mean nothing. The bits of one operation after the other.
cudaError_t launch_prepare(const MadeRows& rows, const ActivationSource& from,
                           std::span<const ActivationBand> bands, int tokens, std::byte* memory,
                           cudaStream_t stream);

}  // namespace tenfold::cuda
