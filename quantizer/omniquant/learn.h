#pragma once
// OmniQuant (Shao et al., 2023) for weights alone: the grids of a layer (learned_matrix.h) and,
// where the model can take it, scales of input channels (the learnable equivalent transformation)
// are trained by AdamW so that the layer, fed what the quantized layers before it give, comes out
// as the full-precision layer does on full-precision inputs.
//
// Scales are learned for what norms feed, and for the attention's output where each query head has
// its own value head. The paper's scale between q and k is left out: it multiplies rows, and
// rounding a row commutes with that.

#include <functional>
#include <span>
#include <vector>

#include "quantizer/omniquant/block.h"
#include "quantizer/omniquant/learned_matrix.h"
#include "quantizer/omniquant/options.h"

namespace tenfold {

// Sequences of one length; [sequences][tokens, dim] each.
struct BlockData {
  const float* inputs = nullptr;   // of the quantized model
  const float* targets = nullptr;  // of the full-precision layer
  std::int64_t sequences = 0;
  std::int64_t held_out = 0;  // the last ones choose the epoch and are not trained on
  // What the next norm multiplies each channel with, [dim]; empty: 1. Errors count as it reads
  // them.
  std::span<const float> reader;
};

struct LearnResult {
  // Relative square error of the outputs, mean over the tokens of the held-out sequences (of all,
  // where none is held out); after <= before.
  double loss_before = 0, loss_after = 0;
  std::array<std::vector<float>, kLayerInputs>
      scale;  // by LinearInput, of the source's columns; empty: none
};

// matrices: by LayerMatrix, null where there is none; they end up with what was learned. busy() is
// called for every sequence and may throw.
LearnResult learn_block(Block& block, const DecoderSpec& spec, const LayerWeights& layer,
                        std::span<LearnedMatrix* const> matrices, const BlockData& data,
                        std::int64_t tokens, const LearnOptions& options,
                        const std::function<void()>& busy);

}  // namespace tenfold
