#include "quantizer/calibrated.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <utility>

#include "quantizer/awq/scales.h"
#include "quantizer/columns.h"
#include "quantizer/gptq/realize.h"
#include "quantizer/omniquant/learn.h"
#include "quantizer/reader.h"
#include "quantizer/rtn/realize.h"
#include "quantizer/squeeze/salience.h"
#include "runtime/files/spill.h"
#include "runtime/score.h"

namespace tenfold {
namespace {

// The order in which a layer runs its products.
constexpr LinearInput kInputs[] = {LinearInput::qkv, LinearInput::attn_output, LinearInput::mlp,
                                   LinearInput::down};

// Of PBAR (design/papers.md 2.2), of which the best for each input is taken.
constexpr double kPbarLambdas[] = {0, 0.25, 0.5, 1, 2};

void weigh(const std::vector<float>& weights, std::vector<float>& x) {
  if (weights.empty()) return;
  const std::size_t cols = x.size() / weights.size();
  for (std::size_t i = 0; i < x.size(); ++i) x[i] *= weights[i / cols];
}

// Of learned grids, when the rows of their matrix are multiplied.
void scale_grids(MatrixPlan& plan, std::int64_t rows, std::int64_t cols,
                 const std::function<float(std::int64_t)>& factor) {
  const MatrixView layout = layout_of(plan, rows, cols);
  const std::vector<ColumnGroup> groups = column_groups(layout);
  for (std::size_t i = 0; i < plan.grids.size(); ++i) {
    const std::size_t panel = i / kPanelRows / groups.size();
    const auto row = static_cast<std::int64_t>(panel * kPanelRows + i % kPanelRows);
    if (row >= rows) continue;
    const ColumnGroup& group = groups[i / kPanelRows % groups.size()];
    const Band& band = layout.bands[static_cast<std::size_t>(group.band)];
    Grid& grid = plan.grids[i];
    grid = make_grid(grid.scale * factor(row), grid.min * factor(row),
                     format_traits(band.format).bits, band.min_kind);
  }
}

}  // namespace

CalibratedModel::CalibratedModel(std::shared_ptr<const ModelSource> source, Calibration calibration,
                                 const Recipe& recipe, const Resources& resources,
                                 std::function<void()> busy)
    : calibration_(std::move(calibration)),
      recipe_(recipe),
      busy_(std::move(busy)),
      ws_(make_workspace(resources.device)),
      model_(load_decoder(source, RowOrder::gguf)),
      kv_(kv_shape(model_->info(), KvType::f16),
          static_cast<std::int64_t>(calibration_.sequences.front().size()), 1, *ws_.backend),
      residual_(stream(resources)) {
  const std::size_t floats =
      calibration_.sequences.front().size() * static_cast<std::size_t>(model_->info().dim);
  for (std::size_t s = 0; s < calibration_.sequences.size(); ++s) {
    busy_();
    batch_.clear();
    std::int32_t position = 0;
    for (const TokenId id : calibration_.sequences[s]) batch_.add(id, position++, 0);
    begin_step(*model_, batch_, kv_, ws_);
    model_->embed(batch_, ws_);
    std::ranges::copy(ws_.stream(floats), residual_.as<float>() + s * floats);
  }
  const auto copy = [&] {
    Buffer buffer = stream(resources);
    std::memcpy(buffer.data(), residual_.data(), residual_.bytes());
    return buffer;
  };
  if (learns(recipe_)) full_ = copy();
  if (recipe_.supervision != Supervision::none) full_model_.emplace(source, copy(), floats);
}

Buffer CalibratedModel::stream(const Resources& resources) const {
  const std::size_t bytes =
      static_cast<std::size_t>(calibration_.tokens() * model_->info().dim) * sizeof(float);
  return bytes > resources.spill_above ? spilled_buffer(bytes, resources.folder) : Buffer(bytes);
}

// At least one is; a lone one is both.
std::size_t CalibratedModel::trained() const noexcept {
  const std::size_t all = calibration_.sequences.size();
  return all - static_cast<std::size_t>(held_out_sequences(static_cast<std::int64_t>(all)));
}

// All sequences have the same length and positions, so the step of the last one serves for all.
void CalibratedModel::load_sequence(std::size_t sequence) {
  busy_();
  const auto floats = static_cast<std::size_t>(batch_.size() * model_->info().dim);
  ws_.set_stream({residual_.as<float>() + sequence * floats, floats});
}

std::int64_t CalibratedModel::input_cols(LinearInput input) const {
  const DecoderSpec& spec = model_->spec();
  switch (input) {
    case LinearInput::attn_output:
      return spec.heads * spec.head_dim;
    case LinearInput::down:
      return spec.ffn;
    case LinearInput::head:
      return spec.embed_dim;
    default:
      return spec.dim;
  }
}

std::vector<float> CalibratedModel::reader_of(std::int64_t layer, LinearInput input) const {
  const DecoderSpec& spec = model_->spec();
  if (spec.post_norm) return {};
  if (input == LinearInput::attn_output) return layer_weights(layer).ffn_norm.weight;
  if (input != LinearInput::down) return {};
  const std::span<const float> reader = reader_of_outputs(spec, model_->weights(), layer);
  return {reader.begin(), reader.end()};
}

// By which each token's input counts: the inverse root of the size of the stream that its product
// is added to, as the norm reads it. An error of a token whose stream is massive means less
// (docs/design.md). Empty: all count the same.
std::vector<float> CalibratedModel::token_weights(std::span<const float> reader) {
  if (reader.empty()) return {};
  const auto dim = static_cast<std::size_t>(model_->info().dim);
  const auto tokens = static_cast<std::size_t>(batch_.size());
  const std::span<const float> stream = ws_.stream(tokens * dim);
  std::vector<float> weights;
  for (std::size_t t = 0; t < tokens; ++t) {
    double power = 0;
    for (std::size_t c = 0; c < dim; ++c) {
      const auto read = static_cast<double>(stream[t * dim + c] * reader[c]);
      power += read * read / static_cast<double>(dim);
    }
    weights.push_back(power > 0 ? static_cast<float>(std::pow(power, -0.25)) : 1.0f);
  }
  return weights;
}

CalibratedModel::Observed CalibratedModel::observe(std::int64_t layer, LinearInput input,
                                                   const std::vector<float>& reader,
                                                   const std::function<void()>& run) {
  ws_.backend->forget_all();
  Observed observed;
  std::optional<Hessian> full;
  const bool guided = full_model_ && input != LinearInput::head;
  if (looks_at_inputs(recipe_)) observed.hessian.emplace(input_cols(input));
  if (guided && recipe_.supervision == Supervision::target) {
    observed.cross.emplace(input_cols(input));
  } else if (guided) {
    full.emplace(input_cols(input));
  }
  observed.held_out.row_weight = reader;
  const std::size_t all = calibration_.sequences.size();
  const std::size_t first_held_out = std::min(trained(), all - 1);
  std::vector<float> seen;
  // What is observed for a norm ends where that norm is read: the stream is then what it reads.
  const bool reader_is_ffn_norm = !reader.empty() && input == LinearInput::attn_output;
  const InputTap tap = [&](LinearInput at, const float* x, std::int64_t tokens, std::int64_t cols) {
    if (at != input) return !(reader_is_ffn_norm && at == LinearInput::mlp);
    seen.assign(x, x + tokens * cols);
    return !reader.empty();
  };
  for (std::size_t sequence = 0; sequence < all; ++sequence) {
    load_sequence(sequence);
    ws_.input_tap = tap;
    run();
    ws_.input_tap = {};
    const std::vector<float> weights = token_weights(reader);
    weigh(weights, seen);
    if (sequence < trained() && observed.hessian) {
      observed.hessian->add(seen.data(), batch_.size(), ws_.host());
    }
    if (sequence < trained() && guided) {
      std::vector<float> x = full_model_->input(layer, input, sequence, batch_, kv_, ws_);
      weigh(weights, x);
      if (observed.cross) {
        observed.cross->add(seen.data(), x.data(), batch_.size(), ws_.host());
      } else {
        full->add(x.data(), batch_.size(), ws_.host());
      }
    }
    if (sequence < first_held_out) continue;
    observed.held_out.x.insert(observed.held_out.x.end(), seen.begin(), seen.end());
    observed.held_out.tokens += batch_.size();
  }
  if (full) full->require_finite();
  if (observed.cross) observed.cross->require_finite();
  if (full && recipe_.supervision == Supervision::full) observed.hessian = std::move(full);
  if (full && recipe_.supervision == Supervision::blend) observed.hessian->blend(*full, 0.5);
  if (observed.hessian) observed.hessian->require_finite();
  return observed;
}

// Of all inputs of a layer, by LinearInput.
std::vector<Hessian> CalibratedModel::observe_all(std::int64_t layer) {
  ws_.backend->forget_all();
  std::vector<Hessian> hessians;
  for (const LinearInput input : kInputs) hessians.emplace_back(input_cols(input));
  ws_.input_tap = [&](LinearInput at, const float* x, std::int64_t tokens, std::int64_t) {
    hessians[static_cast<std::size_t>(at)].add(x, tokens, ws_.host());
    return at != LinearInput::down;
  };
  for (std::size_t s = 0; s < trained(); ++s) {
    load_sequence(s);
    model_->layer(layer, batch_, kv_, ws_);
  }
  ws_.input_tap = {};
  for (const Hessian& hessian : hessians) hessian.require_finite();
  return hessians;
}

// Multiplies the columns of the matrices that read an input, and divides what it comes from: norms,
// the rows of v before the attention's output and of up before down.
void CalibratedModel::divide_input(std::int64_t layer, LinearInput input,
                                   const std::vector<float>& scale, std::vector<Matrix>& matrices) {
  const auto divide = [&](std::vector<float>& values) {
    for (std::size_t c = 0; c < values.size(); ++c) values[c] /= scale[c];
  };
  const auto multiply = [](std::vector<float>& factor, const std::vector<float>& by) {
    factor.resize(by.size(), 1.0f);
    for (std::size_t c = 0; c < by.size(); ++c) factor[c] *= by[c];
  };
  std::vector<float> inverse;
  for (const float s : scale) inverse.push_back(1.0f / s);
  LayerWeights& weights = layer_weights(layer);
  const auto divide_rows = [&](LayerMatrix role) {
    divide(dense_of(weights, role).bias);
    for (Matrix& matrix : matrices) {
      if (matrix.role == role) multiply(matrix.plan.row_factor, inverse);
    }
  };
  const auto divide_norm = [&](Norm& norm) {
    divide(norm.weight);
    divide(norm.bias);
  };
  if (input == LinearInput::qkv) divide_norm(weights.attn_norm);
  if (input == LinearInput::attn_output) divide_rows(LayerMatrix::v);
  if (input == LinearInput::mlp) divide_norm(weights.ffn_norm);
  if (input == LinearInput::down) divide_rows(LayerMatrix::up);
  for (Matrix& matrix : matrices) {
    if (matrix.input() == input) multiply(matrix.plan.col_factor, scale);
  }
}

// AWQ. The layer's inputs are those its weights make before any of them is rounded.
void CalibratedModel::scale_inputs(std::int64_t layer, const std::vector<Hessian>& hessians,
                                   std::vector<Matrix>& matrices, LayerLosses& losses,
                                   ThreadPool& pool) {
  const DecoderSpec& spec = model_->spec();
  if (spec.post_norm) return;  // the norm's output is the residual stream: nowhere to fold into
  for (const LinearInput input : kInputs) {
    // Several query heads read one value head: their scales would have to agree.
    if (input == LinearInput::attn_output && spec.heads != spec.kv_heads) continue;
    const auto at = static_cast<std::size_t>(input);
    std::vector<AwqMatrix> readers;
    for (const Matrix& matrix : matrices) {
      if (matrix.input() == input) readers.push_back({matrix.source, &matrix.plan});
    }
    const AwqScales scales = search_scales(hessians[at], readers, ws_.host(), pool);
    losses.awq_ratio[at] = scales.ratio;
    if (!scales.scale.empty()) divide_input(layer, input, scales.scale, matrices);
  }
}

// Moves the full-precision stream on over a layer that is still the source's.
void CalibratedModel::make_targets(std::int64_t layer, const std::vector<Matrix>& matrices,
                                   ThreadPool& pool) {
  Block block(model_->spec(), batch_.size(), ws_.host(), pool);
  std::array<std::vector<float>, kLayerMatrices> full;
  BlockWeights weights{};
  for (const Matrix& matrix : matrices) {
    const auto role = static_cast<std::size_t>(matrix.role);
    full[role].resize(shape_of(model_->spec(), matrix.role).elements());
    read_all(*matrix.source, full[role].data());
    weights[role] = full[role].data();
  }
  const auto floats = static_cast<std::size_t>(batch_.size() * model_->info().dim);
  std::vector<float> output(floats);
  for (std::size_t s = 0; s < calibration_.sequences.size(); ++s) {
    busy_();
    float* stream = full_.as<float>() + s * floats;
    block.forward(layer_weights(layer), weights, stream, output.data());
    std::copy(output.begin(), output.end(), stream);
  }
}

LearnResult CalibratedModel::learn(std::int64_t layer, Block& block,
                                   std::span<LearnedMatrix* const> by_role,
                                   const LearnOptions& options) {
  const auto all = static_cast<std::int64_t>(calibration_.sequences.size());
  const DecoderSpec& spec = model_->spec();
  const std::vector<float> reader = reader_of(layer, LinearInput::down);
  const BlockData data{residual_.as<float>(), full_.as<float>(), all,
                       all - static_cast<std::int64_t>(trained()), reader};
  return learn_block(block, spec, layer_weights(layer), by_role, data, batch_.size(), options,
                     busy_);
}

// The grids of the codes that were chosen, against what the layer should give.
void CalibratedModel::tune(std::int64_t layer, const std::vector<Matrix>& matrices,
                           LayerLosses& losses, ThreadPool& pool) {
  Block block(model_->spec(), batch_.size(), ws_.host(), pool);
  std::vector<LearnedMatrix> learned;
  learned.reserve(matrices.size());
  std::array<LearnedMatrix*, kLayerMatrices> by_role{};
  LayerWeights& weights = layer_weights(layer);
  for (const Matrix& matrix : matrices) {
    learned.emplace_back(dense_of(weights, matrix.role).weight, matrix.plan.order,
                         recipe_.learn.codes, pool);
    by_role[static_cast<std::size_t>(matrix.role)] = &learned.back();
  }
  LearnOptions options = recipe_.learn;
  options.scales = false;
  const LearnResult result = learn(layer, block, by_role, options);
  losses.tuned = {{result.loss_before, result.loss_after}};
  for (const Matrix& matrix : matrices) {
    by_role[static_cast<std::size_t>(matrix.role)]->write(dense_of(weights, matrix.role).weight);
  }
}

// OmniQuant: grids, and scales of inputs, go into the plans.
void CalibratedModel::learn_grids(std::int64_t layer, const std::vector<Hessian>& hessians,
                                  std::vector<Matrix>& matrices, LayerLosses& losses,
                                  ThreadPool& pool) {
  const DecoderSpec& spec = model_->spec();
  Block block(spec, batch_.size(), ws_.host(), pool);
  std::vector<LearnedMatrix> learned;
  learned.reserve(matrices.size());
  std::array<LearnedMatrix*, kLayerMatrices> by_role{};
  for (const Matrix& matrix : matrices) {
    std::vector<float> importance;
    if (recipe_.range == RangeKind::weighted) {
      importance = hessians[static_cast<std::size_t>(matrix.input())].diagonal();
      // The moments are those of inputs that were not scaled yet.
      for (std::size_t c = 0; c < matrix.plan.col_factor.size(); ++c) {
        importance[c] /= matrix.plan.col_factor[c] * matrix.plan.col_factor[c];
      }
      importance = in_order(importance, matrix.plan.order);
    }
    learned.emplace_back(*matrix.source, matrix.plan, importance, pool, matrix.name);
    by_role[static_cast<std::size_t>(matrix.role)] = &learned.back();
  }
  const LearnResult result = learn(layer, block, by_role, recipe_.learn);
  losses.ranges = {{result.loss_before, result.loss_after}};
  for (const LinearInput input : kInputs) {
    const std::vector<float>& scale = result.scale[static_cast<std::size_t>(input)];
    if (!scale.empty()) divide_input(layer, input, scale, matrices);
  }
  for (Matrix& matrix : matrices) {
    matrix.plan.grids = by_role[static_cast<std::size_t>(matrix.role)]->grids();
  }
  // v was trained before its rows were divided.
  const std::vector<float>& output_scale =
      result.scale[static_cast<std::size_t>(LinearInput::attn_output)];
  for (Matrix& matrix : matrices) {
    if (matrix.role != LayerMatrix::v || output_scale.empty()) continue;
    scale_grids(matrix.plan, matrix.source->rows(), matrix.source->cols(), [&](std::int64_t row) {
      return 1.0f / output_scale[static_cast<std::size_t>(row)];
    });
  }
}

void CalibratedModel::advance(std::int64_t layer) {
  ws_.backend->forget_all();
  const auto floats = static_cast<std::size_t>(batch_.size() * model_->info().dim);
  for (std::size_t s = 0; s < calibration_.sequences.size(); ++s) {
    if (full_model_) full_model_->advance(layer, s, batch_, kv_, ws_);
    load_sequence(s);
    model_->layer(layer, batch_, kv_, ws_);
    std::ranges::copy(ws_.stream(floats), residual_.as<float>() + s * floats);
  }
  if (full_model_) full_model_->forget(layer);
}

QuantizedMatrix CalibratedModel::realize_matrix(const Weights& matrix, const Observed& observed,
                                                MatrixLoss& loss, ThreadPool& pool,
                                                const std::function<void(std::int64_t)>& done) {
  const MatrixPlan& plan = matrix.plan;
  const auto loss_of = [&](const QuantizedMatrix& made) {
    return relative_loss(*matrix.source, plan, made.view, observed.held_out, ws_.host(),
                         matrix.name);
  };
  std::vector<float> importance;
  if (plan.range == RangeKind::weighted) {
    importance = in_order(observed.hessian->diagonal(), plan.order);
  }
  const bool gptq = recipe_.method == Method::gptq;
  QuantizedMatrix nearest = realize(*matrix.source, plan, pool, matrix.name,
                                    gptq ? [](std::int64_t) {} : done, importance);
  loss.nearest = loss.chosen = loss_of(nearest);
  if (!gptq || loss.nearest == 0) return nearest;
  if (gptq_ == nullptr || gptq_order_ != plan.order) {
    const GptqOptions options{recipe_.damping, recipe_.act_order};
    gptq_ = std::make_unique<GptqInput>(*observed.hessian, plan.order, options, pool);
    gptq_order_ = plan.order;
  }
  QuantizedMatrix compensated =
      realize_gptq(*matrix.source, plan, *gptq_, pool, matrix.name, done).matrix;
  loss.chosen = loss_of(compensated);
  if (loss.chosen < loss.nearest) return compensated;
  loss.chosen = loss.nearest;  // fitted to chance: the held-out text says so
  return nearest;
}

double CalibratedModel::trial(std::int64_t layer, std::span<Matrix* const> matrices,
                              std::span<QuantizedMatrix> made) {
  const auto swap_all = [&] {
    for (std::size_t m = 0; m < made.size(); ++m) {
      std::swap(dense_of(layer_weights(layer), matrices[m]->role).weight, made[m]);
    }
  };
  swap_all();
  ws_.backend->forget_all();
  const std::size_t all = calibration_.sequences.size();
  double sum = 0;
  for (std::size_t s = std::min(trained(), all - 1); s < all; ++s) {
    load_sequence(s);
    for (std::int64_t l = layer; l < model_->info().layers; ++l) model_->layer(l, batch_, kv_, ws_);
    const std::vector<TokenId>& tokens = calibration_.sequences[s];
    std::vector<std::int32_t> rows(tokens.size() - 1);
    std::iota(rows.begin(), rows.end(), 0);
    const std::vector<std::int32_t> targets(tokens.begin() + 1, tokens.end());
    std::vector<double> nll(rows.size());
    score_rows(*model_, batch_, ws_, rows, targets, nll.data());
    batch_.logit_rows.clear();
    sum += std::accumulate(nll.begin(), nll.end(), 0.0);
  }
  swap_all();
  return sum;
}

// Puts the columns that keep more bits in front, in the plans of all matrices that have such.
void CalibratedModel::choose_columns(std::int64_t layer, LinearInput input,
                                     const Observed& observed,
                                     const std::optional<Feedback>& feedback,
                                     std::span<Matrix*> matrices, LayerLosses& losses,
                                     ThreadPool& pool) {
  std::vector<Matrix*> mixed;
  std::vector<SalientMatrix> salient;
  for (Matrix* matrix : matrices) {
    if (matrix->plan.order.empty()) continue;
    mixed.push_back(matrix);
    salient.push_back({matrix->source, &matrix->plan, matrix->name});
  }
  if (mixed.empty() || recipe_.salience == Salience::weight) return;
  const auto first_of = [](const Matrix* matrix) { return matrix->plan.bands.front().col_end; };
  std::int64_t first = 0;
  for (const Matrix* matrix : mixed) first = std::max(first, first_of(matrix));
  const auto use = [&](const std::vector<double>& scores) {
    for (Matrix* matrix : mixed) set_order(matrix->plan, column_order(scores, first_of(matrix)));
  };
  if (recipe_.salience == Salience::activation) {
    return use(activation_scores(salient, observed.hessian->diagonal(), pool));
  }
  const auto scores_for = [&](double lambda) {
    return pbar_scores(salient, *observed.hessian, *feedback, lambda, first, pool);
  };
  if (recipe_.pbar_lambda) return use(scores_for(*recipe_.pbar_lambda));
  std::optional<double> least;
  std::vector<double> best;
  for (const double lambda : kPbarLambdas) {
    const std::vector<double> scores = scores_for(lambda);
    const bool same =
        least && std::all_of(mixed.begin(), mixed.end(), [&](const Matrix* matrix) {
          return column_order(scores, first_of(matrix)) == column_order(best, first_of(matrix));
        });
    if (same) continue;
    use(scores);
    double sum = 0;
    std::vector<QuantizedMatrix> made;
    for (const Matrix* matrix : mixed) {
      MatrixLoss loss;
      made.push_back(
          realize_matrix(*matrix, observed, loss, pool, [this](std::int64_t) { busy_(); }));
      sum += loss.chosen;
    }
    if (recipe_.pbar_trials) sum = trial(layer, mixed, made);
    if (least && !(sum < *least)) continue;
    least = sum;
    best = scores;
    losses.pbar_lambda[static_cast<std::size_t>(input)] = lambda;
  }
  use(best);
}

std::int64_t CalibratedModel::quantize_input(std::int64_t layer, LinearInput input,
                                             const std::vector<float>& reader,
                                             std::vector<Matrix>& matrices, LayerLosses& losses,
                                             ThreadPool& pool,
                                             const std::function<void(std::int64_t)>& done) {
  const Observed observed =
      observe(layer, input, reader, [&] { model_->layer(layer, batch_, kv_, ws_); });
  gptq_.reset();
  std::vector<Matrix*> of_input;
  std::vector<const RowReader*> sources;
  std::vector<std::unique_ptr<AimedRows>> aimed;
  std::optional<Feedback> feedback;
  if (observed.cross || recipe_.salience == Salience::pbar) {
    feedback = factor(*observed.hessian, {}, recipe_.damping, pool);
  }
  for (Matrix& matrix : matrices) {
    if (matrix.input() != input) continue;
    of_input.push_back(&matrix);
    sources.push_back(matrix.source);
    if (!observed.cross) continue;
    aimed.push_back(std::make_unique<AimedRows>(*matrix.source, *observed.hessian, *observed.cross,
                                                *feedback, pool));
    matrix.source = &aimed.back()->rows();
  }
  choose_columns(layer, input, observed, feedback, of_input, losses, pool);
  // All are made from the inputs as they are now, then replaced.
  std::vector<QuantizedMatrix> made;
  std::int64_t weights = 0;
  for (const Matrix* matrix : of_input) {
    MatrixLoss loss;
    made.push_back(realize_matrix(*matrix, observed, loss, pool, [&](std::int64_t rows) {
      done(weights + rows * matrix->source->cols());
    }));
    losses.matrices.emplace_back(matrix->role, loss);
    weights += matrix->source->rows() * matrix->source->cols();
  }
  for (std::size_t m = 0; m < of_input.size(); ++m) {
    of_input[m]->source = sources[m];
    sources[m]->release();
    dense_of(layer_weights(layer), of_input[m]->role).weight = std::move(made[m]);
  }
  return weights;
}

LayerLosses CalibratedModel::quantize_layer(std::int64_t i, std::vector<Matrix> matrices,
                                            ThreadPool& pool,
                                            const std::function<void(std::int64_t)>& done) {
  LayerLosses losses;
  if (learns(recipe_)) make_targets(i, matrices, pool);
  // Before AWQ or OmniQuant divides the layer's own norm.
  std::array<std::vector<float>, std::size(kInputs)> readers;
  for (const LinearInput input : kInputs)
    readers[static_cast<std::size_t>(input)] = reader_of(i, input);
  const bool looks_first =
      recipe_.awq || (recipe_.omniquant && recipe_.range == RangeKind::weighted);
  std::vector<Hessian> hessians;  // of inputs before anything is scaled or rounded
  if (looks_first) hessians = observe_all(i);
  if (recipe_.awq) scale_inputs(i, hessians, matrices, losses, pool);
  if (recipe_.omniquant) learn_grids(i, hessians, matrices, losses, pool);
  hessians.clear();
  std::int64_t weights = 0;
  for (const LinearInput input : kInputs) {
    weights += quantize_input(i, input, readers[static_cast<std::size_t>(input)], matrices, losses,
                              pool, [&](std::int64_t of_input) { done(weights + of_input); });
  }
  if (recipe_.tune) tune(i, matrices, losses, pool);
  for (Matrix& matrix : matrices) {
    losses.factors[static_cast<std::size_t>(matrix.role)] = {std::move(matrix.plan.col_factor),
                                                             std::move(matrix.plan.row_factor)};
  }
  advance(i);
  return losses;
}

CalibratedModel::Head CalibratedModel::quantize_head(
    const Weights& head, ThreadPool& pool, const std::function<void(std::int64_t)>& done) {
  for (std::int64_t t = 0; t < batch_.size(); ++t) {
    batch_.logit_rows.push_back(static_cast<std::int32_t>(t));
  }
  const Observed observed = observe(model_->spec().layers, LinearInput::head, {},
                                    [&] { run_head(*model_, batch_, ws_); });
  gptq_.reset();
  Head made;
  made.weight = realize_matrix(head, observed, made.loss, pool,
                               [&](std::int64_t rows) { done(rows * head.source->cols()); });
  head.source->release();
  return made;
}

void CalibratedModel::pass_layer(std::int64_t i, const std::vector<Matrix>& matrices,
                                 ThreadPool& pool, const std::function<void()>& restore) {
  if (learns(recipe_)) make_targets(i, matrices, pool);
  restore();
  advance(i);
}

}  // namespace tenfold
