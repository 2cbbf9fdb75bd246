#pragma once
// The CPU backend: a kernel table, a thread pool and per-thread scratch.

#include <array>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/thread_pool.h"

namespace tenfold {

// Consecutive tokens of one sequence, whose queries a kernel call takes together.
struct AttentionTile {
  std::int64_t first, n_tokens;
};

class CpuBackend : public Backend {
 public:
  CpuBackend(const KernelTable& kernels, int threads, Activations activations,
             Backend* device = nullptr);
  std::string description() const override;
  void linear(std::span<const Linear> parts, const float* x, std::int64_t ldx,
              std::int64_t tokens) override;
  void rms_norm(const float* x, const float* weight, float eps, std::int64_t tokens,
                std::int64_t dim, float* y) override;
  void layer_norm(const float* x, const float* weight, const float* bias, float eps,
                  std::int64_t tokens, std::int64_t dim, float* y) override;
  void rope(float* x, const float* cos, const float* sin, std::int64_t tokens, std::int64_t heads,
            std::int64_t head_dim, bool interleaved) override;
  void place(const TokenPlaces& places) override { places_ = places; }
  void store_kv(const KvLayer& kv, const float* k, const float* v) override;
  void attention(const KvLayer& kv, const float* q, std::int64_t heads, float scale,
                 float* out) override;
  void silu_mul(const float* gate, const float* up, std::int64_t n, float* y) override;
  void relu(float* x, std::int64_t n) override;
  void embed_rows(const MatrixView& table, const std::int32_t* ids, std::int64_t tokens, float* y,
                  bool accumulate) override;
  void gather_rows(const float* x, const std::int32_t* rows, std::int64_t n, std::int64_t dim,
                   float* y) override;
  void nll(const float* logits, std::int64_t vocab, std::span<const std::int32_t> targets,
           double* nll) override;

 private:
  static constexpr std::size_t kMaxParts = 8;
  // An input as packed kernels read it, for one input map and one cut into blocks.
  struct Prepared {
    InputMap map;
    std::array<PreparedBand, kMaxBands> bands;
    int n_bands = 0;
    PreparedInput input;
    Scratch codes, scale, sum, second;
  };
  // Bands of a part that one kernel call walks: packed ones together, a float one alone.
  struct Run {
    bool packed = false;
    LinearArgs plain;
    PackedArgs args;
  };
  struct Part {
    std::array<PackedBand, kMaxBands> bands;
    std::array<Run, kMaxBands> runs;
    int n_runs = 0;
    std::int64_t rows = 0, chunk_rows = 0;
    int first_chunk = 0;
  };
  bool taken_by_device(const Linear& part, const float* x, std::int64_t ldx, std::int64_t tokens);
  void plan_part(const Linear& linear, const float* x, std::int64_t ldx, std::int64_t tokens,
                 Part& part);
  const PreparedInput& prepared_for(const MatrixView& weight, std::int64_t tokens,
                                    std::span<PackedBand> bands);
  void prepare_inputs(const float* x, std::int64_t ldx, std::int64_t tokens);
  const float* mapped_input(const MatrixView& weight, const float* x, std::int64_t ldx,
                            std::int64_t tokens);
  void run_rows(const Part& part, std::int64_t begin, std::int64_t end, int thread);

  const KernelTable* kernels_;
  Activations activations_;
  Backend* device_;
  TokenPlaces places_;
  ThreadPool pool_;
  std::vector<Scratch> scratch_;  // one a thread
  Scratch partials_;
  std::vector<AttentionTile> tiles_;
  std::array<Part, kMaxParts> parts_;
  std::array<Prepared, kMaxParts> prepared_;
  std::size_t n_prepared_ = 0;
  std::array<Scratch, kMaxParts> mapped_;  // float inputs after a map
  std::size_t n_mapped_ = 0;
};

}  // namespace tenfold
