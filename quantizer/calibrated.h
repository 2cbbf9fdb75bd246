#pragma once
// Layer by layer through a model on calibration text, with everything before already quantized
// ("true-sequential"): the inputs of a layer's products are those they will meet when the model
// runs, from the engine's own forward pass and packed kernels.

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kernels/buffer.h"
#include "models/decoder.h"
#include "quantizer/calibration.h"
#include "quantizer/hessian.h"
#include "quantizer/plan.h"
#include "runtime/workspace.h"

namespace tenfold {

class CalibratedModel {
 public:
  // Holds the residual stream of all tokens, 4 bytes a channel.
  CalibratedModel(std::shared_ptr<const ModelSource> source, Calibration calibration, int threads);

  // Quantizes the matrices of layer i, which must be the next one, and moves on to its outputs.
  // plans: of the layer's matrices, by role ("attn_q"); done(weights) now and then, may throw.
  struct Matrix {
    std::string name;  // for errors
    LinearInput input;
    const RowReader* source;
    MatrixPlan plan;
    Dense* target;  // in the running model
  };
  struct LayerLoss {
    std::string name;
    double loss = 0;  // mean square error of the outputs, summed over rows; gptq only
  };
  std::vector<LayerLoss> quantize_layer(std::int64_t i, std::vector<Matrix> matrices,
                                        const Recipe& recipe, ThreadPool& pool,
                                        const std::function<void(std::int64_t)>& done);

  // Moves on over layer i, whose weights are already what they will be.
  void advance(std::int64_t i);

  LayerWeights& layer_weights(std::int64_t i) {
    return model_->weights().layers[static_cast<std::size_t>(i)];
  }
  const Calibration& calibration() const noexcept { return calibration_; }

 private:
  void load_sequence(std::size_t sequence);
  Hessian observe(std::int64_t layer, LinearInput input);
  std::vector<Hessian> observe_all(std::int64_t layer);
  void scale_inputs(std::int64_t layer, std::vector<Matrix>& matrices, ThreadPool& pool);
  std::int64_t input_cols(LinearInput input) const;

  Calibration calibration_;
  Workspace ws_;
  std::unique_ptr<Decoder> model_;
  KvCache kv_;
  Buffer residual_;  // [sequences][tokens, dim]
  Batch batch_;
};

}  // namespace tenfold
