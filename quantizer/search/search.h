#pragma once
// InvarExplore (design/papers.md 1): hill climbing over weights that compute the same but quantize
// better, judged by the running packed model itself.
//
// A step takes a layer and one of its couplings, proposes another transform of the source's
// channels (moves.h), makes the parts of the matrices it touches again (remake.h) in the running
// model, and keeps them if the loss of objective.h is lower. Step n's choices depend on the seed
// and n alone, so a search that was interrupted goes on as if it had not been.

#include <array>
#include <cstdint>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "models/decoder.h"
#include "quantizer/plan.h"
#include "quantizer/random.h"
#include "quantizer/search/compensation.h"
#include "quantizer/search/objective.h"
#include "quantizer/search/options.h"
#include "quantizer/search/searched_layer.h"

namespace tenfold {

struct SearchStep {
  std::int64_t step = 0, layer = 0;
  std::string coupling;
  std::string outcome;  // "accepted", "worse", "given up" (early), "no proposal"
  double loss = 0;      // of the model after the step
  double held_out = 0;
  std::int64_t layer_forwards = 0;  // of the search so far: layers times sequences
};
nlohmann::ordered_json to_json(const SearchStep& step);

struct SearchCounts {
  std::int64_t proposals = 0;  // local ones
  std::int64_t confirmed = 0;  // by the true loss, in part or whole
  std::int64_t accepted = 0;
  std::int64_t layer_forwards = 0;  // layers run, times sequences
};

nlohmann::ordered_json to_json(const SearchCounts& counts);
nlohmann::ordered_json to_json(const SequenceLoss& loss);

// Where a search stands.
struct SearchState {
  std::int64_t steps = 0;
  std::vector<std::vector<ChannelTransform>> transforms;  // [layers][couplings]
  SequenceLoss start;
  double start_held_out = 0;
  std::vector<SearchStep> history;  // of accepted steps
  SearchCounts counts;
  // The layer of the last step, and which of its inputs' moments were taken for the model as it is:
  // a resumed search takes them again, but does not count them twice.
  std::int64_t layer = -1;
  std::array<bool, kLayerInputs> observed{};
};
// The step after which the held-out loss was at its lowest; 0: at the start.
std::int64_t last_improvement(const SearchState& state);
nlohmann::ordered_json to_json(const SearchState& state);
// Throws bad_file naming `name` where it is not one of this model.
SearchState read_search_state(const nlohmann::json& json, const DecoderSpec& spec,
                              const std::string& name);

class Search {
 public:
  // tensors: of the full-precision source; factors: of each layer, what the passes before the
  // search multiplied it with. start: the quantized model the search began with; model:
  // the running one, the same or a later one of this search. All outlive this.
  Search(const std::vector<ModelTensor>& tensors, const std::vector<LayerFactors>& factors,
         const Decoder& start, Decoder& model, Objective& objective, const Recipe& recipe,
         ThreadPool& pool);

  SearchStep step();
  const SearchState& state() const noexcept { return state_; }
  // The source's layer as the search has moved it so far: computes what the source does.
  FloatLayer moved_layer(std::int64_t layer) const;
  // Goes on where a search stood when the model was the one given.
  void resume(SearchState state);

 private:
  SearchStep take_step();
  FloatLayer source_layer(std::int64_t layer) const;
  void visit(std::int64_t layer);
  const Hessian& moments(LinearInput input, std::int64_t cols);
  std::optional<ChannelTransform> propose_turn(std::size_t coupling, StepRandom& random);
  std::optional<ChannelTransform> propose(std::size_t coupling, StepRandom& random);
  std::size_t pick_coupling(StepRandom& random) const;

  const std::vector<ModelTensor>& tensors_;
  const std::vector<LayerFactors>& factors_;
  const Decoder& start_;
  Decoder& model_;
  Objective& objective_;
  Recipe recipe_;
  ThreadPool& pool_;
  std::vector<Coupling> couplings_;
  std::vector<std::vector<std::size_t>> searched_;  // couplings of each kind
  SearchState state_;
  std::int64_t visited_ = -1;
  std::optional<SearchedLayer> layer_;
  void forget_inputs();
  // Of the layer's inputs, as accepted, and of all columns of matrices that read them.
  std::array<std::optional<Hessian>, kLayerInputs> moments_;
  std::map<LayerMatrix, Compensation> compensations_;
};

}  // namespace tenfold
