#include "models/weight_work.h"

namespace tenfold {
namespace {

std::int64_t macs(const MatrixView& matrix) { return matrix.rows * matrix.cols; }

std::int64_t layer_macs(const LayerWeights& layer) {
  std::int64_t sum = 0;
  for (const Dense* dense :
       {&layer.q, &layer.k, &layer.v, &layer.output, &layer.gate, &layer.up, &layer.down}) {
    sum += macs(dense->weight.view);
  }
  return sum;
}

}  // namespace

WeightWork weight_work(const DecoderSpec& spec, const DecoderWeights& weights) {
  const MatrixView& head = spec.tied_head ? weights.token_embedding.view : weights.head.weight.view;
  WeightWork work;
  // A step takes single rows of the tables of embeddings and positions.
  work.step_bytes = weights.bytes - weights.position_embedding.view.bytes();
  if (!spec.tied_head) work.step_bytes -= weights.token_embedding.view.bytes();
  work.token_macs = macs(weights.project_in.view);
  for (const LayerWeights& layer : weights.layers) work.token_macs += layer_macs(layer);
  work.logit_macs = macs(head) + macs(weights.project_out.view);
  work.int8 = !weights.layers.empty() &&
              is_packed(weights.layers.front().q.weight.view.bands.front().format);
  return work;
}

}  // namespace tenfold
