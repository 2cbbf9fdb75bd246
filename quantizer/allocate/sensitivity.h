#pragma once
// What choices of bits do to a model, by running its packed kernels (layer-wise high-impact ratios,
// design/papers.md 3.1): one matrix at a time is rounded to nearest, all else staying as the source
// has it.
//
// With e the change of a layer's outputs, as the next norm reads them and each token relative to
// its stream, a choice's loss is |e|^2 (Sensitivity::block), times what one choice of each matrix
// adds to the last loss for its |e|^2 (scaled), or what the choice itself adds to it (final). The
// last loss is the cross-entropy against what the full-precision model expects, in nats a token.
// Two choices of different matrices add 2 r sqrt(loss loss'), r being the correlation of their e:
// to second order this is what the paper measures by running each pair.

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "models/decoder.h"
#include "quantizer/allocate/solver.h"
#include "quantizer/plan.h"
#include "quantizer/search/objective.h"

namespace tenfold {

class SensitivityModel {
 public:
  struct Matrix {
    std::string name;  // for errors
    const RowReader* source;
    LayerMatrix role;
    std::vector<Widths> choices;
    std::size_t reference = 0;  // the choice whose effect on the last loss scales the others'
  };

  // Runs the model on all sequences. busy() is called for every sequence, here and later, and may
  // throw. Memory: the residual streams of all layers twice, in mapped files where they are long;
  // and while a layer is measured with cross terms, 512 tokens of its outputs for each choice.
  SensitivityModel(const std::shared_ptr<const ModelSource>& source, const Calibration& calibration,
                   const Recipe& recipe, const Objective::Resources& resources,
                   std::function<void()> busy);

  // Of each matrix and choice the bytes and the loss, and what pairs add.
  LayerChoices measure(std::int64_t layer, const std::vector<Matrix>& matrices, ThreadPool& pool);

  // A choice for each matrix of a layer.
  struct Made {
    std::int64_t layer;
    std::vector<LayerMatrix> roles;
    std::vector<QuantizedMatrix> weights;
  };
  Made make(std::int64_t layer, const std::vector<Matrix>& matrices, const LayerAnswer& answer,
            ThreadPool& pool);
  // What the last loss grows by with these layers in place of the source's, in nats.
  double raise(std::span<Made> made);

 private:
  struct Inputs;
  Inputs look_at_inputs(std::int64_t layer, const std::vector<Matrix>& matrices, ThreadPool& pool);
  QuantizedMatrix realize_choice(const Matrix& matrix, const Widths& widths, const Inputs& inputs,
                                 ThreadPool& pool) const;
  std::vector<float> token_weights(std::int64_t layer, std::size_t sequence) const;
  double measured_error(std::int64_t layer, float* sample);
  double final_loss(std::int64_t first, std::int64_t last);

  Recipe recipe_;
  std::unique_ptr<Decoder> model_;
  std::optional<Objective> objective_;
  std::size_t sampled_ = 1;  // every so manieth token's errors are kept
};

}  // namespace tenfold
