#pragma once
// The eager operations a model's forward pass is made of. Activations are float32, row-major, one
// row per token, in memory of the device (allocate()). Weights, biases and the weights of norms are
// memory of the host: a device with memory of its own copies them when it first meets them. One
// thread calls a backend at a time. Shapes were proved when the model was loaded; what can go wrong
// is the device, which throws device or out_of_memory.

#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "kernels/buffer.h"
#include "kernels/kv_page.h"
#include "kernels/matrix.h"

namespace tenfold {

// One product of a group that shares its input: y[t, :] = W x[t, :] + bias, added to y where
// `accumulate`. Packed bands meet activations rounded to int8, once for all products of the group
// that share an input map and a cut into blocks.
struct Linear {
  MatrixView weight;            // [rows, cols]
  const float* bias = nullptr;  // [rows] or null
  float* y = nullptr;           // [tokens, ldy]
  std::int64_t ldy = 0;
  bool accumulate = false;
};

// Bytes of the keys (or values) of one KV head in one page; see kv_page.h.
constexpr std::size_t kv_share_bytes(KvType type, std::int64_t head_dim) noexcept {
  const auto row = static_cast<std::size_t>(head_dim);
  constexpr auto kRows = static_cast<std::size_t>(kPageTokens);
  return kRows * (type == KvType::q8    ? row + sizeof(float)
                  : type == KvType::f16 ? 2 * row
                                        : 4 * row);
}

// One layer of the KV cache.
struct KvLayer {
  std::byte* k = nullptr;  // [pages, kv_heads] shares of kv_share_bytes()
  std::byte* v = nullptr;
  std::size_t page_bytes = 0;
  std::int64_t kv_heads = 0, head_dim = 0;
  KvType type = KvType::f16;
};

// Where each token of a step stands: its position, and the pages of its sequence. Tokens of one
// sequence are in order of position. Memory of the host.
struct TokenPlaces {
  std::span<const std::int32_t> positions;           // [tokens]
  std::span<const std::int32_t* const> page_tables;  // [tokens] -> page ids of its sequence
};

// What a recorded step depends on beside the memory it works in and the weights.
struct StepKey {
  const void* model = nullptr;
  const void* kv = nullptr;
  std::int64_t tokens = 0, logit_rows = 0;
  bool operator==(const StepKey&) const = default;
};

// A token and its logit.
struct TopLogit {
  float logit;
  std::int32_t token;
  bool operator==(const TopLogit&) const = default;
};
inline constexpr int kMostTopLogits = 64;  // of a row

// Query heads that may share one KV head; the model loader refuses more.
inline constexpr std::int64_t kMaxHeadGroup = 64;

class Backend {
 public:
  virtual ~Backend() = default;
  virtual std::string description() const = 0;  // "CPU avx2, 2 threads"

  // Memory of the device, for activations and the KV cache.
  virtual Buffer allocate(std::size_t bytes) { return Buffer(bytes); }
  // Copies, in the order of the operations; memory of the host may be used on return.
  virtual void to_device(void* to, const void* from, std::size_t bytes) { copy(to, from, bytes); }
  virtual void to_host(void* to, const void* from, std::size_t bytes) { copy(to, from, bytes); }
  virtual void copy(void* to, const void* from, std::size_t bytes) { std::memcpy(to, from, bytes); }
  // False: what the device reads and writes is out of the host's reach.
  virtual bool shares_host_memory() const noexcept { return true; }
  // n values of the device where the host can read them, until the next call.
  virtual const float* on_host(const float* x, std::size_t /*n*/) { return x; }
  // The weights (or a vector of them) were changed, or their memory was given back.
  virtual void forget(const MatrixView& /*weight*/) {}
  virtual void forget(const float* /*values*/) {}
  virtual void forget_all() {}
  // Runs step(), whose operations the key, memory and weights determine: a device may record them
  // and replay them another time without calling it.
  virtual void run(const StepKey& /*key*/, const std::function<void()>& step) { step(); }

  // Until end_tuning(): products are timed in every way they can be launched, and may give wrong
  // results. False where there is nothing to choose.
  virtual bool begin_tuning() { return false; }
  virtual void end_tuning() {}  // throws io where what was found cannot be kept

  // The tokens that the following store_kv() and attention() are about; what the spans point to
  // stays until then.
  virtual void place(const TokenPlaces& places) = 0;

  virtual void linear(std::span<const Linear> parts, const float* x, std::int64_t ldx,
                      std::int64_t tokens) = 0;
  // The same of one product of memory of the host, on a device with memory of its own. False, and
  // nothing done, where that device does not take such a product, or is not worth the way there.
  virtual bool host_linear(const Linear& /*part*/, const float* /*x*/, std::int64_t /*ldx*/,
                           std::int64_t /*tokens*/) {
    return false;
  }
  // Norms and silu_mul() may be left to the operation after them, before which none of their memory
  // is given back: a linear() of y can round it where it is made. y may be x.
  virtual void rms_norm(const float* x, const float* weight, float eps, std::int64_t tokens,
                        std::int64_t dim, float* y) = 0;
  virtual void layer_norm(const float* x, const float* weight, const float* bias, float eps,
                          std::int64_t tokens, std::int64_t dim, float* y) = 0;
  // Rotates pairs in place: (2i, 2i+1) where `interleaved`, else (i, i + head_dim/2).
  // cos, sin: [tokens, head_dim / 2]. x: [tokens, heads * head_dim].
  virtual void rope(float* x, const float* cos, const float* sin, std::int64_t tokens,
                    std::int64_t heads, std::int64_t head_dim, bool interleaved) = 0;
  virtual void store_kv(const KvLayer& kv, const float* k, const float* v) = 0;
  // rope() of q and k, then store_kv(). tokens: all that were placed.
  virtual void rope_and_store_kv(const KvLayer& kv, const float* cos, const float* sin,
                                 std::int64_t tokens, std::int64_t heads, bool interleaved,
                                 float* q, float* k, const float* v) {
    rope(q, cos, sin, tokens, heads, kv.head_dim, interleaved);
    rope(k, cos, sin, tokens, kv.kv_heads, kv.head_dim, interleaved);
    store_kv(kv, k, v);
  }
  // Causal: a token sees positions 0 ... its own. q, out: [tokens, heads * head_dim].
  virtual void attention(const KvLayer& kv, const float* q, std::int64_t heads, float scale,
                         float* out) = 0;
  // y = silu(gate) * up; y may be gate.
  virtual void silu_mul(const float* gate, const float* up, std::int64_t n, float* y) = 0;
  virtual void relu(float* x, std::int64_t n) = 0;
  // y[t, :] = row ids[t] of the table (added to y where `accumulate`). ids: [tokens].
  virtual void embed_rows(const MatrixView& table, const std::int32_t* ids, std::int64_t tokens,
                          float* y, bool accumulate) = 0;
  // y[i, :] = x[rows[i], :]. rows: [n].
  virtual void gather_rows(const float* x, const std::int32_t* rows, std::int64_t n,
                           std::int64_t dim, float* y) = 0;
  // nll[i] = -log softmax(logits[i])[targets[i]], in double. Targets and nll: memory of the host.
  virtual void nll(const float* logits, std::int64_t vocab, std::span<const std::int32_t> targets,
                   double* nll) = 0;
  // Writes the k best of each row of logits [rows, vocab] to memory of the host [rows, k], best
  // first: lower tokens win ties, NaNs come before all else. 1 <= k <= min(kMostTopLogits, vocab).
  // False: not here, where the host can read all logits.
  virtual bool top_k(const float* /*logits*/, std::int64_t /*vocab*/, std::int64_t /*rows*/,
                     int /*k*/, TopLogit* /*best*/) {
    return false;
  }
};

// How activations meet packed weights. int8: one code a value in steps of its block's largest, and
// a second one for the rest in the blocks whose outliers make those steps too large for the token.
// int8x2: two codes everywhere, about 15 bits.
enum class Activations { int8, int8x2 };

// A block of n columns gets a second code where its largest squared, times n, is more than so many
// times the token's sum of squares (docs/design.md, "What int8 activations cost").
constexpr float outlier_threshold(Activations activations) noexcept {
  return activations == Activations::int8x2 ? 0.0f : 4.0f;
}

struct CpuOptions {
  int threads = 0;  // 0: default_thread_count()
  std::string isa;  // "": the best this machine has
  Activations activations = Activations::int8;
};
// device: may take large products (host_linear), and outlives the backend; or null.
std::unique_ptr<Backend> make_cpu_backend(const CpuOptions& options, Backend* device = nullptr);

}  // namespace tenfold
