#pragma once
// InvarExplore (design/papers.md 1): hill climbing over weights that compute the same but quantize
// better, judged by the running packed model itself.
//
// A step takes some layers and a coupling of each (where proposals are ranked: as many as do not
// stand in each other's way), proposes other transforms of the source's
// channels (moves.h), makes the parts of the matrices they touch again (remake.h) in the running
// model, and keeps them if the loss of objective.h is lower; else the half of them of which the
// most is expected (of the first layers, where nothing is), and so on. Step n's choices depend on
// the seed and n alone, so a search that was interrupted goes on as if it had not been.

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "models/decoder.h"
#include "quantizer/plan.h"
#include "quantizer/random.h"
#include "quantizer/search/compensation.h"
#include "quantizer/search/loss_gradient.h"
#include "quantizer/search/objective.h"
#include "quantizer/search/options.h"
#include "quantizer/search/searched_layer.h"

namespace tenfold {

struct SearchStep {
  struct Move {
    std::int64_t layer = 0;
    std::string coupling;
  };
  std::int64_t step = 0;
  std::vector<Move> moves;
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

// What a step changes where options.together leaves it open: where proposals are ranked as many
// layers as hold 2^27 weights (derivatives, moments and full-precision weights take some 30 bytes
// each), at least one; else one.
std::int64_t layers_of_a_step(const SearchOptions& options, std::int64_t layers,
                              std::int64_t weights_of_a_layer);

// Where a search stands.
struct SearchState {
  std::int64_t steps = 0;
  std::vector<std::vector<ChannelTransform>> transforms;  // [layers][couplings]
  SequenceLoss start;
  double start_held_out = 0;
  std::vector<SearchStep> history;  // of accepted steps
  SearchCounts counts;
  // The layers of the last step, which of their inputs' moments were taken for the model as it is,
  // and whether their gradients were: a resumed search takes them again, but counts them once.
  std::map<std::int64_t, std::array<bool, kLayerInputs>> observed;
  bool ranked = false;
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
  // Steps that change as many layers as the model has.
  std::int64_t steps_of_a_round() const noexcept;
  const SearchState& state() const noexcept { return state_; }
  // The source's layer as the search has moved it so far: computes what the source does.
  FloatLayer moved_layer(std::int64_t layer) const;
  // Goes on where a search stood when the model was the one given.
  void resume(SearchState state);

 private:
  // What is known of a layer as accepted, and no longer.
  struct Known {
    // Of its inputs, and of all columns of matrices that read them.
    std::array<std::optional<Hessian>, kLayerInputs> moments;
    std::map<LayerMatrix, Compensation> compensations;
    // Where proposals are ranked: the moments and matrices that turned rows are judged by.
    std::array<std::vector<float>, kLayerInputs> means;
    std::map<LayerMatrix, std::vector<float>> values;
  };
  // A layer that steps change.
  struct Visited {
    std::int64_t layer;
    SearchedLayer searched;
    Known known;
  };

  struct Choice {
    std::size_t coupling;
    ChannelTransform next;
    double predicted;  // of the loss, where proposals are ranked
  };
  struct Changed {
    Visited* at;
    Choice choice;
  };

  SearchStep take_step();
  bool is_better(std::span<const Changed> changed, std::string& outcome);
  FloatLayer source_layer(std::int64_t layer) const;
  void visit(StepRandom& place);
  std::size_t pick_coupling(StepRandom& random) const;
  std::optional<ChannelTransform> propose(Visited& at, std::size_t coupling, StepRandom& random);
  std::optional<ChannelTransform> propose_turn(Visited& at, std::size_t coupling,
                                               StepRandom& random);
  void take_gradient();
  std::vector<Choice> choose(Visited& at, StepRandom& random);
  double predicted(Visited& at, const Choice& choice);
  void apply(Visited& at, const Choice& choice);
  void accept(std::vector<Changed>& changed, SearchStep& step);
  const Hessian& moments(Visited& at, LayerMatrix reader);
  void observe(Visited& at, std::size_t input);
  const std::vector<float>& means(Visited& at, LayerMatrix reader);
  const std::vector<float>& accepted(Visited& at, LayerMatrix matrix);
  ChannelTransform& transform_of(const Visited& at, std::size_t coupling);

  const std::vector<ModelTensor>& tensors_;
  const std::vector<LayerFactors>& factors_;
  const Decoder& start_;
  Decoder& model_;
  Objective& objective_;
  Recipe recipe_;
  ThreadPool& pool_;
  std::vector<Coupling> couplings_;
  std::int64_t together_ = 1;                       // layers that a step changes
  std::vector<std::vector<std::size_t>> searched_;  // couplings of each kind
  SearchState state_;
  std::vector<std::unique_ptr<Visited>> visited_;  // ascending
  std::optional<LossGradient> gradient_;           // where proposals are ranked
  bool gradient_is_current_ = false;
};

}  // namespace tenfold
