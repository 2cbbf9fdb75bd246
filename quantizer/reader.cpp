#include "quantizer/reader.h"

namespace tenfold {

std::span<const float> reader_of_outputs(const DecoderSpec& spec, const DecoderWeights& weights,
                                         std::int64_t layer) noexcept {
  if (spec.post_norm) return {};
  if (layer + 1 < spec.layers) {
    return weights.layers[static_cast<std::size_t>(layer) + 1].attn_norm.weight;
  }
  if (!spec.final_norm) return {};
  return weights.final_norm.weight;
}

}  // namespace tenfold
