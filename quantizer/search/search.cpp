#include "quantizer/search/search.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "kernels/error.h"
#include "quantizer/search/moves.h"
#include "quantizer/search/remake.h"
#include "quantizer/search/screen.h"
#include "runtime/files/json_file.h"

namespace tenfold {
namespace {

constexpr std::uint64_t kStay = 4;  // steps at one layer, whose moments serve until one is accepted

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

}  // namespace

nlohmann::ordered_json to_json(const SearchStep& step) {
  return {{"step", step.step},
          {"layer", step.layer},
          {"coupling", step.coupling},
          {"outcome", step.outcome},
          {"loss", step.loss},
          {"held_out", step.held_out},
          {"layer_forwards", step.layer_forwards}};
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
  json["layer"] = state.layer;
  json["observed"] = state.observed;
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
    state.layer = integer("layer");
    state.observed = json.at("observed").get<std::array<bool, kLayerInputs>>();
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
      state.history.push_back({json_int(step, "step", name), json_int(step, "layer", name),
                               step.at("coupling").get<std::string>(),
                               step.at("outcome").get<std::string>(), step.at("loss").get<double>(),
                               step.at("held_out").get<double>(),
                               json_int(step, "layer_forwards", name)});
    }
  } catch (const nlohmann::json::exception& error) {
    throw_file_error(name, "is no state of a search: {}", error.what());
  }
  const auto all_fit = [&](const std::vector<ChannelTransform>& layer) {
    return std::equal(layer.begin(), layer.end(), couplings.begin(), couplings.end(), fits);
  };
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
  state_.start = objective_.start();
  state_.start_held_out = objective_.held_out_loss();
}

void Search::resume(SearchState state) {
  state_ = std::move(state);
  objective_.set_start(state_.start);
  visited_ = -1;
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

void Search::visit(std::int64_t layer) {
  if (visited_ == layer) return;
  const auto i = static_cast<std::size_t>(layer);
  Remaking remaking{recipe_.range, weighs_ranges(recipe_), std::nullopt};
  if (recipe_.method == Method::gptq) remaking.damping = recipe_.damping;
  layer_.reset();
  forget_inputs();
  layer_.emplace(couplings_, source_layer(layer), model_.weights().layers[i], state_.transforms[i],
                 remaking, pool_);
  visited_ = layer;
  if (state_.layer != layer) state_.observed = {};
  state_.layer = layer;
}

void Search::forget_inputs() {
  moments_ = {};
  compensations_.clear();
}

const Hessian& Search::moments(LinearInput input, std::int64_t cols) {
  std::optional<Hessian>& found = moments_[static_cast<std::size_t>(input)];
  if (!found) {
    found.emplace(cols);
    const std::int64_t before = objective_.layer_forwards();
    objective_.run_layer(visited_,
                         [&](LinearInput at, const float* x, std::int64_t tokens, std::int64_t) {
                           if (at != input) return true;
                           found->add(x, tokens, objective_.host());
                           return false;
                         });
    found->require_finite();
    bool& counted = state_.observed[static_cast<std::size_t>(input)];
    if (counted) state_.counts.layer_forwards -= objective_.layer_forwards() - before;
    counted = true;
  }
  return *found;
}

std::optional<ChannelTransform> Search::propose_turn(std::size_t c, StepRandom& random) {
  const Coupling& coupling = couplings_[c];
  const LayerMatrix first = coupling.makers.front().matrix;
  const std::int64_t cols = layer_->layout(first).cols;
  const Hessian& inputs = moments(input_of(first), cols);  // of all makers
  const std::vector<float> power = inputs.diagonal();
  RowScreen screen;
  screen.cols = cols;
  screen.range = recipe_.range;
  screen.weighted = weighs_ranges(recipe_);
  for (const Coupling::Maker& maker : coupling.makers) {
    const MatrixView& layout = layer_->layout(maker.matrix);
    RowScreen::Maker& screened = screen.makers.emplace_back(
        RowScreen::Maker{layer_->columns(maker.matrix) + maker.first * cols, &layout, power});
    if (recipe_.method != Method::gptq) continue;
    const auto made = compensations_.try_emplace(maker.matrix, layout, all_groups(layout), inputs,
                                                 recipe_.damping, pool_);
    screened.compensation = &made.first->second;
  }
  state_.counts.proposals += recipe_.search.local;
  return screened_turn(state_.transforms[static_cast<std::size_t>(visited_)][c], coupling,
                       recipe_.search, screen, random);
}

std::optional<ChannelTransform> Search::propose(std::size_t c, StepRandom& random) {
  const Coupling& coupling = couplings_[c];
  const ChannelTransform& now = state_.transforms[static_cast<std::size_t>(visited_)][c];
  const SearchOptions& options = recipe_.search;
  const bool turns = options.rotate && coupling.rotation == Exactness::exact;
  if (options.local > 0 && turns && (coupling.readers.empty() || random.below(2) == 0)) {
    return propose_turn(c, random);
  }
  if (options.local == 0 || coupling.readers.empty()) {
    ChannelTransform next = random_move(now, coupling, options, random);
    if (next == now) return std::nullopt;
    return next;
  }
  const LayerMatrix reader = coupling.readers.front().matrix;
  const MatrixView& layout = layer_->layout(reader);
  const std::vector<float> power = moments(input_of(reader), layout.cols).diagonal();
  std::vector<Screen::Matrix> matrices;
  for (const Coupling::Reader& one : coupling.readers) {
    const Screen::Matrix matrix{layer_->columns(one.matrix), &layer_->layout(one.matrix)};
    if (matrices.empty() || matrices.back().weights != matrix.weights) matrices.push_back(matrix);
  }
  Screen screen(matrices, recipe_.range, weighs_ranges(recipe_), power, pool_);
  state_.counts.proposals += options.local;
  return screened_move(now, coupling, options, screen, power, layer_->columns(reader), layout.rows,
                       layout.cols, random);
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

SearchStep Search::take_step() {
  const std::int64_t n = state_.steps++;
  const std::uint64_t seed = recipe_.calibration.seed;
  // A place to stay does not depend on how the steps there go.
  StepRandom place(~seed, static_cast<std::uint64_t>(n) / kStay);
  visit(static_cast<std::int64_t>(place.below(static_cast<std::uint64_t>(model_.spec().layers))));
  StepRandom random(seed, static_cast<std::uint64_t>(n));
  const std::size_t c = pick_coupling(random);
  SearchStep step{n,
                  visited_,
                  couplings_[c].name,
                  "no proposal",
                  objective_.loss(),
                  objective_.held_out_loss()};
  const std::optional<ChannelTransform> next = propose(c, random);
  if (!next) return step;

  // Rounding to the nearest without weights looks at no moments.
  const bool weighs = recipe_.method == Method::gptq || weighs_ranges(recipe_);
  const auto seen_by = [&](LayerMatrix matrix) -> const Hessian* {
    return weighs ? &moments(input_of(matrix), layer_->layout(matrix).cols) : nullptr;
  };
  const Coupling& coupling = couplings_[c];
  const bool turned = next->angle != state_.transforms[static_cast<std::size_t>(visited_)][c].angle;
  layer_->apply(c, *next, turned ? seen_by(coupling.makers.front().matrix) : nullptr,
                coupling.readers.empty() ? nullptr : seen_by(coupling.readers.front().matrix));
  ++state_.counts.confirmed;
  const std::optional<double> loss = objective_.trial(visited_, visited_);
  if (!loss || !(*loss < objective_.loss())) {  // nor where it is no number
    layer_->undo();
    step.outcome = loss ? "worse" : "given up";
    return step;
  }
  layer_->accept();
  objective_.accept();
  forget_inputs();
  state_.observed = {};
  ++state_.counts.accepted;
  step.outcome = "accepted";
  step.loss = objective_.loss();
  step.held_out = objective_.held_out_loss();
  return step;
}

}  // namespace tenfold
