#pragma once
// Layer by layer through a model on calibration text, with all matrices of the layers before
// already quantized ("true-sequential"): inputs come from the engine's own forward pass and packed
// kernels. Embeddings are the source's.
//
// Memory beside the source's mapping: the residual stream of all tokens, 4 bytes a channel, and for
// the n inputs of the widest matrix 12 n^2 bytes while its moments are taken, as much again while
// they are factored, and four times as much while AWQ looks at a layer.

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kernels/buffer.h"
#include "models/decoder.h"
#include "quantizer/calibration.h"
#include "quantizer/gptq/realize.h"
#include "quantizer/hessian.h"
#include "quantizer/plan.h"
#include "runtime/workspace.h"

namespace tenfold {

class CalibratedModel {
 public:
  // isa: "" for the best of this machine; other sets give (slightly) other activations. busy() is
  // called for every sequence, here and later, and may throw.
  CalibratedModel(std::shared_ptr<const ModelSource> source, Calibration calibration, int threads,
                  const std::string& isa, std::function<void()> busy);

  // Quantizes the matrices of layer i, which must be the next one, and moves on to its outputs.
  // done(weights) now and then, may throw.
  struct Matrix {
    std::string name;  // for errors
    LinearInput input;
    const RowReader* source;
    MatrixPlan plan;
    Dense* target;  // in the running model
  };
  void quantize_layer(std::int64_t i, std::vector<Matrix> matrices, const Recipe& recipe,
                      ThreadPool& pool, const std::function<void(std::int64_t)>& done);

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

  QuantizedMatrix realize_matrix(const Matrix& matrix, const Hessian& hessian, const Recipe& recipe,
                                 ThreadPool& pool, const std::function<void(std::int64_t)>& done);

  Calibration calibration_;
  std::function<void()> busy_;
  std::unique_ptr<GptqInput> gptq_;  // of the last input and column order
  std::vector<std::int32_t> gptq_order_;
  Workspace ws_;
  std::unique_ptr<Decoder> model_;
  KvCache kv_;
  Buffer residual_;  // [sequences][tokens, dim]
  Batch batch_;
};

}  // namespace tenfold
