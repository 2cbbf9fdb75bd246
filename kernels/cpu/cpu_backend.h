#pragma once
// The CPU backend: a kernel table, a thread pool and per-thread scratch.

#include <vector>

#include "kernels/backend.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/thread_pool.h"

namespace tenfold {

class CpuBackend : public Backend {
 public:
  CpuBackend(const KernelTable& kernels, int threads);
  std::string description() const override;
  void linear(std::span<const Linear> parts, const float* x, std::int64_t ldx,
              std::int64_t tokens) override;
  void rms_norm(const float* x, const float* weight, float eps, std::int64_t tokens,
                std::int64_t dim, float* y) override;
  void layer_norm(const float* x, const float* weight, const float* bias, float eps,
                  std::int64_t tokens, std::int64_t dim, float* y) override;
  void rope(float* x, const float* cos, const float* sin, std::int64_t tokens, std::int64_t heads,
            std::int64_t head_dim, bool interleaved) override;
  void store_kv(const KvLayer& kv, const TokenPlaces& places, const float* k,
                const float* v) override;
  void attention(const KvLayer& kv, const TokenPlaces& places, const float* q, std::int64_t heads,
                 float scale, float* out) override;
  void silu_mul(float* gate, const float* up, std::int64_t n) override;
  void relu(float* x, std::int64_t n) override;
  void embed_rows(const MatrixView& table, std::span<const std::int32_t> ids, float* y,
                  bool accumulate) override;
  void nll(const float* logits, std::int64_t vocab, std::span<const std::int32_t> targets,
           double* nll) override;

 private:
  const KernelTable* kernels_;
  ThreadPool pool_;
  std::vector<Scratch> scratch_;  // one a thread
  Scratch partials_;
};

}  // namespace tenfold
