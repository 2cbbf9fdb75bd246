#include "quantizer/allocate/sensitivity.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "quantizer/columns.h"
#include "quantizer/reader.h"
#include "quantizer/rtn/realize.h"
#include "quantizer/squeeze/salience.h"

namespace tenfold {
namespace {

constexpr std::size_t kSampledTokens = 512;  // whose errors say how those of two choices agree
constexpr double kLeastLoss = 1e-6;          // below it all is chance
constexpr double kWorstLoss = 1e6;           // of what no longer gives numbers

double dot(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  }
  return sum;
}

// Of the choices that have one; the first where none has.
std::size_t least_error(const std::vector<double>& errors) {
  std::size_t least = 0;
  for (std::size_t c = 0; c < errors.size(); ++c) {
    if (errors[c] > 0 && (!(errors[least] > 0) || errors[c] < errors[least])) least = c;
  }
  return least;
}

std::vector<double> cross_terms(const LayerChoices& measured,
                                const std::vector<std::vector<float>>& errors, ThreadPool& pool) {
  const std::size_t all = errors.size();
  std::vector<double> losses, norms;
  for (const MatrixChoices& matrix : measured.matrices) {
    losses.insert(losses.end(), matrix.loss.begin(), matrix.loss.end());
  }
  for (const std::vector<float>& error : errors) norms.push_back(std::sqrt(dot(error, error)));
  std::vector<double> cross(all * all);
  pool.run(static_cast<int>(all), [&](int chunk, int) {
    const auto i = static_cast<std::size_t>(chunk);
    for (std::size_t j = i + 1; j < all; ++j) {
      const double product = norms[i] * norms[j];
      if (!(product > 0) || !std::isfinite(product)) continue;
      const double correlation = dot(errors[i], errors[j]) / product;
      cross[i * all + j] = 2 * correlation * std::sqrt(losses[i] * losses[j]);
    }
  });
  return cross;
}

}  // namespace

// Of each input of a layer: the mean squares, and the scores of its columns.
struct SensitivityModel::Inputs {
  std::array<std::vector<float>, kLayerInputs> power;
  std::array<std::vector<double>, kLayerInputs> scores;
};

SensitivityModel::SensitivityModel(const std::shared_ptr<const ModelSource>& source,
                                   const Calibration& calibration, const Recipe& recipe,
                                   const Objective::Resources& resources,
                                   std::function<void()> busy)
    : recipe_(recipe), model_(load_decoder(source, RowOrder::gguf)) {
  ObjectiveOptions options;
  options.alpha = 0;
  options.matched = 0;
  options.early = 0;
  options.target = SearchTarget::teacher;
  objective_.emplace(*model_, *model_, calibration, 0, options, resources, std::move(busy));
  sampled_ =
      std::max<std::size_t>(1, static_cast<std::size_t>(calibration.tokens()) / kSampledTokens);
}

// The inverse size of each token's stream, as that norm reads it.
std::vector<float> SensitivityModel::token_weights(std::int64_t layer, std::size_t sequence) const {
  const std::span<const float> stream = objective_->output(layer, sequence);
  const std::span<const float> reader = reader_of_outputs(model_->spec(), model_->weights(), layer);
  const auto dim = static_cast<std::size_t>(model_->info().dim);
  std::vector<float> weights;
  for (std::size_t t = 0; t < stream.size() / dim; ++t) {
    double power = 0;
    for (std::size_t c = 0; c < dim; ++c) {
      const double x = static_cast<double>(stream[t * dim + c]) *
                       static_cast<double>(reader.empty() ? 1.0f : reader[c]);
      power += x * x;
    }
    weights.push_back(power > 0 ? static_cast<float>(1 / std::sqrt(power)) : 0.0f);
  }
  return weights;
}

SensitivityModel::Inputs SensitivityModel::look_at_inputs(std::int64_t layer,
                                                          const std::vector<Matrix>& matrices,
                                                          ThreadPool& pool) {
  std::array<std::vector<double>, kLayerInputs> squares;
  objective_->run_layer(
      layer, [&](LinearInput at, const float* x, std::int64_t tokens, std::int64_t cols) {
        std::vector<double>& sums = squares[static_cast<std::size_t>(at)];
        sums.resize(static_cast<std::size_t>(cols));
        for (std::size_t i = 0; i < static_cast<std::size_t>(tokens * cols); ++i) {
          sums[i % sums.size()] += static_cast<double>(x[i]) * static_cast<double>(x[i]);
        }
        return at != LinearInput::down;
      });
  Inputs inputs;
  const auto tokens =
      static_cast<double>(objective_->output(layer, 0).size() * objective_->sequences()) /
      static_cast<double>(model_->info().dim);
  for (std::size_t at = 0; at < kLayerInputs; ++at) {
    for (const double sum : squares[at]) {
      inputs.power[at].push_back(static_cast<float>(sum / tokens));
    }
    std::vector<SalientMatrix> readers;
    std::vector<MatrixPlan> plans(matrices.size());
    for (const Matrix& matrix : matrices) {
      if (static_cast<std::size_t>(input_of(matrix.role)) != at) continue;
      readers.push_back({matrix.source, &plans[readers.size()], matrix.name});
    }
    if (recipe_.salience != Salience::weight) {  // PBAR needs the choice of bits first
      inputs.scores[at] = activation_scores(readers, inputs.power[at], pool);
      continue;
    }
    for (const SalientMatrix& reader : readers) {
      add_column_scores(*reader.source, pool, inputs.scores[at]);
    }
  }
  return inputs;
}

QuantizedMatrix SensitivityModel::realize_choice(const Matrix& matrix, const Widths& widths,
                                                 const Inputs& inputs, ThreadPool& pool) const {
  const auto at = static_cast<std::size_t>(input_of(matrix.role));
  MatrixPlan plan = plan_matrix(widths, recipe_.range, matrix.source->cols());
  if (plan.bands.size() == 2) {
    set_order(plan, column_order(inputs.scores[at], plan.bands[0].col_end));
  }
  std::vector<float> importance;
  if (weighs_ranges(recipe_)) {
    plan.range = RangeKind::weighted;
    importance = in_order(inputs.power[at], plan.order);
  }
  return realize(
      *matrix.source, plan, pool, matrix.name, [](std::int64_t) {}, importance);
}

// The mean square of the layer's change, relative to its stream; sample: of every so manieth token,
// the change itself.
double SensitivityModel::measured_error(std::int64_t layer, float* sample) {
  const auto dim = static_cast<std::size_t>(model_->info().dim);
  const std::span<const float> reader = reader_of_outputs(model_->spec(), model_->weights(), layer);
  double sum = 0;
  std::size_t tokens = 0;
  objective_->run_layer(layer, {}, [&](std::size_t sequence, std::span<const float> made) {
    const std::span<const float> full = objective_->output(layer, sequence);
    const std::vector<float> weights = token_weights(layer, sequence);
    for (std::size_t t = 0; t < weights.size(); ++t, ++tokens) {
      const bool kept = tokens % sampled_ == 0;
      for (std::size_t c = t * dim; c < (t + 1) * dim; ++c) {
        const float by = weights[t] * (reader.empty() ? 1.0f : reader[c - t * dim]);
        const float error = by * (made[c] - full[c]);
        sum += static_cast<double>(error) * static_cast<double>(error);
        if (kept) *sample++ = error;
      }
    }
  });
  return sum / static_cast<double>(tokens);
}

double SensitivityModel::final_loss(std::int64_t first, std::int64_t last) {
  return (*objective_->trial(first, last) - objective_->loss()) * objective_->start().nll;
}

LayerChoices SensitivityModel::measure(std::int64_t layer, const std::vector<Matrix>& matrices,
                                       ThreadPool& pool) {
  const Inputs inputs = look_at_inputs(layer, matrices, pool);
  LayerWeights& weights = model_->weights().layers[static_cast<std::size_t>(layer)];
  const std::size_t all_tokens = objective_->sequences() * objective_->output(layer, 0).size() /
                                 static_cast<std::size_t>(model_->info().dim);
  const std::size_t sample =
      (all_tokens + sampled_ - 1) / sampled_ * static_cast<std::size_t>(model_->info().dim);
  const Sensitivity by = recipe_.allocate.sensitivity;
  const bool cross = recipe_.allocate.cross;
  LayerChoices measured;
  std::vector<std::vector<float>> errors;  // by choice of all matrices
  for (const Matrix& matrix : matrices) {
    MatrixChoices& choices = measured.matrices.emplace_back();
    Dense& dense = dense_of(weights, matrix.role);
    const auto with = [&](std::size_t c, auto&& look) {
      QuantizedMatrix made = realize_choice(matrix, matrix.choices[c], inputs, pool);
      std::swap(dense.weight, made);
      look();
      std::swap(dense.weight, made);
      return static_cast<std::int64_t>(made.view.bytes());
    };
    double last = 0;  // of the reference, in nats
    for (std::size_t c = 0; c < matrix.choices.size(); ++c) {
      std::vector<float> sampled(sample);
      double loss = 0;
      choices.cost.push_back(with(c, [&] {
        loss = measured_error(layer, sampled.data());
        if (by == Sensitivity::scaled && c == matrix.reference) last = final_loss(layer, layer);
        if (by == Sensitivity::final) loss = std::max(final_loss(layer, layer), kLeastLoss);
      }));
      choices.loss.push_back(loss);
      if (cross) errors.push_back(std::move(sampled));
    }
    double scale = 1;
    if (by == Sensitivity::scaled) {
      std::size_t reference = matrix.reference;
      if (!(choices.loss[reference] > 0)) {  // exact: it says nothing of the others
        reference = least_error(choices.loss);
        with(reference, [&] { last = final_loss(layer, layer); });
      }
      const double error = choices.loss[reference];
      if (error > 0) scale = std::max(last, kLeastLoss) / error;
    }
    for (double& loss : choices.loss) {
      loss *= scale;
      if (!(loss < kWorstLoss)) loss = kWorstLoss;
    }
  }
  if (cross) measured.cross = cross_terms(measured, errors, pool);
  return measured;
}

SensitivityModel::Made SensitivityModel::make(std::int64_t layer,
                                              const std::vector<Matrix>& matrices,
                                              const LayerAnswer& answer, ThreadPool& pool) {
  const Inputs inputs = look_at_inputs(layer, matrices, pool);
  Made made{layer, {}, {}};
  for (std::size_t m = 0; m < matrices.size(); ++m) {
    made.roles.push_back(matrices[m].role);
    made.weights.push_back(
        realize_choice(matrices[m], matrices[m].choices[answer[m]], inputs, pool));
  }
  return made;
}

double SensitivityModel::raise(std::span<Made> made) {
  const auto swap_all = [&] {
    for (Made& layer : made) {
      LayerWeights& weights = model_->weights().layers[static_cast<std::size_t>(layer.layer)];
      for (std::size_t m = 0; m < layer.roles.size(); ++m) {
        std::swap(dense_of(weights, layer.roles[m]).weight, layer.weights[m]);
      }
    }
  };
  swap_all();
  const double raised = final_loss(made.front().layer, made.back().layer);
  swap_all();
  return raised;
}

}  // namespace tenfold
