#pragma once
// What an ISA unit provides. Plain structs and pointers only: the units include this header and
// must not instantiate anything that another unit could share. Kernels never throw; shapes were
// proved when the model was loaded.
//
// Every sum runs in an order that depends only on the sum's own length, never on how many tokens,
// rows or threads are processed together: prefill, decode and batches give the same bits.

#include <cstddef>
#include <cstdint>

#include "kernels/kv_page.h"

namespace tenfold {

enum class WeightType : int { f32 = 0, f16 = 1, bf16 = 2 };

// y[t * ldy + r] = sum_c W[r, c] * x[t * ldx + c] + bias[r]   (added to y where `accumulate`)
struct LinearArgs {
  const void* weight = nullptr;  // [rows, cols] row-major
  WeightType type = WeightType::f32;
  std::int64_t rows = 0, cols = 0;
  const float* bias = nullptr;  // [rows] or null
  const float* x = nullptr;     // [tokens, ldx]
  std::int64_t ldx = 0, tokens = 0;
  float* y = nullptr;  // [tokens, ldy]
  std::int64_t ldy = 0;
  bool accumulate = false;
};

// Activations as the packed kernels read them: int8 codes with one scale a token and block of at
// most 128 columns, x = scale * code. A second plane holds the rounding errors of the blocks that
// need it, its scale 1/254 of the first's: those with (largest value)^2 * columns > `outlier` * the
// sum of squares of the token's input, whose rounding errors would stand out. Kernels skip it
// where no token of a tile does. Tokens are cut into tiles of packed_tile() tokens; the tile that
// begins at token t lies at planes * t times the size of one token and plane:
//   codes [planes][dwords][tile][4 consecutive columns], scale and sum [planes][blocks][tile],
// and `second` at t times the blocks of one token: [blocks], 1 where the second plane counts.
struct PreparedInput {
  std::int64_t tokens = 0;
  int planes = 1;           // 1: there is no second plane
  float outlier = 0;        // 0: every block needs it
  std::int64_t dwords = 0;  // of one token: 4 columns each, bands padded to 32 columns
  std::int64_t blocks = 0;  // of one token
  std::int8_t* codes = nullptr;
  float* scale = nullptr;
  float* sum = nullptr;            // scale * sum of the block's codes: what a group's minimum meets
  std::uint8_t* second = nullptr;  // where planes == 2
};

// A band's share of the prepared input.
struct PreparedBand {
  std::int64_t col_begin = 0, cols = 0;
  std::int64_t block = 0;                   // columns of a block; the last may be shorter
  std::int64_t dword = 0, first_block = 0;  // where its activations begin
};

struct PrepareArgs {
  const float* x = nullptr;  // [tokens, ldx]
  std::int64_t ldx = 0;
  const std::int32_t* source = nullptr;  // [cols] or null: column c is x[source[c]]
  const float* factor = nullptr;         // [cols] or null: times factor[c]
  const PreparedBand* bands = nullptr;
  int n_bands = 0;
  PreparedInput out;
};

struct PackedBand {
  int format = 0, min_kind = 0;  // ids of Format and MinKind
  std::int64_t cols = 0, group = 0, groups = 0;
  PreparedBand input;
  const std::byte* codes = nullptr;
  const std::byte* scale = nullptr;
  const std::byte* min = nullptr;
  std::int64_t panel_code_bytes = 0, panel_min_bytes = 0;
};

// y[t * ldy + r] = sum over bands of W x + bias[r]   (added to y where `accumulate`)
struct PackedArgs {
  const PackedBand* bands = nullptr;
  int n_bands = 0;
  std::int64_t rows = 0;
  const float* bias = nullptr;  // [rows] or null
  PreparedInput x;
  float* y = nullptr;  // [tokens, ldy]
  std::int64_t ldy = 0;
  bool accumulate = false;
};

// Attention of `n_queries` query vectors (any mix of rows and heads that read one KV head) over
// one chunk of at most kAttentionChunk keys.
inline constexpr std::int64_t kAttentionChunk = 256;  // keys per softmax partial: 4 pages

struct AttentionChunkArgs {
  const void* const* k_pages = nullptr;  // shares of this chunk and KV head: see kv_page.h
  const void* const* v_pages = nullptr;
  const void* next = nullptr;  // the share that will be read next, or null: fetched meanwhile
  KvType type = KvType::f16;
  std::int64_t head_dim = 0;
  float scale = 1;
  std::int64_t n_queries = 0;
  const float* const* q = nullptr;       // [n_queries] -> [head_dim]
  const std::int64_t* n_keys = nullptr;  // [n_queries] keys of this chunk that a query sees, >= 0
  float* max = nullptr;                  // [n_queries] partial softmax: maximum,
  float* sum = nullptr;                  // [n_queries] denominator,
  float* out = nullptr;                  // [n_queries, head_dim] and unnormalized value sum
};

inline constexpr std::int64_t kPackedPanels = 2;  // panels that share the activations they load

struct KernelTable {
  const char* isa;
  // Rows [row_begin, row_end) for all tokens. scratch: linear_scratch(cols) floats.
  void (*linear)(const LinearArgs&, std::int64_t row_begin, std::int64_t row_end,
                 float* scratch) noexcept;
  std::int64_t (*linear_scratch)(std::int64_t cols) noexcept;
  // Tokens of the next tile where `left` are left to process.
  int (*packed_tile)(std::int64_t left) noexcept;
  // Writes the tile of `width` tokens that begins at token t.
  void (*prepare)(const PrepareArgs&, std::int64_t t, int width) noexcept;
  // Panels [panel_begin, panel_end) of 16 rows for all tokens; panel_begin is a multiple of
  // kPackedPanels. scratch: packed_scratch(tokens) floats, 64-byte aligned.
  void (*linear_packed)(const PackedArgs&, std::int64_t panel_begin, std::int64_t panel_end,
                        float* scratch) noexcept;
  std::int64_t (*packed_scratch)(std::int64_t tokens) noexcept;
  // scratch: attention_scratch(n_queries, head_dim) floats.
  void (*attention_chunk)(const AttentionChunkArgs&, float* scratch) noexcept;
  std::int64_t (*attention_scratch)(std::int64_t n_queries, std::int64_t head_dim) noexcept;
  // (max, sum, out) <- merge with another partial; in chunk order.
  void (*attention_merge)(float* max, float* sum, float* out, float max2, float sum2,
                          const float* out2, std::int64_t head_dim) noexcept;
  void (*rms_norm)(const float* x, const float* weight, float eps, std::int64_t dim,
                   float* y) noexcept;
  // weight, bias: [dim] or null.
  void (*layer_norm)(const float* x, const float* weight, const float* bias, float eps,
                     std::int64_t dim, float* y) noexcept;
  // y = silu(gate) * up; y may be gate.
  void (*silu_mul)(const float* gate, const float* up, std::int64_t n, float* y) noexcept;
  void (*relu)(float* x, std::int64_t n) noexcept;
  void (*scale)(float* x, float factor, std::int64_t n) noexcept;
  void (*to_f32)(const void* src, WeightType type, std::int64_t n, float* dst) noexcept;
  void (*to_f16)(const float* src, std::int64_t n, std::uint16_t* dst) noexcept;
  // x = scale * code, scale = largest |x| / 127; returns the scale.
  float (*to_q8)(const float* src, std::int64_t n, std::int8_t* codes) noexcept;
  // log(sum(exp(logits))), for perplexity. The sum runs in double.
  double (*log_sum_exp)(const float* logits, std::int64_t n) noexcept;
};

const KernelTable& scalar_kernels() noexcept;
const KernelTable& avx2_kernels() noexcept;
const KernelTable& avx512_kernels() noexcept;

}  // namespace tenfold
