#include "models/decoder.h"

#include <array>
#include <cmath>
#include <utility>

#include "models/weight_work.h"

namespace tenfold {
namespace {

Linear product(const Dense& dense, float* y, bool accumulate = false) {
  const float* bias = dense.bias.empty() ? nullptr : dense.bias.data();
  return {dense.weight.view, bias, y, dense.weight.view.rows, accumulate};
}

Linear product(const QuantizedMatrix& matrix, float* y) {
  return {matrix.view, nullptr, y, matrix.view.rows, false};
}

float* sized(Workspace& ws, Scratch& scratch, std::int64_t rows, std::int64_t cols) {
  return ws.get<float>(scratch, static_cast<std::size_t>(rows * cols));
}

ModelInfo describe(const DecoderSpec& spec, const DecoderWeights& weights) {
  ModelInfo info;
  info.architecture = spec.architecture;
  info.name = spec.name;
  info.layers = spec.layers;
  info.dim = spec.dim;
  info.vocab = spec.vocab;
  info.heads = spec.heads;
  info.kv_heads = spec.kv_heads;
  info.head_dim = spec.head_dim;
  info.ffn = spec.ffn;
  info.max_context = spec.max_context;
  info.parameters = weights.parameters;
  info.weight_bytes = weights.bytes;
  info.copied_bytes = weights.copied_bytes;
  info.weight_types = weights.types;
  info.work = weight_work(spec, weights);
  return info;
}

}  // namespace

Decoder::Decoder(DecoderSpec spec, DecoderWeights weights,
                 std::shared_ptr<const ModelSource> source)
    : spec_(std::move(spec)),
      weights_(std::move(weights)),
      frequencies_(spec_.rope.enabled ? spec_.rope.frequencies(spec_.head_dim)
                                      : std::vector<double>{}),
      info_(describe(spec_, weights_)),
      source_(std::move(source)) {}

void Decoder::begin(const Batch& batch, Workspace& ws) const {
  ws.send<std::int32_t>(ws.tokens, batch.tokens);
  if (spec_.learned_positions) {
    ws.row_positions.clear();
    for (const std::int32_t position : batch.positions) {
      ws.row_positions.push_back(position + static_cast<std::int32_t>(spec_.position_offset));
    }
    ws.send<std::int32_t>(ws.table_positions, ws.row_positions);
  }
  if (!spec_.rope.enabled) return;
  send_angles(batch, ws, ws.rope_cos, [](double angle) { return std::cos(angle); });
  send_angles(batch, ws, ws.rope_sin, [](double angle) { return std::sin(angle); });
}

// function(angle) of every token and pair.
void Decoder::send_angles(const Batch& batch, Workspace& ws, Scratch& to,
                          double (*function)(double)) const {
  ws.angles.clear();
  for (const std::int32_t position : batch.positions) {
    for (const double frequency : frequencies_) {
      ws.angles.push_back(static_cast<float>(function(static_cast<double>(position) * frequency)));
    }
  }
  ws.send<float>(to, ws.angles);
}

void Decoder::embed(const Batch& batch, Workspace& ws) const {
  const std::int64_t tokens = batch.size();
  const auto n = static_cast<std::size_t>(tokens);
  float* x = sized(ws, ws.x, tokens, spec_.dim);
  const auto* ids = ws.get<std::int32_t>(ws.tokens, n);
  if (spec_.embed_dim == spec_.dim) {
    ws.backend->embed_rows(weights_.token_embedding.view, ids, tokens, x, false);
  } else {
    float* narrow = sized(ws, ws.narrow, tokens, spec_.embed_dim);
    ws.backend->embed_rows(weights_.token_embedding.view, ids, tokens, narrow, false);
    const Linear widen = product(weights_.project_in, x);
    ws.backend->linear({&widen, 1}, narrow, spec_.embed_dim, tokens);
  }
  if (!spec_.learned_positions) return;
  ws.backend->embed_rows(weights_.position_embedding.view,
                         ws.get<std::int32_t>(ws.table_positions, n), tokens, x, true);
}

void Decoder::normalize(const Norm& norm, const float* x, std::int64_t tokens, float* y,
                        Workspace& ws) const {
  if (spec_.norm == NormKind::rms) {
    ws.backend->rms_norm(x, norm.weight.data(), spec_.norm_eps, tokens, spec_.dim, y);
  } else {
    ws.backend->layer_norm(x, norm.weight.data(), norm.bias.data(), spec_.norm_eps, tokens,
                           spec_.dim, y);
  }
}

void Decoder::layer(std::int64_t i, const Batch& batch, const KvCache& kv, Workspace& ws) const {
  if (attention_block(i, batch, kv, ws)) mlp_block(i, batch.size(), ws);
}

bool Decoder::attention_block(std::int64_t i, const Batch& batch, const KvCache& kv,
                              Workspace& ws) const {
  const LayerWeights& w = weights_.layers[static_cast<std::size_t>(i)];
  const std::int64_t tokens = batch.size();
  const std::int64_t q_dim = spec_.heads * spec_.head_dim;
  const std::int64_t kv_dim = spec_.kv_heads * spec_.head_dim;
  float* x = sized(ws, ws.x, tokens, spec_.dim);
  const float* input = x;
  if (!spec_.post_norm) {
    float* normed = sized(ws, ws.normed, tokens, spec_.dim);
    normalize(w.attn_norm, x, tokens, normed, ws);
    input = normed;
  }
  if (!ws.goes_on(LinearInput::qkv, input, tokens, spec_.dim)) return false;
  float* q = sized(ws, ws.q, tokens, q_dim);
  float* k = sized(ws, ws.k, tokens, kv_dim);
  float* v = sized(ws, ws.v, tokens, kv_dim);
  const std::array<Linear, 3> qkv = {product(w.q, q), product(w.k, k), product(w.v, v)};
  ws.backend->linear(qkv, input, spec_.dim, tokens);
  const KvLayer cache = kv.layer(i);
  if (spec_.rope.enabled) {
    const float* cosines = sized(ws, ws.rope_cos, tokens, spec_.head_dim / 2);
    const float* sines = sized(ws, ws.rope_sin, tokens, spec_.head_dim / 2);
    ws.backend->rope_and_store_kv(cache, cosines, sines, tokens, spec_.heads,
                                  spec_.rope.interleaved, q, k, v);
  } else {
    ws.backend->store_kv(cache, k, v);
  }
  float* attended = sized(ws, ws.attended, tokens, q_dim);
  const float scale = 1.0f / std::sqrt(static_cast<float>(spec_.head_dim));
  ws.backend->attention(cache, q, spec_.heads, scale, attended);
  if (!ws.goes_on(LinearInput::attn_output, attended, tokens, q_dim)) return false;
  const Linear output = product(w.output, x, true);
  ws.backend->linear({&output, 1}, attended, q_dim, tokens);
  if (spec_.post_norm) normalize(w.attn_norm, x, tokens, x, ws);
  return true;
}

void Decoder::mlp_block(std::int64_t i, std::int64_t tokens, Workspace& ws) const {
  const LayerWeights& w = weights_.layers[static_cast<std::size_t>(i)];
  float* x = sized(ws, ws.x, tokens, spec_.dim);
  const float* input = x;
  if (!spec_.post_norm) {
    float* normed = sized(ws, ws.normed, tokens, spec_.dim);
    normalize(w.ffn_norm, x, tokens, normed, ws);
    input = normed;
  }
  if (!ws.goes_on(LinearInput::mlp, input, tokens, spec_.dim)) return;
  float* up = sized(ws, ws.up, tokens, spec_.ffn);
  float* hidden = up;
  if (spec_.gated_mlp) {
    float* gate = sized(ws, ws.gate, tokens, spec_.ffn);
    hidden = sized(ws, ws.hidden, tokens, spec_.ffn);
    const std::array<Linear, 2> gate_up = {product(w.gate, gate), product(w.up, up)};
    ws.backend->linear(gate_up, input, spec_.dim, tokens);
    ws.backend->silu_mul(gate, up, tokens * spec_.ffn, hidden);
  } else {
    const Linear expand = product(w.up, up);
    ws.backend->linear({&expand, 1}, input, spec_.dim, tokens);
    ws.backend->relu(up, tokens * spec_.ffn);
  }
  if (!ws.goes_on(LinearInput::down, hidden, tokens, spec_.ffn)) return;
  const Linear down = product(w.down, x, true);
  ws.backend->linear({&down, 1}, hidden, spec_.ffn, tokens);
  if (spec_.post_norm) normalize(w.ffn_norm, x, tokens, x, ws);
}

void Decoder::head(const Batch& batch, Workspace& ws) const {
  const auto rows = static_cast<std::int64_t>(batch.logit_rows.size());
  const float* x = sized(ws, ws.x, batch.size(), spec_.dim);
  float* hidden = sized(ws, ws.normed, rows, spec_.dim);
  ws.backend->gather_rows(x, ws.get<std::int32_t>(ws.logit_rows, static_cast<std::size_t>(rows)),
                          rows, spec_.dim, hidden);
  if (spec_.final_norm) normalize(weights_.final_norm, hidden, rows, hidden, ws);
  if (spec_.embed_dim != spec_.dim) {
    float* narrow = sized(ws, ws.narrow, rows, spec_.embed_dim);
    const Linear project = product(weights_.project_out, narrow);
    ws.backend->linear({&project, 1}, hidden, spec_.dim, rows);
    hidden = narrow;
  }
  if (!ws.goes_on(LinearInput::head, hidden, rows, spec_.embed_dim)) return;
  float* logits = sized(ws, ws.logits, rows, spec_.vocab);
  const Linear head =
      spec_.tied_head ? product(weights_.token_embedding, logits) : product(weights_.head, logits);
  ws.backend->linear({&head, 1}, hidden, spec_.embed_dim, rows);
}

std::unique_ptr<Decoder> load_decoder(std::shared_ptr<const ModelSource> source, RowOrder order) {
  const Family& family = find_family(*source);
  DecoderSpec spec = read_spec(family, *source);
  DecoderWeights weights = load_weights(family, spec, *source, order);
  if (order == RowOrder::gguf && family.gguf_interleaves_rope) spec.rope.interleaved = true;
  return std::make_unique<Decoder>(std::move(spec), std::move(weights), std::move(source));
}

std::unique_ptr<Model> load_model(std::shared_ptr<const ModelSource> source) {
  return load_decoder(std::move(source), RowOrder::source);
}

}  // namespace tenfold
