#include "quantizer/search/objective.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <utility>

#include "kernels/error.h"
#include "quantizer/omniquant/block.h"
#include "quantizer/roles.h"
#include "runtime/files/spill.h"
#include "runtime/score.h"

namespace tenfold {
namespace {

constexpr float kClamp = 100;
constexpr std::size_t kRowsBack = 64;             // rows of gradients of logits held at a time
constexpr std::size_t kFewestBeforeGivingUp = 4;  // sequences, for an estimate of their spread

double mean_square(const float* a, const float* b, std::size_t n) {
  double sum = 0;
  for (std::size_t i = 0; i < n; ++i) {
    const auto difference = static_cast<double>(std::clamp(a[i] - b[i], -kClamp, kClamp));
    sum += difference * difference;
  }
  return sum / static_cast<double>(n);
}

// The deviate that a standard normal one exceeds with probability p, by bisection.
double upper_quantile(double p) {
  double low = 0, high = 10;
  for (int i = 0; i < 60; ++i) {
    const double middle = (low + high) / 2;
    (std::erfc(middle / std::sqrt(2.0)) / 2 > p ? low : high) = middle;
  }
  return low;
}

}  // namespace

std::vector<std::int64_t> matched_layers(std::int64_t layers, std::int64_t count) {
  std::vector<std::int64_t> result;
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int64_t layer = layers - 1 - (i * layers + count - 1) / count;
    if (layer >= 0 && (result.empty() || result.back() != layer)) result.push_back(layer);
  }
  return result;
}

Objective::Objective(const Decoder& model, const Decoder& teacher, const Calibration& calibration,
                     std::int64_t held_out, const ObjectiveOptions& options,
                     const Resources& resources, std::function<void()> busy)
    : model_(model),
      calibration_(calibration),
      options_(options),
      held_out_(static_cast<std::size_t>(held_out)),
      busy_(std::move(busy)),
      ws_(make_workspace(resources.device)),
      kv_(kv_shape(model.info(), KvType::f16),
          static_cast<std::int64_t>(calibration.sequences.front().size()), 1, *ws_.backend),
      matched_(matched_layers(model.info().layers, options.matched)),
      floats_(calibration.sequences.front().size() * static_cast<std::size_t>(model.info().dim)),
      accepted_(calibration.sequences.size()) {
  const std::size_t sequences = accepted_.size();
  const auto buffer = [&](std::size_t streams) {
    const std::size_t bytes = streams * sequences * floats_ * sizeof(float);
    return bytes > resources.spill_above && resources.spill_above > 0
               ? spilled_buffer(bytes, resources.folder)
               : Buffer(bytes);
  };
  const auto layers = static_cast<std::size_t>(model.info().layers);
  streams_ = buffer(layers);
  trial_ = buffer(layers);
  for (std::size_t i = 0; i < matched_.size(); ++i) teacher_.push_back(buffer(1));
  if (options.target == SearchTarget::teacher) soft_.emplace(model.info().vocab);
  for (std::size_t s = 0; s < sequences; ++s) {
    run_teacher(teacher, s);
  }
  ws_.backend->forget_all();
  for (std::size_t s = 0; s < sequences; ++s) {
    tried_.push_back(run(s, 0));
  }
  accept();
  start_ = mean(std::span(accepted_).first(trained()));
  if (!(start_.nll > 0) || !std::isfinite(start_.nll) || !std::isfinite(start_.mse)) {
    throw_error(ErrorCode::bad_request,
                "the model to start from gives the calibration text a loss of {}", start_.nll);
  }
}

// What enters the layer; what enters the first is embedded anew.
float* Objective::stream(const Buffer& of, std::int64_t layer, std::size_t sequence) const {
  return of.as<float>() +
         (static_cast<std::size_t>(layer - 1) * accepted_.size() + sequence) * floats_;
}

// The batch of a sequence, and what enters the layer.
void Objective::load(std::size_t sequence, std::int64_t layer) {
  batch_.clear();
  std::int32_t position = 0;
  for (const TokenId id : calibration_.sequences[sequence]) batch_.add(id, position++, 0);
  if (layer > 0) {
    ws_.set_stream({stream(streams_, layer, sequence), floats_});
  }
}

// Of the accepted model: its step goes on with that layer.
void Objective::enter(std::size_t sequence, std::int64_t layer) {
  load(sequence, layer);
  begin_step(model_, batch_, kv_, ws_);
  if (layer == 0) model_.embed(batch_, ws_);
}

void Objective::run_teacher(const Decoder& teacher, std::size_t sequence) {
  busy_();
  load(sequence, 0);
  forward(teacher, batch_, kv_, ws_, 0, [&](std::int64_t layer, std::span<const float> x) {
    for (std::size_t i = 0; i < matched_.size(); ++i) {
      if (matched_[i] == layer) {
        std::memcpy(teacher_[i].as<float>() + sequence * floats_, x.data(), x.size_bytes());
      }
    }
  });
  if (!soft_) return;
  score(teacher, sequence, [&](std::size_t, const float* logits, double log_sum) {
    if (!std::isfinite(log_sum)) {
      throw_error(ErrorCode::bad_request,
                  "the full-precision model gives the calibration text logits that are no numbers");
    }
    soft_->add(logits, log_sum);
  });
}

// Of the step just run: -log p of the text's next tokens; also calls see for each, unless it is
// empty.
std::vector<double> Objective::score(const Decoder& model, std::size_t sequence,
                                     const RowTap& see) {
  const std::vector<TokenId>& tokens = calibration_.sequences[sequence];
  std::vector<std::int32_t> rows(tokens.size() - 1);
  std::iota(rows.begin(), rows.end(), 0);
  const std::vector<std::int32_t> targets(tokens.begin() + 1, tokens.end());
  std::vector<double> nll(rows.size());
  const auto vocab = static_cast<std::size_t>(model.info().vocab);
  const auto each = [&](std::size_t first, std::span<const float> logits) {
    for (std::size_t r = 0; r < logits.size() / vocab; ++r) {
      const float* row = logits.data() + r * vocab;
      const double log_sum = nll[first + r] + static_cast<double>(row[targets[first + r]]);
      see(sequence * rows.size() + first + r, row, log_sum);
    }
  };
  score_rows(model, batch_, ws_, rows, targets, nll.data(), see ? LogitsTap(each) : LogitsTap());
  return nll;
}

SequenceLoss Objective::run(std::size_t sequence, std::int64_t first) {
  busy_();
  load(sequence, first);
  SequenceLoss loss;
  const auto tap = [&](std::int64_t layer, std::span<const float> x) {
    std::memcpy(stream(trial_, layer + 1, sequence), x.data(), x.size_bytes());
  };
  forward(model_, batch_, kv_, ws_, first, tap);
  for (std::size_t i = 0; i < matched_.size(); ++i) {
    Buffer& from = matched_[i] + 1 > first ? trial_ : streams_;
    loss.mse += mean_square(stream(from, matched_[i] + 1, sequence),
                            teacher_[i].as<float>() + sequence * floats_, floats_);
  }
  if (!matched_.empty()) loss.mse /= static_cast<double>(matched_.size());
  double cross_entropy = 0;
  const auto add = [&](std::size_t row, const float* logits, double log_sum) {
    cross_entropy += soft_->cross_entropy(row, logits, log_sum);
  };
  const std::vector<double> nll = score(model_, sequence, soft_ ? RowTap(add) : RowTap());
  if (!soft_) cross_entropy = std::accumulate(nll.begin(), nll.end(), 0.0);
  loss.nll = cross_entropy / static_cast<double>(nll.size());
  layer_forwards_ += model_.info().layers - first;
  return loss;
}

SequenceLoss Objective::mean(std::span<const SequenceLoss> losses) const {
  SequenceLoss sum;
  for (const SequenceLoss& loss : losses) sum.nll += loss.nll, sum.mse += loss.mse;
  const auto n = static_cast<double>(losses.size());
  return {sum.nll / n, sum.mse / n};
}

double Objective::relative(const SequenceLoss& loss) const {
  const double mse = start_.mse > 0 ? loss.mse / start_.mse : 0;
  return loss.nll / start_.nll + options_.alpha * mse;
}

double Objective::loss() const { return relative(mean(std::span(accepted_).first(trained()))); }

double Objective::held_out_loss() const {
  return held_out_ == 0 ? loss() : relative(mean(std::span(accepted_).last(held_out_)));
}

// Whether the differences of the sequences run so far, taken as drawn from one distribution, leave
// less than the allowed chance that all of them together are an improvement.
bool Objective::hopeless(std::span<const SequenceLoss> so_far) const {
  const auto n = static_cast<double>(so_far.size());
  double sum = 0, squares = 0;
  for (std::size_t s = 0; s < so_far.size(); ++s) {
    const double difference = relative(so_far[s]) - relative(accepted_[s]);
    sum += difference;
    squares += difference * difference;
  }
  const double left = static_cast<double>(trained()) - n;
  const double variance = std::max(0.0, (squares - sum * sum / n) / (n - 1));
  // What is left must make up for the sum: its own mean is uncertain, and its terms vary.
  const double spread = std::sqrt(variance * (left + left * left / n));
  return sum + left * sum / n > upper_quantile(options_.early) * spread;
}

// What a device may have copied of layers that have changed since, or change back.
void Objective::forget_layers(std::int64_t first, std::int64_t last) {
  for (std::int64_t i = first; i <= last; ++i) {
    const LayerWeights& layer = model_.weights().layers[static_cast<std::size_t>(i)];
    for (const LayerNorm role : {LayerNorm::attn, LayerNorm::ffn}) {
      ws_.backend->forget(norm_of(layer, role).weight.data());
      ws_.backend->forget(norm_of(layer, role).bias.data());
    }
    for (std::size_t m = 0; m < kLayerMatrices; ++m) {
      const Dense& dense = dense_of(layer, static_cast<LayerMatrix>(m));
      ws_.backend->forget(dense.weight.view);
      ws_.backend->forget(dense.bias.data());
    }
  }
}

std::optional<double> Objective::trial(std::int64_t first, std::int64_t last) {
  forget_layers(trial_first_, trial_last_);
  forget_layers(first, last);
  trial_first_ = first;
  trial_last_ = last;
  tried_.clear();
  for (std::size_t s = 0; s < trained(); ++s) {
    tried_.push_back(run(s, first));
    const bool look = tried_.size() >= kFewestBeforeGivingUp && tried_.size() < trained() &&
                      (tried_.size() & (tried_.size() - 1)) == 0;
    if (options_.early > 0 && look && hopeless(tried_)) return std::nullopt;
  }
  return relative(mean(tried_));
}

void Objective::accept() {
  for (std::size_t s = tried_.size(); s < accepted_.size(); ++s) {
    tried_.push_back(run(s, trial_first_));
  }
  for (std::int64_t layer = trial_first_ + 1; layer <= model_.info().layers; ++layer) {
    std::memcpy(stream(streams_, layer, 0), stream(trial_, layer, 0),
                accepted_.size() * floats_ * sizeof(float));
  }
  accepted_ = tried_;
}

std::span<const float> Objective::output(std::int64_t layer, std::size_t sequence) const {
  return {stream(streams_, layer + 1, sequence), floats_};
}

void Objective::run_layer(std::int64_t layer, const InputTap& tap, const LayerTap& after) {
  forget_layers(layer, layer);
  ws_.input_tap = tap;
  for (std::size_t s = 0; s < trained(); ++s) {
    busy_();
    enter(s, layer);
    model_.layer(layer, batch_, kv_, ws_);
    ++layer_forwards_;
    if (after) after(s, ws_.stream(floats_));
  }
  ws_.input_tap = {};
  forget_layers(layer, layer);
}

std::vector<float> Objective::input(std::int64_t layer, std::size_t sequence) {
  if (layer == 0) enter(sequence, 0);
  const std::span<const float> x = layer == 0 ? ws_.stream(floats_) : output(layer - 1, sequence);
  return {x.begin(), x.end()};
}

// Of a row's cross-entropy, d [vocab]; rows as score() counts them.
void Objective::logits_back(std::size_t row, const float* logits, double log_sum, float* d) const {
  if (soft_) {
    soft_->gradient(row, logits, log_sum, d);
    return;
  }
  const auto vocab = static_cast<std::size_t>(model_.info().vocab);
  const std::size_t rows = calibration_.sequences.front().size() - 1;
  for (std::size_t j = 0; j < vocab; ++j) d[j] = std::exp(logits[j] - static_cast<float>(log_sum));
  d[calibration_.sequences[row / rows][row % rows + 1]] -= 1;
}

std::vector<float> Objective::head_back(std::size_t sequence, std::span<const float> turned_head,
                                        ThreadPool& pool) {
  busy_();
  const DecoderSpec& spec = model_.spec();
  enter(sequence, spec.layers);
  const auto vocab = static_cast<std::size_t>(spec.vocab);
  const auto dim = static_cast<std::size_t>(spec.dim);
  const std::size_t rows = calibration_.sequences[sequence].size() - 1;
  // Of the mean over rows and sequences, relative to the start.
  const double part = start_.nll * static_cast<double>(rows * trained());
  std::vector<float> d(floats_), d_normed(rows * dim), d_logits;
  std::size_t done = 0;
  const auto through_head = [&] {
    const auto count = static_cast<std::int64_t>(d_logits.size() / vocab);
    const Linear back{float_matrix(turned_head.data(), Format::f32, spec.dim, spec.vocab), nullptr,
                      d_normed.data() + done * dim, spec.dim, false};
    ws_.host().linear({&back, 1}, d_logits.data(), spec.vocab, count);
    done += static_cast<std::size_t>(count);
    d_logits.clear();
  };
  score(model_, sequence, [&](std::size_t row, const float* logits, double log_sum) {
    if (d_logits.size() == kRowsBack * vocab) through_head();
    d_logits.resize(d_logits.size() + vocab);
    const std::span<float> of_row = std::span(d_logits).last(vocab);
    logits_back(row, logits, log_sum, of_row.data());
    for (float& value : of_row) value /= static_cast<float>(part);
  });
  through_head();
  if (spec.final_norm) {
    norm_back(spec, model_.weights().final_norm, output(spec.layers - 1, sequence).data(),
              d_normed.data(), static_cast<std::int64_t>(rows), d.data(), pool);
  } else {
    std::copy(d_normed.begin(), d_normed.end(), d.begin());
  }
  return d;
}

void Objective::match_back(std::int64_t layer, std::size_t sequence, std::span<float> d) const {
  if (!(start_.mse > 0)) return;
  const double part = 2 * options_.alpha /
                      (start_.mse * static_cast<double>(matched_.size()) *
                       static_cast<double>(floats_) * static_cast<double>(trained()));
  for (std::size_t i = 0; i < matched_.size(); ++i) {
    if (matched_[i] != layer) continue;
    const std::span<const float> x = output(layer, sequence);
    const float* wanted = teacher_[i].as<float>() + sequence * floats_;
    for (std::size_t j = 0; j < floats_; ++j) {
      const float difference = x[j] - wanted[j];
      if (std::fabs(difference) < kClamp) d[j] += static_cast<float>(part) * difference;
    }
  }
}

}  // namespace tenfold
