#include "quantizer/search/search.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>
#include <ranges>

#include "kernels/error.h"
#include "quantizer/search/moves.h"
#include "quantizer/search/remake.h"
#include "quantizer/search/screen.h"
#include "runtime/files/json_file.h"

namespace tenfold {
namespace {

constexpr std::int64_t kForwardsOfGradient = 3;  // what a layer's forward and backward counts as
constexpr std::int64_t kWeightsOfAStep = 1 << 27;
constexpr std::uint64_t kStay = 4;  // steps at layers, whose moments serve until one is accepted

std::vector<float> multiplied(const RowReader& rows, const Factors& factors) {
  const auto n_rows = static_cast<std::size_t>(rows.rows());
  const auto cols = static_cast<std::size_t>(rows.cols());
  std::vector<float> weights(n_rows * cols);
  read_all(rows, weights.data());
  for (std::size_t r = 0; r < n_rows; ++r) {
    const float by_row = factors.row.empty() ? 1.0f : factors.row[r];
    for (std::size_t c = 0; c < cols; ++c) {
      weights[r * cols + c] *= by_row * (factors.col.empty() ? 1.0f : factors.col[c]);
    }
  }
  return weights;
}

// Whether anything that is asked for can be tried on it.
bool moves(const Coupling& coupling, const SearchOptions& options) {
  if (coupling.channels < 2) return false;
  // Screened rotations are exact ones.
  const bool turns = coupling.rotation == Exactness::exact ||
                     (coupling.rotation != Exactness::none && options.local == 0);
  return (options.permute && coupling.permutation != Exactness::none) ||
         (options.scale && coupling.scale != Exactness::none) || (options.rotate && turns);
}

// Of the coupling's channels, and nothing that it does not allow.
bool fits(const ChannelTransform& transform, const Coupling& coupling) {
  const auto n = static_cast<std::size_t>(coupling.channels);
  if (transform.order.size() != n || transform.scale.size() != n) return false;
  if (transform.angle.size() != n / 2) return false;
  const auto usable = [](float scale) { return std::isfinite(scale) && scale > 0; };
  const auto finite = [](float angle) { return std::isfinite(angle); };
  if (!std::all_of(transform.scale.begin(), transform.scale.end(), usable)) return false;
  if (!std::all_of(transform.angle.begin(), transform.angle.end(), finite)) return false;
  std::vector<bool> seen(n);
  for (const std::int32_t channel : transform.order) {
    if (channel < 0 || static_cast<std::size_t>(channel) >= n) return false;
    if (seen[static_cast<std::size_t>(channel)]) return false;
    seen[static_cast<std::size_t>(channel)] = true;
  }
  const ChannelTransform none(coupling.channels);
  return (coupling.permutation != Exactness::none || transform.order == none.order) &&
         (coupling.scale != Exactness::none || transform.scale == none.scale) &&
         (coupling.rotation != Exactness::none || transform.angle == none.angle);
}

void check_history(const SearchState& state, const DecoderSpec& spec, const std::string& name) {
  std::int64_t before = -1;
  for (const SearchStep& step : state.history) {
    const auto is_layer = [&](const SearchStep::Move& move) {
      return move.layer >= 0 && move.layer < spec.layers;
    };
    if (step.step <= before || step.step >= state.steps ||
        !std::all_of(step.moves.begin(), step.moves.end(), is_layer)) {
      throw_file_error(name, "has a history with step {} after {}, or with layers of another model",
                       step.step, before);
    }
    before = step.step;
  }
}

}  // namespace

nlohmann::ordered_json to_json(const SearchStep& step) {
  nlohmann::ordered_json moves = nlohmann::ordered_json::array();
  for (const SearchStep::Move& move : step.moves) {
    moves.push_back({{"layer", move.layer}, {"coupling", move.coupling}});
  }
  return {{"step", step.step},         {"moves", std::move(moves)},
          {"outcome", step.outcome},   {"loss", step.loss},
          {"held_out", step.held_out}, {"layer_forwards", step.layer_forwards}};
}

nlohmann::ordered_json to_json(const SearchCounts& counts) {
  return {{"proposals", counts.proposals},
          {"confirmed", counts.confirmed},
          {"accepted", counts.accepted},
          {"layer_forwards", counts.layer_forwards}};
}

nlohmann::ordered_json to_json(const SequenceLoss& loss) {
  return {{"nll", loss.nll}, {"mse", loss.mse}};
}

nlohmann::ordered_json to_json(const SearchState& state) {
  nlohmann::ordered_json json{{"steps", state.steps}};
  json.update(to_json(state.counts));
  json["start"] = to_json(state.start);
  json["start_held_out"] = state.start_held_out;
  json["ranked"] = state.ranked;
  json["observed"] = nlohmann::ordered_json::array();
  for (const auto& [layer, inputs] : state.observed) {
    json["observed"].push_back({{"layer", layer}, {"inputs", inputs}});
  }
  for (const auto& layer : state.transforms) {
    nlohmann::ordered_json couplings = nlohmann::ordered_json::array();
    for (const ChannelTransform& transform : layer) {
      couplings.push_back(
          {{"order", transform.order}, {"scale", transform.scale}, {"angle", transform.angle}});
    }
    json["transforms"].push_back(std::move(couplings));
  }
  json["history"] = nlohmann::ordered_json::array();
  for (const SearchStep& step : state.history) json["history"].push_back(to_json(step));
  return json;
}

std::int64_t layers_of_a_step(const SearchOptions& options, std::int64_t layers,
                              std::int64_t weights_of_a_layer) {
  std::int64_t wanted = options.together;
  if (wanted == 0) wanted = options.ranked > 0 ? kWeightsOfAStep / weights_of_a_layer : 1;
  return std::clamp<std::int64_t>(wanted, 1, layers);
}

std::int64_t last_improvement(const SearchState& state) {
  double best = state.start_held_out;
  std::int64_t at = 0;
  for (const SearchStep& step : state.history) {
    if (step.held_out >= best) continue;
    best = step.held_out;
    at = step.step + 1;
  }
  return at;
}

SearchState read_search_state(const nlohmann::json& json, const DecoderSpec& spec,
                              const std::string& name) {
  const std::vector<Coupling> couplings = couplings_of(spec);
  SearchState state;
  try {
    const auto integer = [&](const char* key) { return json_int(json, key, name); };
    state.steps = integer("steps");
    state.start = {json.at("start").at("nll").get<double>(),
                   json.at("start").at("mse").get<double>()};
    state.start_held_out = json.at("start_held_out").get<double>();
    state.counts = {integer("proposals"), integer("confirmed"), integer("accepted"),
                    integer("layer_forwards")};
    state.ranked = json.at("ranked").get<bool>();
    for (const nlohmann::json& layer : json.at("observed")) {
      state.observed[json_int(layer, "layer", name)] =
          layer.at("inputs").get<std::array<bool, kLayerInputs>>();
    }
    for (const nlohmann::json& layer : json.at("transforms")) {
      std::vector<ChannelTransform>& transforms = state.transforms.emplace_back();
      for (const nlohmann::json& coupling : layer) {
        ChannelTransform& transform = transforms.emplace_back(0);
        transform.order = coupling.at("order").get<std::vector<std::int32_t>>();
        transform.scale = coupling.at("scale").get<std::vector<float>>();
        transform.angle = coupling.at("angle").get<std::vector<float>>();
      }
    }
    for (const nlohmann::json& step : json.at("history")) {
      SearchStep& made = state.history.emplace_back();
      made.step = json_int(step, "step", name);
      for (const nlohmann::json& move : step.at("moves")) {
        made.moves.push_back(
            {json_int(move, "layer", name), move.at("coupling").get<std::string>()});
      }
      made.outcome = step.at("outcome").get<std::string>();
      made.loss = step.at("loss").get<double>();
      made.held_out = step.at("held_out").get<double>();
      made.layer_forwards = json_int(step, "layer_forwards", name);
    }
  } catch (const nlohmann::json::exception& error) {
    throw_file_error(name, "is no state of a search: {}", error.what());
  }
  const auto all_fit = [&](const std::vector<ChannelTransform>& layer) {
    return std::equal(layer.begin(), layer.end(), couplings.begin(), couplings.end(), fits);
  };
  check_history(state, spec, name);
  if (state.steps < 0 || !(state.start.nll > 0) || !(state.start.mse >= 0) ||
      state.transforms.size() != static_cast<std::size_t>(spec.layers) ||
      !std::all_of(state.transforms.begin(), state.transforms.end(), all_fit)) {
    throw_file_error(name, "is the state of a search over another model");
  }
  return state;
}

Search::Search(const std::vector<ModelTensor>& tensors, const std::vector<LayerFactors>& factors,
               const Decoder& start, Decoder& model, Objective& objective, const Recipe& recipe,
               ThreadPool& pool)
    : tensors_(tensors),
      factors_(factors),
      start_(start),
      model_(model),
      objective_(objective),
      recipe_(recipe),
      pool_(pool),
      couplings_(couplings_of(model.spec())) {
  const SearchOptions& options = recipe_.search;
  const std::pair<bool, const char*> kinds[] = {{options.ffn, "ffn"},
                                                {options.values, "vo"},
                                                {options.queries, "qk"},
                                                {options.norms, "norm"}};
  for (const auto& [searched, kind] : kinds) {
    if (!searched) continue;
    std::vector<std::size_t>& of_kind = searched_.emplace_back();
    for (std::size_t c = 0; c < couplings_.size(); ++c) {
      if (couplings_[c].name.starts_with(kind) && moves(couplings_[c], options)) {
        of_kind.push_back(c);
      }
    }
    if (of_kind.empty()) searched_.pop_back();
  }
  for (std::int64_t layer = 0; layer < model.spec().layers; ++layer) {
    std::vector<ChannelTransform>& transforms = state_.transforms.emplace_back();
    for (const Coupling& coupling : couplings_) transforms.emplace_back(coupling.channels);
  }
  if (searched_.empty()) {
    throw_error(ErrorCode::bad_request, "the model has no channels that the search could move");
  }
  std::int64_t weights = 0;
  for (const ModelTensor& tensor : tensors_) {
    if (layer_of(tensor.info.name) != 0 || !tensor.info.is_matrix()) continue;
    weights += tensor.rows.rows() * tensor.rows.cols();
  }
  together_ = layers_of_a_step(options, model.spec().layers, weights);
  state_.start = objective_.start();
  state_.start_held_out = objective_.held_out_loss();
  if (options.ranked > 0) gradient_.emplace(model, objective, pool);
}

std::int64_t Search::steps_of_a_round() const noexcept {
  return (model_.spec().layers + together_ - 1) / together_;
}

void Search::resume(SearchState state) {
  state_ = std::move(state);
  objective_.set_start(state_.start);
  visited_.clear();
}

FloatLayer Search::source_layer(std::int64_t layer) const {
  FloatLayer result;
  const LayerWeights& start = start_.weights().layers[static_cast<std::size_t>(layer)];
  for (const LayerNorm norm : {LayerNorm::attn, LayerNorm::ffn}) {
    result[norm] = norm_of(start, norm);
  }
  for (const ModelTensor& tensor : tensors_) {
    if (layer_of(tensor.info.name) != layer || !tensor.info.is_matrix()) continue;
    const LayerMatrix role = layer_matrix(tensor.info.name);
    FloatLayer::Part& part = result[role];
    part.rows = tensor.rows.rows();
    part.cols = tensor.rows.cols();
    part.weight = multiplied(
        tensor.rows, factors_[static_cast<std::size_t>(layer)][static_cast<std::size_t>(role)]);
    part.bias = dense_of(start, role).bias;
  }
  return result;
}

FloatLayer Search::moved_layer(std::int64_t layer) const {
  FloatLayer moved = source_layer(layer);
  for (std::size_t c = 0; c < couplings_.size(); ++c) {
    const FloatLayer before = moved;
    transform(before, couplings_[c], state_.transforms[static_cast<std::size_t>(layer)][c], moved);
  }
  return moved;
}

void Search::visit(StepRandom& place) {
  const std::int64_t layers = model_.spec().layers;
  const auto count = static_cast<std::size_t>(together_);
  std::vector<std::int64_t> chosen(static_cast<std::size_t>(layers));
  std::iota(chosen.begin(), chosen.end(), std::int64_t{0});
  for (std::size_t i = 0; i < count; ++i) {
    std::swap(chosen[i], chosen[i + place.below(chosen.size() - i)]);
  }
  chosen.resize(count);
  std::sort(chosen.begin(), chosen.end());
  const auto is_at = [](const std::unique_ptr<Visited>& at, std::int64_t layer) {
    return at->layer == layer;
  };
  if (std::ranges::equal(visited_, chosen, is_at)) return;
  visited_.clear();
  gradient_is_current_ = false;
  Remaking remaking{recipe_.range, weighs_ranges(recipe_), std::nullopt};
  if (recipe_.method == Method::gptq) remaking.damping = recipe_.damping;
  const auto was_at = [](const auto& observed, std::int64_t layer) {
    return observed.first == layer;
  };
  if (!std::ranges::equal(state_.observed, chosen, was_at)) {  // else it was resumed there
    state_.observed.clear();
    for (const std::int64_t layer : chosen) state_.observed[layer] = {};
    state_.ranked = false;
  }
  for (const std::int64_t layer : chosen) {
    const auto i = static_cast<std::size_t>(layer);
    SearchedLayer searched(couplings_, source_layer(layer), model_.weights().layers[i],
                           state_.transforms[i], remaking, pool_);
    visited_.push_back(std::unique_ptr<Visited>(new Visited{layer, std::move(searched), {}}));
  }
}

ChannelTransform& Search::transform_of(const Visited& at, std::size_t coupling) {
  return state_.transforms[static_cast<std::size_t>(at.layer)][coupling];
}

const Hessian& Search::moments(Visited& at, LayerMatrix reader) {
  const auto input = static_cast<std::size_t>(input_of(reader));
  if (!at.known.moments[input]) observe(at, input);
  return *at.known.moments[input];
}

// Takes the moments of an input; where proposals are ranked, which looks at all, of every one.
void Search::observe(Visited& at, std::size_t input) {
  const std::int64_t before = objective_.layer_forwards();
  const auto taken = [&](std::size_t i) { return i == input || gradient_; };
  objective_.run_layer(
      at.layer, [&](LinearInput seen, const float* x, std::int64_t tokens, std::int64_t cols) {
        const auto i = static_cast<std::size_t>(seen);
        if (!taken(i)) return true;
        std::optional<Hessian>& found = at.known.moments[i];
        if (!found) found.emplace(cols);
        found->add(x, tokens, objective_.host());
        return gradient_ && seen != LinearInput::down;
      });
  std::array<bool, kLayerInputs>& counted = state_.observed[at.layer];
  if (counted[input]) state_.counts.layer_forwards -= objective_.layer_forwards() - before;
  for (std::size_t i = 0; i < kLayerInputs; ++i) {
    if (!taken(i)) continue;
    at.known.moments[i]->require_finite();
    at.known.moments[i] = at.known.moments[i]->of({}, {});  // without its scratch
    counted[i] = true;
  }
}

const std::vector<float>& Search::means(Visited& at, LayerMatrix reader) {
  std::vector<float>& found = at.known.means[static_cast<std::size_t>(input_of(reader))];
  if (found.empty()) found = moments(at, reader).means();
  return found;
}

const std::vector<float>& Search::accepted(Visited& at, LayerMatrix matrix) {
  std::vector<float>& found = at.known.values[matrix];
  if (found.empty()) found = dequantized(at.searched.layout(matrix));
  return found;
}

std::optional<ChannelTransform> Search::propose_turn(Visited& at, std::size_t c,
                                                     StepRandom& random) {
  const Coupling& coupling = couplings_[c];
  const LayerMatrix first = coupling.makers.front().matrix;
  const std::int64_t cols = at.searched.layout(first).cols;
  const Hessian& inputs = moments(at, first);  // of all makers
  const std::vector<float> power = inputs.diagonal();
  RowScreen screen;
  screen.cols = cols;
  if (gradient_) screen.moments = means(at, first).data();
  screen.range = recipe_.range;
  screen.weighted = weighs_ranges(recipe_);
  for (const Coupling::Maker& maker : coupling.makers) {
    const MatrixView& layout = at.searched.layout(maker.matrix);
    RowScreen::Maker& screened = screen.makers.emplace_back(
        RowScreen::Maker{at.searched.columns(maker.matrix) + maker.first * cols, &layout, power});
    if (gradient_) {
      const LossSlope& slope = gradient_->of(at.layer)[static_cast<std::size_t>(maker.matrix)];
      screened.accepted = accepted(at, maker.matrix).data() + maker.first * cols;
      screened.gradient = slope.gradient.data() + maker.first * cols;
      screened.curvature = slope.curvature.data() + maker.first;
      screened.scale_power = maker.power;
    }
    if (recipe_.method != Method::gptq) continue;
    const auto made = at.known.compensations.try_emplace(maker.matrix, layout, all_groups(layout),
                                                         inputs, recipe_.damping, pool_);
    screened.compensation = &made.first->second;
  }
  state_.counts.proposals += recipe_.search.local;
  return screened_turn(transform_of(at, c), coupling, recipe_.search, screen, random);
}

std::optional<ChannelTransform> Search::propose(Visited& at, std::size_t c, StepRandom& random) {
  const Coupling& coupling = couplings_[c];
  const ChannelTransform& now = transform_of(at, c);
  const SearchOptions& options = recipe_.search;
  const bool turns = options.rotate && coupling.rotation == Exactness::exact;
  if (options.local > 0 && turns && (coupling.readers.empty() || random.below(2) == 0)) {
    return propose_turn(at, c, random);
  }
  if (options.local == 0 || coupling.readers.empty()) {
    ChannelTransform next = random_move(now, coupling, options, random);
    if (next == now) return std::nullopt;
    return next;
  }
  const LayerMatrix reader = coupling.readers.front().matrix;
  const MatrixView& layout = at.searched.layout(reader);
  const std::vector<float> power = moments(at, reader).diagonal();
  std::vector<Screen::Matrix> matrices;
  for (const Coupling::Reader& one : coupling.readers) {
    const Screen::Matrix matrix{at.searched.columns(one.matrix), &at.searched.layout(one.matrix)};
    if (matrices.empty() || matrices.back().weights != matrix.weights) matrices.push_back(matrix);
  }
  Screen screen(matrices, recipe_.range, weighs_ranges(recipe_), power, pool_);
  state_.counts.proposals += options.local;
  return screened_move(now, coupling, options, screen, power, at.searched.columns(reader),
                       layout.rows, layout.cols, random);
}

std::size_t Search::pick_coupling(StepRandom& random) const {
  const std::vector<std::size_t>& of_kind = searched_[random.below(searched_.size())];
  return of_kind[random.below(of_kind.size())];
}

SearchStep Search::step() {
  const std::int64_t before = objective_.layer_forwards();
  SearchStep step = take_step();
  state_.counts.layer_forwards += objective_.layer_forwards() - before;
  step.layer_forwards = state_.counts.layer_forwards;
  if (step.outcome == "accepted") state_.history.push_back(step);
  return step;
}

void Search::apply(Visited& at, const Choice& choice) {
  // Rounding to the nearest without weights looks at no moments.
  const bool weighs = recipe_.method == Method::gptq || weighs_ranges(recipe_);
  const auto seen_by = [&](LayerMatrix matrix) -> const Hessian* {
    return weighs ? &moments(at, matrix) : nullptr;
  };
  const Coupling& coupling = couplings_[choice.coupling];
  const bool turned = choice.next.angle != transform_of(at, choice.coupling).angle;
  at.searched.apply(choice.coupling, choice.next,
                    turned ? seen_by(coupling.makers.front().matrix) : nullptr,
                    coupling.readers.empty() ? nullptr : seen_by(coupling.readers.front().matrix));
}

void Search::take_gradient() {
  if (gradient_is_current_) return;
  std::vector<std::int64_t> layers;
  for (const std::unique_ptr<Visited>& at : visited_) layers.push_back(at->layer);
  gradient_->compute(layers);
  gradient_is_current_ = true;
  if (!state_.ranked) {
    const std::int64_t run = model_.spec().layers - layers.front();
    state_.counts.layer_forwards +=
        kForwardsOfGradient * run * static_cast<std::int64_t>(objective_.trained());
  }
  state_.ranked = true;
}

double Search::predicted(Visited& at, const Choice& choice) {
  const Coupling& coupling = couplings_[choice.coupling];
  // While the layer is as accepted.
  for (const Coupling::Maker& maker : coupling.makers) means(at, maker.matrix);
  for (const Coupling::Reader& reader : coupling.readers) means(at, reader.matrix);
  apply(at, choice);
  const double sum = at.searched.predicted(
      gradient_->of(at.layer), [&](LayerMatrix matrix) { return means(at, matrix).data(); },
      objective_.host());
  at.searched.undo();
  return sum;
}

// A proposal; where they are ranked, of each coupling the one that lowers the loss most by what its
// derivatives say, if any does, the best first, and only of couplings that are independent.
std::vector<Search::Choice> Search::choose(Visited& at, StepRandom& random) {
  std::vector<Choice> proposals;
  for (std::int64_t i = 0; i < std::max<std::int64_t>(1, recipe_.search.ranked); ++i) {
    const std::size_t c = pick_coupling(random);
    std::optional<ChannelTransform> next = propose(at, c, random);
    if (!next) continue;
    Choice choice{c, *std::move(next), 0};
    if (!gradient_) return {std::move(choice)};
    choice.predicted = predicted(at, choice);
    if (choice.predicted < 0) proposals.push_back(std::move(choice));
  }
  std::ranges::stable_sort(proposals, {}, &Choice::predicted);
  std::vector<Choice> chosen;
  for (Choice& choice : proposals) {
    const auto stands_apart = [&](const Choice& other) {
      return other.coupling != choice.coupling &&
             independent(couplings_[other.coupling], couplings_[choice.coupling]);
    };
    if (std::ranges::all_of(chosen, stands_apart)) chosen.push_back(std::move(choice));
  }
  return chosen;
}

bool Search::is_better(std::span<const Changed> changed, std::string& outcome) {
  const auto layer_of_change = [](const Changed& one) { return one.at->layer; };
  const auto [first, last] = std::ranges::minmax(changed | std::views::transform(layer_of_change));
  ++state_.counts.confirmed;
  const std::optional<double> loss = objective_.trial(first, last);
  outcome = loss ? "worse" : "given up";
  return loss && *loss < objective_.loss();  // not where it is no number
}

SearchStep Search::take_step() {
  const std::int64_t n = state_.steps++;
  const std::uint64_t seed = recipe_.calibration.seed;
  // A place to stay does not depend on how the steps there go.
  StepRandom place(~seed, static_cast<std::uint64_t>(n) / kStay);
  visit(place);
  StepRandom random(seed, static_cast<std::uint64_t>(n));
  SearchStep step;
  step.step = n;
  step.outcome = "no proposal";
  step.loss = objective_.loss();
  step.held_out = objective_.held_out_loss();
  if (gradient_) take_gradient();
  std::vector<Changed> changed;
  for (const std::unique_ptr<Visited>& at : visited_) {
    for (Choice& choice : choose(*at, random)) changed.push_back({at.get(), std::move(choice)});
  }
  std::ranges::stable_sort(changed, {}, [](const Changed& one) { return one.choice.predicted; });
  for (const Changed& one : changed) apply(*one.at, one.choice);
  while (!changed.empty() && !is_better(changed, step.outcome)) {
    // Those of which less is expected go back; if nothing else, so does the last.
    changed.erase(changed.begin() + static_cast<std::ptrdiff_t>(changed.size() / 2), changed.end());
    for (const std::unique_ptr<Visited>& at : visited_) at->searched.undo();
    for (const Changed& one : changed) apply(*one.at, one.choice);
  }
  if (changed.empty()) return step;
  accept(changed, step);
  return step;
}

void Search::accept(std::vector<Changed>& changed, SearchStep& step) {
  std::ranges::stable_sort(changed, {}, [](const Changed& one) { return one.at->layer; });
  for (const Changed& one : changed) {
    step.moves.push_back({one.at->layer, couplings_[one.choice.coupling].name});
  }
  for (const std::unique_ptr<Visited>& at : visited_) at->searched.accept();
  objective_.accept();
  for (const std::unique_ptr<Visited>& at : visited_) {
    at->known = {};
  }
  for (auto& [layer, inputs] : state_.observed) inputs = {};
  state_.ranked = gradient_is_current_ = false;
  ++state_.counts.accepted;
  step.outcome = "accepted";
  step.loss = objective_.loss();
  step.held_out = objective_.held_out_loss();
}

}  // namespace tenfold
