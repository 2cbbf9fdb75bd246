#pragma once
// The operations on a GPU, in order on one stream. Packed weights meet int8 activations as on the
// CPU, but in another order of sums; float weights go through cuBLAS, in their own type.

#include <cublas_v2.h>
#include <cuda_runtime_api.h>

#include <array>
#include <deque>
#include <optional>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cuda/activations.h"
#include "kernels/cuda/backend/memory.h"
#include "kernels/cuda/backend/resident.h"
#include "kernels/cuda/backend/tuning_table.h"
#include "kernels/cuda/module.h"
#include "kernels/cuda/ops.h"

namespace tenfold::cuda {

class CudaBackend : public Backend {
 public:
  // Throws device where there is no such GPU or it is too old.
  explicit CudaBackend(const ModuleOptions& options);
  ~CudaBackend() override;
  CudaBackend(const CudaBackend&) = delete;
  CudaBackend& operator=(const CudaBackend&) = delete;

  std::string description() const override;
  Buffer allocate(std::size_t bytes) override;
  void to_device(void* to, const void* from, std::size_t bytes) override;
  void to_host(void* to, const void* from, std::size_t bytes) override;
  void copy(void* to, const void* from, std::size_t bytes) override;
  bool shares_host_memory() const noexcept override { return false; }
  const float* on_host(const float* x, std::size_t n) override;
  void forget(const MatrixView& weight) override;
  void forget(const float* values) override;
  void forget_all() override;
  void run(const StepKey& key, const std::function<void()>& step) override;
  bool begin_tuning() override;
  void end_tuning() override;
  void place(const TokenPlaces& places) override;

  void linear(std::span<const Linear> parts, const float* x, std::int64_t ldx,
              std::int64_t tokens) override;
  bool host_linear(const Linear& part, const float* x, std::int64_t ldx,
                   std::int64_t tokens) override;
  void rms_norm(const float* x, const float* weight, float eps, std::int64_t tokens,
                std::int64_t dim, float* y) override;
  void layer_norm(const float* x, const float* weight, const float* bias, float eps,
                  std::int64_t tokens, std::int64_t dim, float* y) override;
  void rope(float* x, const float* cos, const float* sin, std::int64_t tokens, std::int64_t heads,
            std::int64_t head_dim, bool interleaved) override;
  void store_kv(const KvLayer& kv, const float* k, const float* v) override;
  void rope_and_store_kv(const KvLayer& kv, const float* cos, const float* sin, std::int64_t tokens,
                         std::int64_t heads, bool interleaved, float* q, float* k,
                         const float* v) override;
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
  bool top_k(const float* logits, std::int64_t vocab, std::int64_t rows, int k,
             TopLogit* best) override;

 private:
  // A step that was run and, from the second time on, is recorded; and what that takes for granted.
  struct Graph {
    StepKey key;
    int stride;  // of page tables
    std::uint64_t version;
    cudaGraphExec_t exec;
  };
  void make_current();
  static void destroy(Graph& graph) noexcept;
  void drop_graphs() noexcept;
  std::uint64_t version() const noexcept { return allocations_ + weights_.version(); }
  void run_whole(const std::function<void()>& step);
  cudaGraphExec_t record(const std::function<void()>& step);
  Buffer allocate_within(std::size_t bytes);  // an operation, whose weights stay
  template <typename T>
  T* scratch(Scratch& memory, std::size_t count);

  // An input as the packed kernels take it, for one input map and one cut into blocks.
  struct Prepared {
    InputMap map;  // of the host
    std::array<ActivationBand, kMaxBands> cuts{};
    std::array<DeviceInput, kMaxBands> inputs{};
    Scratch memory;
  };
  // Rows that the next operation is likely to round: then one launch makes and rounds them.
  // Everything else first makes them (make_rows). A norm's weights are the host's.
  struct Pending {
    MadeRows rows;
    std::int64_t values;  // of y
  };
  void defer(const MadeRows& rows, std::int64_t values);
  void make_rows();
  MadeRows on_device(const MadeRows& rows);
  bool reads_pending(const float* x, std::int64_t ldx, std::int64_t tokens) const;
  void prepare(const ActivationSource& from, std::span<const ActivationBand> bands, int tokens,
               std::byte* memory);
  const Prepared& prepared_for(const InputMap& map, const DeviceMatrix& matrix, const float* x,
                               std::int64_t ldx, std::int64_t tokens);
  DeviceProduct packed_product(const Linear& part, const DeviceMatrix& matrix,
                               const Prepared& input, bool first);
  void multiply();  // products_, of which there are none then
  Tuning tuned(std::span<const DeviceProduct> products);
  float seconds_of(std::span<const DeviceProduct> products, const Tuning& tuning);
  void float_product(const Linear& part, const DeviceMatrix& matrix, std::size_t band,
                     const float* x, std::int64_t ldx, std::int64_t tokens, bool first);
  // Rows of float weights without gaps, x [tokens, ldx] of the same type.
  struct FloatProduct {
    const void* weight = nullptr;
    const void* x = nullptr;
    Format format = Format::f32;
    std::int64_t rows = 0, cols = 0, tokens = 0, ldx = 0, ldy = 0;
    float* y = nullptr;
    bool accumulate = false;
  };
  void multiply(const FloatProduct& product);

  Activations activations_;
  cudaDeviceProp properties_{};
  DeviceLimits limits_;
  cudaStream_t stream_ = nullptr;
  cublasHandle_t cublas_ = nullptr;
  Resident weights_;
  TuningTable table_;
  bool tuning_ = false;
  Buffer workspace_;  // of cuBLAS
  std::uint64_t allocations_ = 0;
  std::vector<Graph> graphs_;
  std::deque<Prepared> prepared_;  // the first n_prepared_ of them, of the group at hand
  std::size_t n_prepared_ = 0;
  std::optional<Pending> pending_;
  std::vector<DeviceProduct> products_;  // of the group at hand that wait for their launch
  Scratch pinned_, converted_, attention_, targets_, nll_, top_, places_memory_;
  Scratch host_weight_, host_x_, host_y_;  // copies of what the host has
  DevicePlaces places_;
  std::vector<std::int32_t> flat_places_;
};

}  // namespace tenfold::cuda
