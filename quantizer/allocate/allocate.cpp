#include "quantizer/allocate/allocate.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "kernels/error.h"
#include "quantizer/allocate/sensitivity.h"
#include "quantizer/checkpoint.h"
#include "quantizer/columns.h"
#include "quantizer/identity.h"
#include "runtime/files/json_file.h"
#include "runtime/files/output_file.h"

namespace tenfold {
namespace {

constexpr double kRatios[] = {0.02, 0.05, 0.1, 0.15, 0.2, 0.3};
constexpr double kMixedRatios[] = {0.1, 0.2, 0.3};  // of the widths near the target
constexpr int kWidths[] = {1, 2, 3, 4, 8};
constexpr std::int64_t kLossBytes = 800;    // what a file says of a layer's losses
constexpr std::int64_t kMeasureSteps = 20;  // of progress, for one that a check takes

nlohmann::ordered_json to_json(const LayerChoices& layer) {
  nlohmann::ordered_json json;
  for (const MatrixChoices& matrix : layer.matrices) {
    json["matrices"].push_back({{"cost", matrix.cost}, {"loss", matrix.loss}});
  }
  json["cross"] = layer.cross;
  return json;
}

// Throws bad_file where they are not those of `matrices`.
LayerChoices read_choices(const nlohmann::json& json,
                          const std::vector<SensitivityModel::Matrix>& matrices,
                          const std::string& name) {
  LayerChoices layer;
  try {
    for (const nlohmann::json& matrix : json.at("matrices")) {
      layer.matrices.push_back({matrix.at("cost").get<std::vector<std::int64_t>>(),
                                matrix.at("loss").get<std::vector<double>>()});
    }
    layer.cross = json.at("cross").get<std::vector<double>>();
  } catch (const nlohmann::json::exception&) {
    throw_file_error(name, "does not hold the costs and losses of a layer");
  }
  bool fits = layer.matrices.size() == matrices.size();
  for (std::size_t m = 0; fits && m < matrices.size(); ++m) {
    fits = layer.matrices[m].cost.size() == matrices[m].choices.size() &&
           layer.matrices[m].loss.size() == matrices[m].choices.size();
  }
  fits = fits && (layer.cross.empty() || layer.cross.size() == layer.choices() * layer.choices());
  if (!fits) throw_file_error(name, "holds the costs of other choices than the recipe's");
  return layer;
}

double bits_of(std::int64_t bytes, std::int64_t weights) {
  return 8.0 * static_cast<double>(bytes) / static_cast<double>(weights);
}

bool same(const Widths& a, const Widths& b) {
  return a.bits == b.bits && a.mixed == b.mixed && (a.mixed == 0 || a.high_bits == b.high_bits);
}

class AllocationRun {
 public:
  AllocationRun(const std::shared_ptr<const ModelSource>& source,
                const std::filesystem::path& output, const QuantizeOptions& options)
      : source_(source),
        output_(output),
        options_(options),
        family_(find_family(*source)),
        spec_(read_spec(family_, *source)),
        tensors_(read_tensors(family_, spec_, *source)),
        pool_(options.threads > 0 ? options.threads : default_thread_count()) {}

  // The recipe with what was chosen as rules.
  QuantizeOptions solve() {
    // All that can be refused is refused before minutes of measuring.
    set_budget();
    for (std::int64_t layer = 0; layer < spec_.layers; ++layer) {
      matrices_.push_back(layer_matrices(layer));
    }
    check_target();
    if (!options_.dry_run) {
      check_output(output_, options_.overwrite);
      check_space(output_, 2 * static_cast<std::uint64_t>(budget_));
      if (!options_.resume && !options_.overwrite) Checkpoint::refuse_leftovers(output_);
    }
    Calibration calibration = draw_calibration(*source_, options_.recipe.calibration);
    Recipe endless = options_.recipe;  // a longer search begins with the same budget
    endless.search.steps = std::min<std::int64_t>(endless.search.steps, 1);
    if (!options_.dry_run) {
      const auto start = options_.resume ? Checkpoint::Start::resume : Checkpoint::Start::fresh;
      checkpoint_.emplace(output_.string() + ".allocation",
                          run_identity(endless, calibration, spec_, tensors_, arithmetic(options_)),
                          start, options_.overwrite);
    }
    const auto used = static_cast<std::size_t>(options_.recipe.allocate.sequences);
    if (calibration.sequences.size() > used) calibration.sequences.resize(used);
    const Objective::Resources resources{
        device_options(options_, pool_.size()),
        checkpoint_ ? checkpoint_->folder() : std::filesystem::temp_directory_path(),
        options_.spill_above};
    SensitivityModel model(source_, calibration, options_.recipe, resources, [this] { report(); });
    std::vector<LayerChoices> layers;
    for (std::int64_t layer = 0; layer < spec_.layers; ++layer) {
      layers.push_back(measured(model, layer));
      done_ += kMeasureSteps;
      report();
    }
    std::vector<LayerAnswer> answers = solve_budget(layers, budget_);
    // Rules, further tensors and their padding: known only once the answer is.
    for (std::int64_t over = too_large(answers); over > 0; over = too_large(answers)) {
      budget_ -= over;
      answers = solve_budget(layers, budget_);
    }
    return answer(model, layers, answers);
  }

  void forget() {
    if (checkpoint_) checkpoint_->remove();
  }

 private:
  void report() const {
    const auto total = static_cast<std::uint64_t>(spec_.layers * (kMeasureSteps + 1));
    if (!options_.on_allocation || options_.on_allocation(done_, total)) return;
    if (!checkpoint_) throw_error(ErrorCode::cancelled, "interrupted");
    throw_error(ErrorCode::cancelled, "interrupted; {} was not written: --resume goes on",
                output_.string());
  }

  // Bytes by which the file of this answer would miss its target.
  std::int64_t too_large(const std::vector<LayerAnswer>& answers) const {
    if (options_.recipe.allocate.target_bytes == 0) return 0;
    QuantizeOptions solved = options_;
    solved.recipe = with_rules(answers);
    const std::uint64_t file = planned_size(source_, solved).file;
    return static_cast<std::int64_t>(file) + spec_.layers * kLossBytes - target_bytes();
  }

  std::int64_t target_bytes() const {
    constexpr std::uint64_t kMost = std::uint64_t{1} << 60;
    return static_cast<std::int64_t>(std::min(options_.recipe.allocate.target_bytes, kMost));
  }

  // Bytes that the layers' matrices may take, and the bits of a weight that makes.
  void set_budget() {
    for (const ModelTensor& tensor : tensors_) {
      if (is_layer_matrix(tensor)) elements_ += tensor.rows.rows() * tensor.rows.cols();
    }
    const AllocateOptions& allocate = options_.recipe.allocate;
    if (allocate.target_bytes == 0) {
      budget_ =
          static_cast<std::int64_t>(allocate.target_bits * static_cast<double>(elements_) / 8);
    } else {
      QuantizeOptions plain = options_;
      plain.recipe.allocate = {};
      plain.recipe.salience = Salience::weight;  // nothing is mixed here
      plain.recipe.pbar_lambda.reset();
      plain.recipe.pbar_trials = false;
      const PlannedSize size = planned_size(source_, plain);
      rest_ = static_cast<std::int64_t>(size.file - size.layers) + spec_.layers * kLossBytes;
      budget_ = target_bytes() - rest_;
    }
    target_bits_ = bits_of(budget_, elements_);
  }

  // What the cheapest and the dearest choices cost follows from their layouts.
  void check_target() const {
    std::int64_t least = 0, most = 0;
    for (const auto& layer : matrices_) {
      for (const SensitivityModel::Matrix& matrix : layer) {
        std::vector<std::int64_t> costs;
        for (const Widths& widths : matrix.choices) {
          costs.push_back(bytes_of(*matrix.source, widths));
        }
        least += *std::min_element(costs.begin(), costs.end());
        most += *std::max_element(costs.begin(), costs.end());
      }
    }
    if (budget_ < least) {
      throw_error(ErrorCode::bad_request,
                  "{}: a target of {} is too small: the cheapest choices take {}; larger groups or "
                  "fewer bits would do",
                  source_->path(), target_of(budget_), target_of(least));
    }
    if (budget_ > most) {
      throw_error(ErrorCode::bad_request,
                  "{}: a target of {} cannot be used up: the dearest choices take {}",
                  source_->path(), target_of(budget_), target_of(most));
    }
  }

  // What the layers' matrices take, as the target is given.
  std::string target_of(std::int64_t layers) const {
    if (options_.recipe.allocate.target_bytes > 0) {
      return fmt::format("{} bytes", layers + rest_);
    }
    return fmt::format("{:.3f} bits a weight", bits_of(layers, elements_));
  }

  static bool is_layer_matrix(const ModelTensor& tensor) {
    return tensor.info.is_matrix() && layer_of(tensor.info.name) >= 0;
  }

  std::vector<SensitivityModel::Matrix> layer_matrices(std::int64_t layer) const {
    std::vector<SensitivityModel::Matrix> matrices;
    for (const ModelTensor& tensor : tensors_) {
      if (!is_layer_matrix(tensor) || layer_of(tensor.info.name) != layer) continue;
      SensitivityModel::Matrix matrix{
          fmt::format("{}: tensor \"{}\"", source_->path(), tensor.info.name), &tensor.rows,
          layer_matrix(tensor.info.name),
          allocation_choices(options_.recipe, tensor.rows.cols(), target_bits_)};
      double nearest = 0;
      for (std::size_t c = 0; c < matrix.choices.size(); ++c) {
        const double bits = bits_of(bytes_of(tensor.rows, matrix.choices[c]),
                                    tensor.rows.rows() * tensor.rows.cols());
        const double away = std::fabs(bits - target_bits_);
        if (c > 0 && away >= nearest) continue;
        nearest = away;
        matrix.reference = c;
      }
      matrices.push_back(std::move(matrix));
    }
    return matrices;
  }

  std::int64_t bytes_of(const RowReader& rows, const Widths& widths) const {
    const MatrixPlan plan = plan_matrix(widths, options_.recipe.range, rows.cols());
    return static_cast<std::int64_t>(layout_of(plan, rows.rows(), rows.cols()).bytes());
  }

  LayerChoices measured(SensitivityModel& model, std::int64_t layer) {
    const std::vector<SensitivityModel::Matrix>& matrices =
        matrices_[static_cast<std::size_t>(layer)];
    if (const auto saved = checkpoint_ ? checkpoint_->layer(layer) : std::nullopt) {
      const std::string_view text(reinterpret_cast<const char*>(saved->bytes().data()),
                                  saved->bytes().size());
      return read_choices(parse_json(text, saved->path()), matrices, saved->path());
    }
    LayerChoices choices = model.measure(layer, matrices, pool_);
    const std::string text = to_json(choices).dump();
    if (checkpoint_) checkpoint_->save(layer, {std::as_bytes(std::span(text))}, "");
    return choices;
  }

  Recipe with_rules(const std::vector<LayerAnswer>& answers) const {
    Recipe recipe = options_.recipe;
    recipe.allocate.solved = true;
    for (std::size_t layer = 0; layer < answers.size(); ++layer) {
      add_rules(static_cast<std::int64_t>(layer), answers[layer], recipe.rules);
    }
    return recipe;
  }

  QuantizeOptions answer(SensitivityModel& model, const std::vector<LayerChoices>& layers,
                         const std::vector<LayerAnswer>& answers) {
    QuantizeOptions solved = options_;
    solved.recipe = with_rules(answers);
    nlohmann::ordered_json summary;
    std::vector<SensitivityModel::Made> made;
    double predicted = 0;
    std::int64_t bytes = 0;
    const bool in_nats = options_.recipe.allocate.sensitivity != Sensitivity::block;
    for (std::int64_t layer = 0; layer < spec_.layers; ++layer) {
      const auto at = static_cast<std::size_t>(layer);
      const double expected = loss_of(layers[at], answers[at]);
      nlohmann::ordered_json of_layer{{"predicted", expected}};
      if (in_nats) {
        made.push_back(model.make(layer, matrices_[at], answers[at], pool_));
        of_layer["measured"] = model.raise(std::span(made).last(1));
      }
      summary["layers"].push_back(std::move(of_layer));
      predicted += expected;
      bytes += cost_of(layers[at], answers[at]);
      ++done_;
      report();
    }
    summary["predicted"] = predicted;
    if (in_nats) summary["measured"] = model.raise(made);
    summary["bytes"] = bytes;
    summary["budget"] = budget_;
    solved.allocation = summary.dump();
    return solved;
  }

  // One for each choice of the layer.
  void add_rules(std::int64_t layer, const LayerAnswer& answer, std::vector<Rule>& rules) const {
    const std::vector<SensitivityModel::Matrix>& matrices =
        matrices_[static_cast<std::size_t>(layer)];
    std::vector<std::pair<Widths, std::vector<LayerMatrix>>> chosen;
    for (std::size_t m = 0; m < matrices.size(); ++m) {
      const Widths& widths = matrices[m].choices[answer[m]];
      const auto alike = std::find_if(chosen.begin(), chosen.end(),
                                      [&](const auto& other) { return same(other.first, widths); });
      auto& roles =
          alike == chosen.end() ? chosen.emplace_back(widths, std::vector<LayerMatrix>()) : *alike;
      roles.second.push_back(matrices[m].role);
    }
    for (const auto& [widths, roles] : chosen) {
      Rule rule;
      rule.matrices = roles;
      rule.layers = {layer, layer};
      rule.bits = widths.bits;
      if (widths.mixed > 0) {
        rule.mixed = widths.mixed;
        rule.high_bits = widths.high_bits;
      }
      rules.push_back(std::move(rule));
    }
  }

  std::shared_ptr<const ModelSource> source_;
  const std::filesystem::path& output_;
  const QuantizeOptions& options_;
  const Family& family_;
  DecoderSpec spec_;
  std::vector<ModelTensor> tensors_;
  ThreadPool pool_;
  std::optional<Checkpoint> checkpoint_;
  std::vector<std::vector<SensitivityModel::Matrix>> matrices_;  // by layer
  std::int64_t elements_ = 0;                                    // of the layers' matrices
  std::int64_t budget_ = 0;                                      // bytes of theirs
  std::int64_t rest_ = 0;                                        // bytes of the file beside them
  double target_bits_ = 0;                                       // the budget, a weight
  std::uint64_t done_ = 0;
};

}  // namespace

std::vector<Widths> allocation_choices(const Recipe& recipe, std::int64_t cols,
                                       double target_bits) {
  std::vector<Widths> choices;
  const auto add = [&](int bits, double share, int high_bits) {
    Widths widths{bits, recipe.group, recipe.min, share, high_bits};
    if (share > 0) {
      const std::int64_t high = mixed_columns(share, cols);
      if (high == 0) return;  // too narrow for two bands
      widths.mixed = static_cast<double>(high) / static_cast<double>(cols);
    }
    const bool there = std::any_of(choices.begin(), choices.end(),
                                   [&](const Widths& other) { return same(other, widths); });
    if (!there) choices.push_back(widths);
  };
  if (recipe.allocate.kind == Allocation::ratio) {
    add(recipe.bits, 0, recipe.high_bits);
    for (const double share : kRatios) add(recipe.bits, share, recipe.high_bits);
    return choices;
  }
  for (const int bits : recipe.allocate.widths) add(bits, 0, kMixedHighBits);
  if (!choices.empty()) return choices;
  // Scales and zero points of a group take a part of the target.
  const std::int64_t group = recipe.group == 0 ? cols : std::min(recipe.group, cols);
  int low = kWidths[0];
  for (const int bits : kWidths) {
    const double taken = bits + (16.0 + bits) / static_cast<double>(group);
    if (bits < 8 && taken <= target_bits) low = bits;
  }
  // A column of 2 bits is worth little more than one of 1 (Squeeze10-LLM mixes 1 and 4).
  const int high = low == 1 ? kMixedHighBits : low == 4 ? 8 : low + 1;
  for (const int bits : kWidths) {
    add(bits, 0, high);
    if (bits != low || !mixes(recipe)) continue;
    for (const double share : kMixedRatios) add(low, share, high);
  }
  return choices;
}

QuantizeResult allocate_and_quantize(
    const std::shared_ptr<const ModelSource>& source, const std::filesystem::path& output,
    const QuantizeOptions& options,
    const std::function<bool(std::uint64_t, std::uint64_t)>& progress) {
  AllocationRun run(source, output, options);
  const QuantizeOptions solved = run.solve();
  QuantizeResult result = quantize(source, output, solved, progress);
  result.rules = solved.recipe.rules;
  result.allocation = solved.allocation;
  run.forget();
  return result;
}

}  // namespace tenfold
