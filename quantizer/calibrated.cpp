#include "quantizer/calibrated.h"

#include <cstring>
#include <utility>

#include "quantizer/awq/scales.h"
#include "quantizer/gptq/realize.h"
#include "quantizer/rtn/realize.h"

namespace tenfold {
namespace {

// The order in which a layer runs its products.
constexpr LinearInput kInputs[] = {LinearInput::qkv, LinearInput::attn_output, LinearInput::mlp,
                                   LinearInput::down};

std::vector<float> in_order(const std::vector<float>& values,
                            const std::vector<std::int32_t>& order) {
  if (order.empty()) return values;
  std::vector<float> result;
  for (const std::int32_t column : order)
    result.push_back(values[static_cast<std::size_t>(column)]);
  return result;
}

}  // namespace

CalibratedModel::CalibratedModel(std::shared_ptr<const ModelSource> source, Calibration calibration,
                                 int threads, const std::string& isa, std::function<void()> busy)
    : calibration_(std::move(calibration)),
      busy_(std::move(busy)),
      ws_(make_cpu_backend({threads, isa, Activations::int8})),
      model_(load_decoder(std::move(source), RowOrder::gguf)),
      kv_(kv_shape(model_->info(), KvType::f16),
          static_cast<std::int64_t>(calibration_.sequences.front().size())),
      residual_(static_cast<std::size_t>(calibration_.tokens() * model_->info().dim) *
                sizeof(float)) {
  const std::size_t floats =
      calibration_.sequences.front().size() * static_cast<std::size_t>(model_->info().dim);
  for (std::size_t s = 0; s < calibration_.sequences.size(); ++s) {
    busy_();
    batch_.clear();
    std::int32_t position = 0;
    for (const TokenId id : calibration_.sequences[s]) batch_.add(id, position++, 0);
    begin_step(*model_, batch_, kv_, ws_);
    model_->embed(batch_, ws_);
    std::memcpy(residual_.as<float>() + s * floats, ws_.x.get<float>(floats),
                floats * sizeof(float));
  }
}

// All sequences have the same length and positions, so the step of the last one serves for all.
void CalibratedModel::load_sequence(std::size_t sequence) {
  busy_();
  const auto floats = static_cast<std::size_t>(batch_.size() * model_->info().dim);
  std::memcpy(ws_.x.get<float>(floats), residual_.as<float>() + sequence * floats,
              floats * sizeof(float));
}

std::int64_t CalibratedModel::input_cols(LinearInput input) const {
  const DecoderSpec& spec = model_->spec();
  switch (input) {
    case LinearInput::attn_output:
      return spec.heads * spec.head_dim;
    case LinearInput::down:
      return spec.ffn;
    default:
      return spec.dim;
  }
}

Hessian CalibratedModel::observe(std::int64_t layer, LinearInput input) {
  Hessian hessian(input_cols(input));
  ws_.input_tap = [&](LinearInput at, const float* x, std::int64_t tokens, std::int64_t) {
    if (at != input) return true;
    hessian.add(x, tokens, *ws_.backend);
    return false;
  };
  for (std::size_t s = 0; s < calibration_.sequences.size(); ++s) {
    load_sequence(s);
    model_->layer(layer, batch_, kv_, ws_);
  }
  ws_.input_tap = {};
  hessian.require_finite();
  return hessian;
}

// Of all inputs of a layer, by LinearInput.
std::vector<Hessian> CalibratedModel::observe_all(std::int64_t layer) {
  std::vector<Hessian> hessians;
  for (const LinearInput input : kInputs) hessians.emplace_back(input_cols(input));
  ws_.input_tap = [&](LinearInput at, const float* x, std::int64_t tokens, std::int64_t) {
    hessians[static_cast<std::size_t>(at)].add(x, tokens, *ws_.backend);
    return at != LinearInput::down;
  };
  for (std::size_t s = 0; s < calibration_.sequences.size(); ++s) {
    load_sequence(s);
    model_->layer(layer, batch_, kv_, ws_);
  }
  ws_.input_tap = {};
  for (const Hessian& hessian : hessians) hessian.require_finite();
  return hessians;
}

// AWQ: scales the columns of the matrices' plans, and what their inputs come from by the inverse:
// norms, the rows of v before the attention's output and of up before down. The layer's inputs are
// those its weights make before any of them is rounded.
void CalibratedModel::scale_inputs(std::int64_t layer, std::vector<Matrix>& matrices,
                                   ThreadPool& pool) {
  const DecoderSpec& spec = model_->spec();
  if (spec.post_norm) return;  // the norm's output is the residual stream: nowhere to fold into
  const std::vector<Hessian> hessians = observe_all(layer);
  LayerWeights& weights = layer_weights(layer);
  for (const LinearInput input : kInputs) {
    // Several query heads read one value head: their scales would have to agree.
    if (input == LinearInput::attn_output && spec.heads != spec.kv_heads) continue;
    std::vector<AwqMatrix> readers;
    for (const Matrix& matrix : matrices) {
      if (matrix.input == input) readers.push_back({matrix.source, &matrix.plan});
    }
    const AwqScales scales =
        search_scales(hessians[static_cast<std::size_t>(input)], readers, *ws_.backend, pool);
    if (scales.scale.empty()) continue;
    std::vector<float> inverse;
    for (const float s : scales.scale) inverse.push_back(1.0f / s);
    const auto divide = [&](std::vector<float>& values) {
      for (std::size_t c = 0; c < values.size(); ++c) values[c] *= inverse[c];
    };
    const auto divide_rows = [&](Dense& dense) {
      divide(dense.bias);
      for (Matrix& matrix : matrices) {
        if (matrix.target == &dense) matrix.plan.row_factor = inverse;
      }
    };
    const auto divide_norm = [&](Norm& norm) {
      divide(norm.weight);
      divide(norm.bias);
    };
    if (input == LinearInput::qkv) divide_norm(weights.attn_norm);
    if (input == LinearInput::attn_output) divide_rows(weights.v);
    if (input == LinearInput::mlp) divide_norm(weights.ffn_norm);
    if (input == LinearInput::down) divide_rows(weights.up);
    for (Matrix& matrix : matrices) {
      if (matrix.input == input) matrix.plan.col_factor = scales.scale;
    }
  }
}

void CalibratedModel::advance(std::int64_t layer) {
  const auto floats = static_cast<std::size_t>(batch_.size() * model_->info().dim);
  for (std::size_t s = 0; s < calibration_.sequences.size(); ++s) {
    load_sequence(s);
    model_->layer(layer, batch_, kv_, ws_);
    std::memcpy(residual_.as<float>() + s * floats, ws_.x.get<float>(floats),
                floats * sizeof(float));
  }
}

QuantizedMatrix CalibratedModel::realize_matrix(const Matrix& matrix, const Hessian& hessian,
                                                const Recipe& recipe, ThreadPool& pool,
                                                const std::function<void(std::int64_t)>& done) {
  const MatrixPlan& plan = matrix.plan;
  if (recipe.method == Method::rtn) {
    std::vector<float> importance;
    if (plan.range == RangeKind::weighted) importance = in_order(hessian.diagonal(), plan.order);
    return realize(*matrix.source, plan, pool, matrix.name, done, importance);
  }
  if (std::optional<QuantizedMatrix> copy = copy_of_source(*matrix.source, plan, pool)) {
    done(matrix.source->rows());
    return *std::move(copy);
  }
  if (gptq_ == nullptr || gptq_order_ != plan.order) {
    const GptqOptions options{recipe.damping, recipe.act_order};
    gptq_ = std::make_unique<GptqInput>(hessian, plan.order, options, pool);
    gptq_order_ = plan.order;
  }
  return realize_gptq(*matrix.source, plan, *gptq_, pool, matrix.name, done).matrix;
}

void CalibratedModel::quantize_layer(std::int64_t i, std::vector<Matrix> matrices,
                                     const Recipe& recipe, ThreadPool& pool,
                                     const std::function<void(std::int64_t)>& done) {
  if (recipe.awq) scale_inputs(i, matrices, pool);
  std::int64_t weights = 0;
  for (const LinearInput input : kInputs) {
    const Hessian hessian = observe(i, input);
    gptq_.reset();
    // All are made from the inputs as they are now, then replaced.
    std::vector<std::pair<Dense*, QuantizedMatrix>> made;
    for (const Matrix& matrix : matrices) {
      if (matrix.input != input) continue;
      made.emplace_back(matrix.target,
                        realize_matrix(matrix, hessian, recipe, pool, [&](std::int64_t rows) {
                          done(weights + rows * matrix.source->cols());
                        }));
      weights += matrix.source->rows() * matrix.source->cols();
      matrix.source->release();
    }
    for (auto& [target, matrix] : made) target->weight = std::move(matrix);
  }
  advance(i);
}

}  // namespace tenfold
