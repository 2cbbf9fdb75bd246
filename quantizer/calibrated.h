#pragma once
// Layer by layer through a model on calibration text, with all matrices of the layers before
// already quantized ("true-sequential"): inputs come from the engine's own forward pass and packed
// kernels. Embeddings are the source's; a head of less than 8 bits comes last. The last eighth of
// the sequences is held out: nothing is fitted to it, and losses are measured on it.
//
// Memory beside the source's mapping: the residual stream of all tokens, 4 bytes a channel (twice
// where layers learn), in a mapped file where that is more than 256 MiB; for the n inputs and m
// outputs of the widest matrix 12 n^2 bytes while its moments are taken, as much again while they
// are factored, and four times as much while AWQ looks at a layer; 4 (m + 2 held-out tokens) n
// while losses are measured; guided by full precision (FIAS) a second stream and 20 n^2 bytes,
// aimed also 4 bytes a weight of the matrices that read one input; with OmniQuant, 20 bytes a
// weight of the layer and what omniquant/block.h says.

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "kernels/buffer.h"
#include "models/decoder.h"
#include "quantizer/calibration.h"
#include "quantizer/gptq/realize.h"
#include "quantizer/hessian.h"
#include "quantizer/losses.h"
#include "quantizer/omniquant/learn.h"
#include "quantizer/plan.h"
#include "quantizer/roles.h"
#include "quantizer/squeeze/aimed_rows.h"
#include "quantizer/squeeze/full_model.h"
#include "runtime/workspace.h"

namespace tenfold {

inline constexpr std::size_t kSpillAbove = std::size_t{256} << 20;

class CalibratedModel {
 public:
  struct Resources {
    DeviceOptions device;
    std::filesystem::path folder;           // of the residual streams, where they take more than:
    std::size_t spill_above = kSpillAbove;  // bytes of one
  };
  // busy() is called for every sequence, here and later, and may throw.
  CalibratedModel(std::shared_ptr<const ModelSource> source, Calibration calibration,
                  const Recipe& recipe, const Resources& resources, std::function<void()> busy);

  // Quantizes the matrices of layer i, which must be the next one, and moves on to its outputs.
  // done(weights) now and then, may throw.
  struct Weights {
    std::string name;  // for errors
    const RowReader* source;
    MatrixPlan plan;
  };
  struct Matrix : Weights {
    LayerMatrix role;
    LinearInput input() const { return input_of(role); }
  };
  LayerLosses quantize_layer(std::int64_t i, std::vector<Matrix> matrices, ThreadPool& pool,
                             const std::function<void(std::int64_t)>& done);

  // The head, or the embedding tied to it, from the outputs of all layers.
  struct Head {
    QuantizedMatrix weight;
    MatrixLoss loss;
  };
  Head quantize_head(const Weights& head, ThreadPool& pool,
                     const std::function<void(std::int64_t)>& done);

  // Moves on over layer i, for which an earlier run made the weights that restore() puts in place
  // of the source's `matrices`.
  void pass_layer(std::int64_t i, const std::vector<Matrix>& matrices, ThreadPool& pool,
                  const std::function<void()>& restore);

  LayerWeights& layer_weights(std::int64_t i) const {
    return model_->weights().layers[static_cast<std::size_t>(i)];
  }
  const Calibration& calibration() const noexcept { return calibration_; }

 private:
  // An input of a layer: what the sequences that count make of it, and the held-out ones' rows.
  struct Observed {
    std::optional<Hessian> hessian;     // where the recipe uses it, blended as it asks
    std::optional<CrossMoments> cross;  // with full precision's, where that is the target
    HeldOut held_out;
  };
  // Weights of the norm that reads the stream to which the products of an input are added; none
  // where no norm does.
  std::vector<float> reader_of(std::int64_t layer, LinearInput input) const;
  std::vector<float> token_weights(std::span<const float> reader);
  Buffer stream(const Resources& resources) const;  // of all tokens
  std::size_t trained() const noexcept;             // sequences that are not held out
  void load_sequence(std::size_t sequence);
  // run() takes ws_.x, a sequence after the other, to where `input` of the layer is read.
  Observed observe(std::int64_t layer, LinearInput input, const std::vector<float>& reader,
                   const std::function<void()>& run);
  std::vector<Hessian> observe_all(std::int64_t layer);
  void advance(std::int64_t i);
  // Quantizes the matrices of one input, in the running model. Returns how many weights they have.
  std::int64_t quantize_input(std::int64_t layer, LinearInput input,
                              const std::vector<float>& reader, std::vector<Matrix>& matrices,
                              LayerLosses& losses, ThreadPool& pool,
                              const std::function<void(std::int64_t)>& done);
  // feedback: of the input's moments in the source's order, where PBAR looks at it.
  void choose_columns(std::int64_t layer, LinearInput input, const Observed& observed,
                      const std::optional<Feedback>& feedback, std::span<Matrix*> matrices,
                      LayerLosses& losses, ThreadPool& pool);
  // The model's loss on the held-out text with these weights in the layer; those after it are the
  // source's.
  double trial(std::int64_t layer, std::span<Matrix* const> matrices,
               std::span<QuantizedMatrix> made);
  void scale_inputs(std::int64_t layer, const std::vector<Hessian>& hessians,
                    std::vector<Matrix>& matrices, LayerLosses& losses, ThreadPool& pool);
  void divide_input(std::int64_t layer, LinearInput input, const std::vector<float>& scale,
                    std::vector<Matrix>& matrices);
  void learn_grids(std::int64_t layer, const std::vector<Hessian>& hessians,
                   std::vector<Matrix>& matrices, LayerLosses& losses, ThreadPool& pool);
  void tune(std::int64_t layer, const std::vector<Matrix>& matrices, LayerLosses& losses,
            ThreadPool& pool);
  LearnResult learn(std::int64_t layer, Block& block, std::span<LearnedMatrix* const> by_role,
                    const LearnOptions& options);
  void make_targets(std::int64_t layer, const std::vector<Matrix>& matrices, ThreadPool& pool);
  std::int64_t input_cols(LinearInput input) const;

  QuantizedMatrix realize_matrix(const Weights& matrix, const Observed& observed, MatrixLoss& loss,
                                 ThreadPool& pool, const std::function<void(std::int64_t)>& done);

  Calibration calibration_;
  Recipe recipe_;
  std::function<void()> busy_;
  std::unique_ptr<GptqInput> gptq_;  // of the last input and column order
  std::vector<std::int32_t> gptq_order_;
  Workspace ws_;
  std::unique_ptr<Decoder> model_;
  KvCache kv_;
  Buffer residual_;                      // [sequences][tokens, dim]
  Buffer full_;                          // the same of the full-precision model, where layers learn
  std::optional<FullModel> full_model_;  // where codes are fitted to what it does
  Batch batch_;
};

}  // namespace tenfold
