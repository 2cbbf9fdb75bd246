#include "quantizer/squeeze/full_model.h"

#include <algorithm>
#include <utility>

namespace tenfold {

FullModel::FullModel(const std::shared_ptr<const ModelSource>& source, Buffer streams,
                     std::size_t floats)
    : model_(load_decoder(source, RowOrder::gguf)), streams_(std::move(streams)), floats_(floats) {}

std::vector<float> FullModel::input(std::int64_t layer, LinearInput input, std::size_t sequence,
                                    const Batch& batch, const KvCache& kv, Workspace& ws) const {
  ws.set_stream({streams_.as<float>() + sequence * floats_, floats_});
  std::vector<float> seen;
  InputTap tap = [&](LinearInput at, const float* x, std::int64_t tokens, std::int64_t cols) {
    if (at != input) return true;
    seen.assign(x, x + tokens * cols);
    return false;
  };
  std::swap(tap, ws.input_tap);
  model_->layer(layer, batch, kv, ws);
  std::swap(tap, ws.input_tap);
  return seen;
}

void FullModel::advance(std::int64_t layer, std::size_t sequence, const Batch& batch,
                        const KvCache& kv, Workspace& ws) {
  float* stream = streams_.as<float>() + sequence * floats_;
  ws.set_stream({stream, floats_});
  model_->layer(layer, batch, kv, ws);
  std::ranges::copy(ws.stream(floats_), stream);
}

void FullModel::forget(std::int64_t layer) {
  model_->weights().layers[static_cast<std::size_t>(layer)] = {};
}

}  // namespace tenfold
