#pragma once
// A loaded model: what it is, its weights, and the parts of a forward pass. forward() strings
// them together for prefill, decode, batches, scoring and, later, the quantizer.

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/batch.h"
#include "runtime/kv_cache.h"
#include "runtime/workspace.h"

namespace tenfold {

// What running the weights takes; attention over the KV cache comes on top.
struct WeightWork {
  std::uint64_t step_bytes = 0;  // that a decode step reads, whatever the batch
  std::int64_t token_macs = 0;   // multiply-accumulates of a token in the layers
  std::int64_t logit_macs = 0;   // and of a row of logits
  bool int8 = false;             // packed codes times int8 activations, not float products
};

struct ModelInfo {
  std::string architecture;  // "llama", "opt"
  std::string name;          // general.name or the folder's name, for people
  std::int64_t layers = 0, dim = 0, vocab = 0, heads = 0, kv_heads = 0, head_dim = 0, ffn = 0;
  std::int64_t max_context = 0;  // positions the model was made for
  std::int64_t parameters = 0;
  std::uint64_t weight_bytes = 0;  // in memory, all tensors
  std::uint64_t copied_bytes = 0;  // of these, dequantized or converted on load (not mapped)
  std::string weight_types;        // "F16", or "Q4_1 and Q8_0 as F16"
  WeightWork work;
};

class Model {
 public:
  virtual ~Model() = default;
  virtual const ModelInfo& info() const noexcept = 0;
  // What the step takes from the host: ids, positions and rotary tables.
  virtual void begin(const Batch& batch, Workspace& ws) const = 0;
  // Token ids -> ws.x [tokens, dim]. Ids must be in [0, vocab): forward() checks.
  virtual void embed(const Batch& batch, Workspace& ws) const = 0;
  // Layer i on ws.x, reading and writing its part of the KV cache.
  virtual void layer(std::int64_t i, const Batch& batch, const KvCache& kv,
                     Workspace& ws) const = 0;
  // ws.logits [logit_rows, vocab] from ws.x, of the rows in ws.logit_rows.
  virtual void head(const Batch& batch, Workspace& ws) const = 0;
};

// Called after each layer with the residual stream [tokens, dim], in memory of the host.
using Tap = std::function<void(std::int64_t layer, std::span<const float> x)>;

// One step. Positions must continue each sequence where the KV cache stands or lie before its end;
// the cache is grown to hold them. first_layer > 0 starts from ws.x as the caller left it. Throws
// bad_request for a token outside the vocabulary or a position past the model's or cache's
// context. Logits, where batch.logit_rows asks for them, are in ws.logits.
void forward(const Model& model, const Batch& batch, KvCache& kv, Workspace& ws,
             std::int64_t first_layer = 0, const Tap& tap = {});

// What forward() does before the first layer: the checks, the cache's pages, the model's tables.
// For those that then run layers one by one.
void begin_step(const Model& model, const Batch& batch, KvCache& kv, Workspace& ws);

// The logits of batch.logit_rows, of a step whose layers were run without them.
void run_head(const Model& model, const Batch& batch, Workspace& ws);

KvShape kv_shape(const ModelInfo& info, KvType type);

}  // namespace tenfold
