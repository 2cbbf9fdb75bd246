#pragma once
// What a change of a quantized model is judged by (InvarExplore, design/papers.md 1.3):
//
//   loss = CE / CE_0 + alpha MSE / MSE_0
//
// CE: mean cross-entropy of the next tokens against those of the calibration text or against what
// the full-precision model expects there (soft_targets.h); MSE: mean square of the differences
// between the residual streams that leave the matched layers and those of the full-precision model,
// clamped at +-100; index 0: of the model the search began with. Both come from the engine's own
// forward pass on the packed kernels.
//
// The residual streams of the accepted model are kept, so that a change of layer l costs the layers
// from l on. Losses are kept for each sequence, in double, and summed in their order: they could be
// spread over processes without changing a decision.

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "kernels/buffer.h"
#include "kernels/thread_pool.h"
#include "models/decoder.h"
#include "quantizer/calibration.h"
#include "quantizer/search/options.h"
#include "quantizer/search/soft_targets.h"
#include "runtime/workspace.h"

namespace tenfold {

struct ObjectiveOptions {
  double alpha = 0.1;
  std::int64_t matched = 10;  // layers whose outputs are compared; 0: none
  // A step is given up after a part of the sequences where the chance that it would be accepted is
  // less than this; 0: all of them are always run.
  double early = 0.02;
  SearchTarget target = SearchTarget::text;
};

// Every (layers / count)-th from the last one up: L - 1 - ceil(i L / count), as the released code.
std::vector<std::int64_t> matched_layers(std::int64_t layers, std::int64_t count);

struct SequenceLoss {
  double nll = 0, mse = 0;  // means; nll: the cross-entropy
};

class Objective {
 public:
  struct Resources {
    DeviceOptions device;
    std::filesystem::path folder;  // of the streams, where they take more than:
    std::size_t spill_above = 0;   // bytes
  };
  // Runs both models on all sequences; the last `held_out` of them do not count for the loss.
  // `teacher` is not used afterwards. Throws bad_request where the loss is not a positive number.
  // busy() is called for every sequence and may throw.
  Objective(const Decoder& model, const Decoder& teacher, const Calibration& calibration,
            std::int64_t held_out, const ObjectiveOptions& options, const Resources& resources,
            std::function<void()> busy);

  double loss() const;           // of the accepted model
  double held_out_loss() const;  // likewise; that of loss() where nothing is held out
  // Scales the losses as those of another start were: after resuming from a later model.
  void set_start(const SequenceLoss& start) { start_ = start; }
  const SequenceLoss& start() const noexcept { return start_; }
  // Layers run so far, times sequences.
  std::int64_t layer_forwards() const noexcept { return layer_forwards_; }

  // The loss with the model's weights as they are now, which may differ from the accepted ones in
  // layers `first` ... `last`; nullopt where it was given up early, being worse so far.
  std::optional<double> trial(std::int64_t first, std::int64_t last);
  // Makes the model that the last trial ran the accepted one.
  void accept();

  // Runs layer i of the accepted model on every sequence that counts, under the workspace's tap;
  // after(sequence, what leaves the layer).
  using LayerTap = std::function<void(std::size_t, std::span<const float>)>;
  void run_layer(std::int64_t layer, const InputTap& tap, const LayerTap& after = {});
  // What leaves a layer of the accepted model.
  std::span<const float> output(std::int64_t layer, std::size_t sequence) const;
  std::size_t sequences() const noexcept { return accepted_.size(); }
  std::size_t trained() const noexcept { return accepted_.size() - held_out_; }
  std::int64_t tokens() const noexcept {
    return static_cast<std::int64_t>(calibration_.sequences.front().size());
  }
  // What enters a layer of the accepted model, [tokens, dim].
  std::vector<float> input(std::int64_t layer, std::size_t sequence);
  // The gradient of loss() with respect to what leaves the last layer, through the next tokens
  // alone, [tokens, dim]; turned_head: [dim, vocab], what makes logits of what leaves the norm.
  std::vector<float> head_back(std::size_t sequence, std::span<const float> turned_head,
                               ThreadPool& pool);
  // Adds to d its gradient through how what leaves `layer` matches.
  void match_back(std::int64_t layer, std::size_t sequence, std::span<float> d) const;
  // For operations on memory of the host.
  Backend& host() const noexcept { return ws_.host(); }

 private:
  // Called with a row of the calibration, its logits and the log of their exponentials' sum.
  using RowTap = std::function<void(std::size_t, const float*, double)>;

  void forget_layers(std::int64_t first, std::int64_t last);
  float* stream(const Buffer& of, std::int64_t layer, std::size_t sequence) const;
  SequenceLoss run(std::size_t sequence, std::int64_t first);
  void logits_back(std::size_t row, const float* logits, double log_sum, float* d) const;
  void load(std::size_t sequence, std::int64_t layer);
  void enter(std::size_t sequence, std::int64_t layer);
  void run_teacher(const Decoder& teacher, std::size_t sequence);
  std::vector<double> score(const Decoder& model, std::size_t sequence, const RowTap& see);
  SequenceLoss mean(std::span<const SequenceLoss> losses) const;
  double relative(const SequenceLoss& loss) const;
  bool hopeless(std::span<const SequenceLoss> so_far) const;

  const Decoder& model_;
  Calibration calibration_;
  ObjectiveOptions options_;
  std::size_t held_out_;
  std::function<void()> busy_;
  Workspace ws_;
  KvCache kv_;
  Batch batch_;
  std::vector<std::int64_t> matched_;
  std::size_t floats_;               // of one sequence's stream
  std::vector<Buffer> teacher_;      // of the matched layers' outputs, [sequences][tokens, dim]
  std::optional<SoftTargets> soft_;  // row after row, sequence after sequence
  Buffer streams_, trial_;           // [layers][sequences][tokens, dim]: what leaves each layer
  std::int64_t trial_first_ = 0, trial_last_ = 0;
  std::vector<SequenceLoss> accepted_, tried_;
  SequenceLoss start_;
  std::int64_t layer_forwards_ = 0;
};

}  // namespace tenfold
