#include "quantizer/search/loss_gradient.h"

#include <algorithm>
#include <utility>

#include "quantizer/omniquant/block.h"
#include "quantizer/panel.h"
#include "quantizer/transpose.h"

namespace tenfold {
namespace {

std::vector<float> turned(const std::vector<float>& x, std::int64_t rows, std::int64_t cols) {
  std::vector<float> out(x.size());
  transpose(x.data(), rows, cols, out.data());
  return out;
}

// What makes logits of what leaves the final norm, [dim, vocab].
std::vector<float> turned_head(const Decoder& model, Backend& backend) {
  const DecoderSpec& spec = model.spec();
  const DecoderWeights& weights = model.weights();
  const MatrixView& head = spec.tied_head ? weights.token_embedding.view : weights.head.weight.view;
  const std::vector<float> rows = dequantized(head);
  if (weights.project_out.view.empty()) return turned(rows, head.rows, head.cols);
  const MatrixView& project = weights.project_out.view;
  const std::vector<float> x = turned(dequantized(project), project.rows, project.cols);
  std::vector<float> out(static_cast<std::size_t>(spec.dim * spec.vocab));
  const Linear product{float_matrix(rows.data(), Format::f32, head.rows, head.cols), nullptr,
                       out.data(), spec.vocab, false};
  backend.linear({&product, 1}, x.data(), project.rows, spec.dim);
  return out;
}

}  // namespace

LossGradient::LossGradient(const Decoder& model, Objective& objective, ThreadPool& pool)
    : model_(model),
      objective_(objective),
      pool_(pool),
      turned_head_(turned_head(model, objective.host())) {}

void LossGradient::compute(std::span<const std::int64_t> layers) {
  slopes_.clear();
  for (const std::int64_t layer : layers) slopes_[layer] = {};
  d_.clear();
  for (std::size_t s = 0; s < objective_.trained(); ++s) {
    d_.push_back(objective_.head_back(s, turned_head_, pool_));
  }
  for (std::int64_t layer = model_.spec().layers - 1; layer >= layers.front(); --layer) {
    const auto found = slopes_.find(layer);
    layer_back(layer, found == slopes_.end() ? nullptr : &found->second);
  }
  d_.clear();
}

// From d_ of what leaves the layer to d_ of what enters it.
void LossGradient::layer_back(std::int64_t layer, LayerSlopes* slopes) {
  const LayerWeights& weights = model_.weights().layers[static_cast<std::size_t>(layer)];
  std::array<std::vector<float>, kLayerMatrices> values, once;
  BlockWeights w{};
  BlockGradients dw{}, squares{};
  for (std::size_t m = 0; m < kLayerMatrices; ++m) {
    const MatrixView& view = dense_of(weights, static_cast<LayerMatrix>(m)).weight.view;
    if (view.empty()) continue;
    values[m] = dequantized(view);
    w[m] = values[m].data();
    if (slopes == nullptr) continue;
    once[m].resize(values[m].size());
    dw[m] = once[m].data();
    LossSlope& slope = (*slopes)[m];
    slope.gradient.assign(values[m].size(), 0.0f);
    slope.curvature.assign(static_cast<std::size_t>(view.rows), 0.0f);
    squares[m] = slope.curvature.data();
  }
  Block block(model_.spec(), objective_.tokens(), objective_.host(), pool_);
  std::vector<float> y, dx;
  for (std::size_t s = 0; s < d_.size(); ++s) {
    objective_.match_back(layer, s, d_[s]);
    const std::vector<float> x = objective_.input(layer, s);
    y.resize(x.size());
    dx.resize(x.size());
    block.forward(weights, w, x.data(), y.data());
    block.backward(weights, w, d_[s].data(), dw, dx.data(), squares);
    std::swap(d_[s], dx);
    for (std::size_t m = 0; m < kLayerMatrices; ++m) {
      for (std::size_t i = 0; i < once[m].size(); ++i) (*slopes)[m].gradient[i] += once[m][i];
    }
  }
  if (slopes == nullptr) return;
  // The loss is a mean over so many tokens: of one token's own, the gradient is so much larger.
  // From Fisher's information the sum of its squares would count start().nll / 2 times; once fits
  // the losses of true changes better (docs/design.md).
  const auto tokens = static_cast<float>(objective_.tokens()) * static_cast<float>(d_.size());
  for (LossSlope& slope : *slopes) {
    for (float& value : slope.curvature) value *= tokens;
  }
}

}  // namespace tenfold
