#include "kernels/cpu/cpu_backend.h"

#include <fmt/core.h>

#include <algorithm>

#include "kernels/cpu/isa.h"
#include "kernels/formats/codec.h"

namespace tenfold {
namespace {

constexpr std::int64_t kElementsPerChunk =
    std::int64_t{16} * 1024;  // elementwise work worth a thread's wake-up

}  // namespace

CpuBackend::CpuBackend(const KernelTable& kernels, int threads, Activations activations,
                       Backend* device)
    : kernels_(&kernels),
      activations_(activations),
      device_(device),
      pool_(threads),
      scratch_(static_cast<std::size_t>(threads)) {}

std::string CpuBackend::description() const {
  return fmt::format("CPU {}, {} thread{}{}", kernels_->isa, pool_.size(),
                     pool_.size() == 1 ? "" : "s",
                     activations_ == Activations::int8x2 ? ", int8x2 activations" : "");
}

void CpuBackend::rms_norm(const float* x, const float* weight, float eps, std::int64_t tokens,
                          std::int64_t dim, float* y) {
  const std::int64_t rows = std::max<std::int64_t>(1, kElementsPerChunk / dim);
  pool_.run(static_cast<int>((tokens + rows - 1) / rows), [&](int chunk, int) {
    for (std::int64_t t = chunk * rows; t < std::min(tokens, (chunk + 1) * rows); ++t) {
      kernels_->rms_norm(x + t * dim, weight, eps, dim, y + t * dim);
    }
  });
}

void CpuBackend::layer_norm(const float* x, const float* weight, const float* bias, float eps,
                            std::int64_t tokens, std::int64_t dim, float* y) {
  const std::int64_t rows = std::max<std::int64_t>(1, kElementsPerChunk / dim);
  pool_.run(static_cast<int>((tokens + rows - 1) / rows), [&](int chunk, int) {
    for (std::int64_t t = chunk * rows; t < std::min(tokens, (chunk + 1) * rows); ++t) {
      kernels_->layer_norm(x + t * dim, weight, bias, eps, dim, y + t * dim);
    }
  });
}

void CpuBackend::rope(float* x, const float* cos, const float* sin, std::int64_t tokens,
                      std::int64_t heads, std::int64_t head_dim, bool interleaved) {
  const std::int64_t half = head_dim / 2;
  const std::int64_t rows = std::max<std::int64_t>(1, kElementsPerChunk / (heads * head_dim));
  pool_.run(static_cast<int>((tokens + rows - 1) / rows), [&](int chunk, int) {
    for (std::int64_t t = chunk * rows; t < std::min(tokens, (chunk + 1) * rows); ++t) {
      const float* c = cos + t * half;
      const float* s = sin + t * half;
      for (std::int64_t h = 0; h < heads; ++h) {
        float* v = x + (t * heads + h) * head_dim;
        for (std::int64_t i = 0; i < half; ++i) {
          float& a = interleaved ? v[2 * i] : v[i];
          float& b = interleaved ? v[2 * i + 1] : v[i + half];
          const float a0 = a;
          const float b0 = b;
          a = a0 * c[i] - b0 * s[i];
          b = a0 * s[i] + b0 * c[i];
        }
      }
    }
  });
}

void CpuBackend::silu_mul(const float* gate, const float* up, std::int64_t n, float* y) {
  pool_.run(static_cast<int>((n + kElementsPerChunk - 1) / kElementsPerChunk), [&](int chunk, int) {
    const std::int64_t begin = chunk * kElementsPerChunk;
    kernels_->silu_mul(gate + begin, up + begin, std::min(kElementsPerChunk, n - begin), y + begin);
  });
}

void CpuBackend::relu(float* x, std::int64_t n) {
  pool_.run(static_cast<int>((n + kElementsPerChunk - 1) / kElementsPerChunk), [&](int chunk, int) {
    const std::int64_t begin = chunk * kElementsPerChunk;
    kernels_->relu(x + begin, std::min(kElementsPerChunk, n - begin));
  });
}

void CpuBackend::embed_rows(const MatrixView& table, const std::int32_t* ids, std::int64_t tokens,
                            float* y, bool accumulate) {
  float* row = scratch_[0].get<float>(static_cast<std::size_t>(table.cols));
  for (std::int64_t t = 0; t < tokens; ++t) {
    float* out = y + t * table.cols;
    dequantize_row(table, ids[t], accumulate ? row : out);
    if (!accumulate) continue;
    for (std::int64_t c = 0; c < table.cols; ++c) out[c] += row[c];
  }
}

void CpuBackend::gather_rows(const float* x, const std::int32_t* rows, std::int64_t n,
                             std::int64_t dim, float* y) {
  for (std::int64_t i = 0; i < n; ++i) {
    std::memcpy(y + i * dim, x + rows[i] * dim, static_cast<std::size_t>(dim) * sizeof(float));
  }
}

void CpuBackend::nll(const float* logits, std::int64_t vocab, std::span<const std::int32_t> targets,
                     double* nll) {
  pool_.run(static_cast<int>(targets.size()), [&](int i, int) {
    const float* row = logits + i * vocab;
    nll[i] = kernels_->log_sum_exp(row, vocab) -
             static_cast<double>(row[targets[static_cast<std::size_t>(i)]]);
  });
}

std::unique_ptr<Backend> make_cpu_backend(const CpuOptions& options, Backend* device) {
  const int threads = options.threads > 0 ? options.threads : default_thread_count();
  return std::make_unique<CpuBackend>(choose_kernels(options.isa), threads, options.activations,
                                      device);
}

}  // namespace tenfold
