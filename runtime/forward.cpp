#include <algorithm>

#include "kernels/error.h"
#include "runtime/model.h"

namespace tenfold {
namespace {

void check(const ModelInfo& info, const Batch& batch) {
  for (const std::int32_t token : batch.tokens) {
    if (token < 0 || token >= info.vocab) {
      throw_error(ErrorCode::bad_request, "token id {} is outside the vocabulary of {}", token,
                  info.vocab);
    }
  }
  for (const std::int32_t position : batch.positions) {
    if (position < 0 || position >= info.max_context) {
      throw_error(ErrorCode::bad_request, "position {} is past the model's context of {} tokens",
                  position, info.max_context);
    }
  }
}

void send_logit_rows(const Batch& batch, Workspace& ws) {
  if (!batch.logit_rows.empty()) ws.send<std::int32_t>(ws.logit_rows, batch.logit_rows);
}

}  // namespace

KvShape kv_shape(const ModelInfo& info, KvType type) {
  return {info.layers, info.kv_heads, info.head_dim, type};
}

void begin_step(const Model& model, const Batch& batch, KvCache& kv, Workspace& ws) {
  check(model.info(), batch);
  for (std::size_t t = 0; t < batch.tokens.size(); ++t) {
    const std::int64_t end = batch.positions[t] + 1;
    if (end > kv.length(batch.sequences[t])) kv.resize(batch.sequences[t], end);
  }
  ws.page_tables.clear();
  for (const std::int32_t sequence : batch.sequences) {
    ws.page_tables.push_back(kv.page_table(sequence));
  }
  ws.backend->place({batch.positions, ws.page_tables});
  send_logit_rows(batch, ws);
  model.begin(batch, ws);
}

void run_head(const Model& model, const Batch& batch, Workspace& ws) {
  send_logit_rows(batch, ws);
  model.head(batch, ws);
}

void forward(const Model& model, const Batch& batch, KvCache& kv, Workspace& ws,
             std::int64_t first_layer, const Tap& tap) {
  const ModelInfo& info = model.info();
  begin_step(model, batch, kv, ws);
  const auto step = [&] {
    if (first_layer == 0) model.embed(batch, ws);
    for (std::int64_t i = first_layer; i < info.layers; ++i) {
      model.layer(i, batch, kv, ws);
      if (tap) tap(i, ws.stream(static_cast<std::size_t>(batch.size() * info.dim)));
    }
    if (!batch.logit_rows.empty()) model.head(batch, ws);
  };
  if (first_layer > 0 || tap || ws.input_tap) {
    step();
  } else {
    ws.backend->run(
        {&model, kv.layer(0).k, batch.size(), static_cast<std::int64_t>(batch.logit_rows.size())},
        step);
  }
}

}  // namespace tenfold
