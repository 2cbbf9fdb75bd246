#include "quantizer/omniquant/learn.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "kernels/error.h"

namespace tenfold {
namespace {

constexpr float kLeastLog = -3.0f, kMostLog = 3.0f;  // of a channel's scale
constexpr float kCodeRate = 0.02f;                   // of a code's first step

std::size_t index(LinearInput input) { return static_cast<std::size_t>(input); }

class Trainer {
 public:
  Trainer(Block& block, const DecoderSpec& spec, const LayerWeights& layer,
          std::span<LearnedMatrix* const> matrices, const BlockData& data, std::int64_t tokens,
          const LearnOptions& options, const std::function<void()>& busy)
      : block_(block),
        layer_(layer),
        matrices_(matrices),
        data_(data),
        options_(options),
        busy_(busy),
        values_per_sequence_(static_cast<std::size_t>(tokens * spec.dim)),
        channel_weight_(static_cast<std::size_t>(spec.dim), 1.0),
        output_(values_per_sequence_),
        gradient_(values_per_sequence_) {
    for (std::size_t c = 0; c < data.reader.size(); ++c) {
      const auto weight = static_cast<double>(data.reader[c]);
      channel_weight_[c] = weight * weight;
    }
    for (std::size_t i = 0; i < kLayerMatrices; ++i) {
      const MatrixShape shape = shape_of(spec, static_cast<LayerMatrix>(i));
      const bool present = matrices_[i] != nullptr;
      values_[i].resize(present ? shape.elements() : 0);
      gradients_[i].resize(present ? shape.elements() : 0);
      weights_[i] = present ? values_[i].data() : nullptr;
      d_weights_[i] = present ? gradients_[i].data() : nullptr;
      if (!present) continue;
      const LinearInput input = input_of(static_cast<LayerMatrix>(i));
      factor_[index(input)].assign(static_cast<std::size_t>(shape.cols), 1.0f);
    }
    for (std::size_t k = 0; k < kLayerInputs; ++k) {
      log_factor_[k].resize(factor_[k].size());
      factor_steps_[k].resize(factor_[k].size());
      d_log_factor_[k].resize(factor_[k].size());
    }
    if (!options.scales || spec.post_norm) return;
    learns_scale_[index(LinearInput::qkv)] = true;
    learns_scale_[index(LinearInput::mlp)] = true;
    learns_scale_[index(LinearInput::attn_output)] = spec.heads == spec.kv_heads;
  }

  LearnResult run() {
    LearnResult result;
    const std::int64_t trained = data_.sequences - data_.held_out;
    const std::int64_t total = trained * options_.epochs;
    keep();
    result.loss_before = best_loss_ = loss();
    if (best_loss_ == 0) return result;
    if (!std::isfinite(best_loss_)) {
      throw_error(ErrorCode::bad_request,
                  "an output of a layer on the calibration text is not a finite number");
    }
    std::int64_t step = 0;
    for (int epoch = 0; epoch < options_.epochs; ++epoch) {
      for (std::int64_t s = 0; s < trained; ++s) {
        const double left = 1.0 - static_cast<double>(step) / static_cast<double>(total);
        train(s, static_cast<float>(left), ++step);
      }
      if (const double now = loss(); now < best_loss_) {
        best_loss_ = now;
        keep();
      }
    }
    for (std::size_t i = 0; i < kLayerMatrices; ++i) {
      if (matrices_[i] != nullptr) matrices_[i]->set_state(best_states_[i]);
    }
    result.loss_after = best_loss_;
    for (std::size_t k = 0; k < kLayerInputs; ++k) {
      if (learns_scale_[k]) result.scale[k] = best_factor_[k];
    }
    return result;
  }

 private:
  const float* sequence(const float* all, std::int64_t s) const {
    return all + static_cast<std::size_t>(s) * values_per_sequence_;
  }

  void keep() {
    for (std::size_t i = 0; i < kLayerMatrices; ++i) {
      if (matrices_[i] != nullptr) best_states_[i] = matrices_[i]->state();
    }
    best_factor_ = factor_;
  }

  void round_all() {
    for (std::size_t i = 0; i < kLayerMatrices; ++i) {
      if (matrices_[i] == nullptr) continue;
      const LinearInput input = input_of(static_cast<LayerMatrix>(i));
      matrices_[i]->rounded(factor_[index(input)], values_[i].data());
    }
  }

  // Runs a sequence. Returns the sum over tokens of their relative square errors, and leaves the
  // gradient of `unit` times it.
  double run_sequence(std::int64_t s, double unit) {
    busy_();
    block_.forward(layer_, weights_, sequence(data_.inputs, s), output_.data());
    const float* target = sequence(data_.targets, s);
    const std::size_t dim = channel_weight_.size();
    double total = 0;
    for (std::size_t begin = 0; begin < values_per_sequence_; begin += dim) {
      double error = 0;
      double power = 0;
      for (std::size_t c = 0; c < dim; ++c) {
        const double weight = channel_weight_[c];
        const auto wanted = static_cast<double>(target[begin + c]);
        const double difference = static_cast<double>(output_[begin + c]) - wanted;
        error += weight * difference * difference;
        power += weight * wanted * wanted;
      }
      if (!(power > 0)) power = 1;
      total += error / power;
      for (std::size_t c = 0; c < dim; ++c) {
        const double difference = static_cast<double>(output_[begin + c] - target[begin + c]);
        gradient_[begin + c] =
            static_cast<float>(2 * unit * channel_weight_[c] / power * difference);
      }
    }
    return total;
  }

  // Mean relative square error of the held-out sequences' tokens. The first makes the unit of
  // gradients, so that they do not depend on how large errors are.
  double loss() {
    round_all();
    const std::int64_t first = data_.held_out > 0 ? data_.sequences - data_.held_out : 0;
    double total = 0;
    for (std::int64_t s = first; s < data_.sequences; ++s) total += run_sequence(s, 0);
    const auto count = static_cast<double>(data_.sequences - first);
    if (unit_ == 0 && total > 0) unit_ = count / total;
    return total / count / static_cast<double>(values_per_sequence_ / channel_weight_.size());
  }

  void train(std::int64_t s, float share_of_rate, std::int64_t step) {
    round_all();
    run_sequence(s, unit_);
    block_.backward(layer_, weights_, gradient_.data(), d_weights_);
    for (auto& d : d_log_factor_) std::fill(d.begin(), d.end(), 0.0);
    const AdamStep grids(share_of_rate * static_cast<float>(options_.rate), step);
    for (std::size_t i = 0; i < kLayerMatrices; ++i) {
      if (matrices_[i] == nullptr) continue;
      const std::size_t k = index(input_of(static_cast<LayerMatrix>(i)));
      matrices_[i]->learn(factor_[k], gradients_[i].data(), grids, share_of_rate * kCodeRate,
                          d_log_factor_[k]);
    }
    const AdamStep scales(share_of_rate * static_cast<float>(options_.scale_rate), step);
    for (std::size_t k = 0; k < kLayerInputs; ++k) {
      if (!learns_scale_[k]) continue;
      for (std::size_t c = 0; c < factor_[k].size(); ++c) {
        const auto d = static_cast<float>(d_log_factor_[k][c]);
        if (!std::isfinite(d)) continue;
        float& log = log_factor_[k][c];
        log = std::clamp(log + factor_steps_[k][c].update(d, scales), kLeastLog, kMostLog);
        factor_[k][c] = std::exp(log);
      }
    }
  }

  Block& block_;
  const LayerWeights& layer_;
  std::span<LearnedMatrix* const> matrices_;
  const BlockData& data_;
  const LearnOptions& options_;
  const std::function<void()>& busy_;
  std::size_t values_per_sequence_;
  std::vector<double> channel_weight_;
  std::vector<float> output_, gradient_;
  std::array<std::vector<float>, kLayerMatrices> values_, gradients_;
  BlockWeights weights_{};
  BlockGradients d_weights_{};
  std::array<bool, kLayerInputs> learns_scale_{};
  std::array<std::vector<float>, kLayerInputs> factor_, log_factor_, best_factor_;
  std::array<std::vector<Adam>, kLayerInputs> factor_steps_;
  std::array<std::vector<double>, kLayerInputs> d_log_factor_;
  std::array<LearnedMatrix::State, kLayerMatrices> best_states_;
  double unit_ = 0;
  double best_loss_ = 0;
};

}  // namespace

LearnResult learn_block(Block& block, const DecoderSpec& spec, const LayerWeights& layer,
                        std::span<LearnedMatrix* const> matrices, const BlockData& data,
                        std::int64_t tokens, const LearnOptions& options,
                        const std::function<void()>& busy) {
  return Trainer(block, spec, layer, matrices, data, tokens, options, busy).run();
}

}  // namespace tenfold
