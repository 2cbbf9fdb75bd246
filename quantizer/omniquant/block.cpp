#include "quantizer/omniquant/block.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "quantizer/transpose.h"

namespace tenfold {
namespace {

// Columns [begin, begin + n) of x [rows, ld], packed.
void take_columns(const float* x, std::int64_t ld, std::int64_t begin, std::int64_t rows,
                  std::int64_t n, float* out) {
  for (std::int64_t r = 0; r < rows; ++r) {
    std::memcpy(out + r * n, x + r * ld + begin, static_cast<std::size_t>(n) * sizeof(float));
  }
}

void add_columns(const float* x, std::int64_t rows, std::int64_t n, float* out, std::int64_t ld,
                 std::int64_t begin) {
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t c = 0; c < n; ++c) out[r * ld + begin + c] += x[r * n + c];
  }
}

std::size_t index(LayerMatrix matrix) { return static_cast<std::size_t>(matrix); }

}  // namespace

MatrixShape shape_of(const DecoderSpec& spec, LayerMatrix matrix) {
  const std::int64_t q_dim = spec.heads * spec.head_dim;
  const std::int64_t kv_dim = spec.kv_heads * spec.head_dim;
  switch (matrix) {
    case LayerMatrix::q:
      return {q_dim, spec.dim};
    case LayerMatrix::k:
    case LayerMatrix::v:
      return {kv_dim, spec.dim};
    case LayerMatrix::output:
      return {spec.dim, q_dim};
    case LayerMatrix::down:
      return {spec.dim, spec.ffn};
    default:
      return {spec.ffn, spec.dim};
  }
}

Block::Block(const DecoderSpec& spec, std::int64_t tokens, Backend& backend, ThreadPool& pool)
    : spec_(spec), tokens_(tokens), backend_(backend), pool_(pool) {
  if (!spec.rope.enabled) return;
  const std::vector<double> frequencies = spec.rope.frequencies(spec.head_dim);
  for (std::int64_t t = 0; t < tokens; ++t) {
    for (const double frequency : frequencies) {
      cos_.push_back(static_cast<float>(std::cos(static_cast<double>(t) * frequency)));
      sin_.push_back(static_cast<float>(std::sin(static_cast<double>(t) * frequency)));
    }
  }
}

void Block::multiply(const float* a, const float* b, float* y, std::int64_t m, std::int64_t n,
                     std::int64_t k) {
  const Linear linear{float_matrix(b, Format::f32, n, k), nullptr, y, n, false};
  backend_.linear({&linear, 1}, a, k, m);
}

const float* Block::transposed(Scratch& scratch, const float* x, std::int64_t rows,
                               std::int64_t cols) {
  float* out = scratch.get<float>(static_cast<std::size_t>(rows * cols));
  const auto tiles = static_cast<int>((cols + kTransposeTile - 1) / kTransposeTile);
  pool_.run(tiles, [&](int tile, int) { transpose_tile(x, rows, cols, tile, out); });
  return out;
}

void Block::product(const float* w, MatrixShape shape, const Dense& dense, const float* x,
                    float* y) {
  const float* bias = dense.bias.empty() ? nullptr : dense.bias.data();
  const Linear linear{float_matrix(w, Format::f32, shape.rows, shape.cols), bias, y, shape.rows,
                      false};
  backend_.linear({&linear, 1}, x, shape.cols, tokens_);
}

// dx = dy W
void Block::product_back_input(const float* w, MatrixShape shape, const float* dy, float* dx,
                               bool add) {
  const float* turned = transposed(left_, w, shape.rows, shape.cols);
  const Linear linear{float_matrix(turned, Format::f32, shape.cols, shape.rows), nullptr, dx,
                      shape.cols, add};
  backend_.linear({&linear, 1}, dy, shape.rows, tokens_);
}

// dW = dy^T x
void Block::product_back_weight(MatrixShape shape, const float* x, const float* dy, float* dw) {
  const float* x_turned = transposed(left_, x, tokens_, shape.cols);
  const float* dy_turned = transposed(right_, dy, tokens_, shape.rows);
  multiply(dy_turned, x_turned, dw, shape.rows, shape.cols, tokens_);
}

void Block::normalize(const Norm& norm, const float* x, float* y) {
  if (spec_.norm == NormKind::rms) {
    backend_.rms_norm(x, norm.weight.data(), spec_.norm_eps, tokens_, spec_.dim, y);
  } else {
    backend_.layer_norm(x, norm.weight.data(), norm.bias.data(), spec_.norm_eps, tokens_, spec_.dim,
                        y);
  }
}

// With h = (x - mean) r and g = w dy: dx = r (g - mean(g) - h mean(g h)), where RMSNorm knows no
// means of x and g.
void norm_back(const DecoderSpec& spec, const Norm& norm, const float* x, const float* dy,
               std::int64_t tokens, float* dx, ThreadPool& pool) {
  const bool layer = spec.norm == NormKind::layer;
  const auto n = static_cast<double>(spec.dim);
  pool.run(static_cast<int>(tokens), [&](int t, int) {
    const float* row = x + t * spec.dim;
    const float* d_row = dy + t * spec.dim;
    double mean = 0;
    for (std::int64_t c = 0; layer && c < spec.dim; ++c) mean += static_cast<double>(row[c]) / n;
    double square = 0;
    double sum = 0;
    double along = 0;
    for (std::int64_t c = 0; c < spec.dim; ++c) {
      const double h = static_cast<double>(row[c]) - mean;
      const auto g = static_cast<double>(norm.weight[static_cast<std::size_t>(c)] * d_row[c]);
      square += h * h;
      sum += g;
      along += g * h;
    }
    const double r = 1.0 / std::sqrt(square / n + static_cast<double>(spec.norm_eps));
    const double mean_g = layer ? sum / n : 0.0;
    const double slope = along * r * r / n;
    for (std::int64_t c = 0; c < spec.dim; ++c) {
      const double h = static_cast<double>(row[c]) - mean;
      const auto g = static_cast<double>(norm.weight[static_cast<std::size_t>(c)] * d_row[c]);
      dx[t * spec.dim + c] += static_cast<float>(r * (g - mean_g - h * slope));
    }
  });
}

// Turning back (direction -1) is the gradient of turning.
void Block::rotate(float* x, std::int64_t heads, float direction) {
  if (!spec_.rope.enabled) return;
  std::vector<float> sines(sin_.size());
  for (std::size_t i = 0; i < sin_.size(); ++i) sines[i] = direction * sin_[i];
  backend_.rope(x, cos_.data(), sines.data(), tokens_, heads, spec_.head_dim,
                spec_.rope.interleaved);
}

void Block::attend() {
  const std::int64_t hd = spec_.head_dim;
  const std::int64_t group = spec_.heads / spec_.kv_heads;
  const std::int64_t q_dim = spec_.heads * hd;
  const std::int64_t kv_dim = spec_.kv_heads * hd;
  const float scale = 1.0f / std::sqrt(static_cast<float>(hd));
  float* attended = get(attended_, q_dim);
  float* all = probabilities_.get<float>(static_cast<std::size_t>(spec_.heads * tokens_ * tokens_));
  float* q = get(head_q_, hd);
  float* k = get(head_k_, hd);
  float* v = get(head_v_, hd);
  float* out = get(head_o_, hd);
  for (std::int64_t h = 0; h < spec_.heads; ++h) {
    take_columns(get(q_, q_dim), q_dim, h * hd, tokens_, hd, q);
    take_columns(get(k_, kv_dim), kv_dim, h / group * hd, tokens_, hd, k);
    take_columns(get(v_, kv_dim), kv_dim, h / group * hd, tokens_, hd, v);
    float* p = all + h * tokens_ * tokens_;
    multiply(q, k, p, tokens_, tokens_, hd);
    pool_.run(static_cast<int>(tokens_), [&](int t, int) {
      float* row = p + t * tokens_;
      const float top = *std::max_element(row, row + t + 1);
      float sum = 0;
      for (std::int64_t j = 0; j <= t; ++j) sum += row[j] = std::exp((row[j] - top) * scale);
      for (std::int64_t j = 0; j <= t; ++j) row[j] /= sum;
      std::fill(row + t + 1, row + tokens_, 0.0f);
    });
    multiply(p, transposed(left_, v, tokens_, hd), out, tokens_, hd, tokens_);
    for (std::int64_t t = 0; t < tokens_; ++t) {
      std::memcpy(attended + t * q_dim + h * hd, out + t * hd,
                  static_cast<std::size_t>(hd) * sizeof(float));
    }
  }
}

void Block::attend_back(const float* d_attended) {
  const std::int64_t hd = spec_.head_dim;
  const std::int64_t group = spec_.heads / spec_.kv_heads;
  const std::int64_t q_dim = spec_.heads * hd;
  const std::int64_t kv_dim = spec_.kv_heads * hd;
  const float scale = 1.0f / std::sqrt(static_cast<float>(hd));
  const auto zeroed = [&](Scratch& scratch, std::int64_t cols) {
    float* values = get(scratch, cols);
    std::fill_n(values, tokens_ * cols, 0.0f);
    return values;
  };
  float* d_q = zeroed(d_q_, q_dim);
  float* d_k = zeroed(d_k_, kv_dim);
  float* d_v = zeroed(d_v_, kv_dim);
  float* part = get(head_q_, hd);
  float* d_out = get(head_o_, hd);
  float* operand = get(head_k_, hd);
  float* d_p = get(d_p_, tokens_);
  const float* all =
      probabilities_.get<float>(static_cast<std::size_t>(spec_.heads * tokens_ * tokens_));
  for (std::int64_t h = 0; h < spec_.heads; ++h) {
    const std::int64_t kv_at = h / group * hd;
    const float* p = all + h * tokens_ * tokens_;
    take_columns(d_attended, q_dim, h * hd, tokens_, hd, d_out);
    // dV = P^T dO
    const float* p_turned = transposed(scores_, p, tokens_, tokens_);
    multiply(p_turned, transposed(left_, d_out, tokens_, hd), part, tokens_, hd, tokens_);
    add_columns(part, tokens_, hd, d_v, kv_dim, kv_at);
    // dP = dO V^T, dS = scale P (dP - sum P dP)
    take_columns(get(v_, kv_dim), kv_dim, kv_at, tokens_, hd, operand);
    multiply(d_out, operand, d_p, tokens_, tokens_, hd);
    pool_.run(static_cast<int>(tokens_), [&](int t, int) {
      const float* row = p + t * tokens_;
      float* d_row = d_p + t * tokens_;
      float along = 0;
      for (std::int64_t j = 0; j <= t; ++j) along += row[j] * d_row[j];
      for (std::int64_t j = 0; j < tokens_; ++j) d_row[j] = scale * row[j] * (d_row[j] - along);
    });
    // dQ = dS K, dK = dS^T Q
    take_columns(get(k_, kv_dim), kv_dim, kv_at, tokens_, hd, operand);
    multiply(d_p, transposed(left_, operand, tokens_, hd), part, tokens_, hd, tokens_);
    add_columns(part, tokens_, hd, d_q, q_dim, h * hd);
    take_columns(get(q_, q_dim), q_dim, h * hd, tokens_, hd, operand);
    const float* d_turned = transposed(scores_, d_p, tokens_, tokens_);
    multiply(d_turned, transposed(left_, operand, tokens_, hd), part, tokens_, hd, tokens_);
    add_columns(part, tokens_, hd, d_k, kv_dim, kv_at);
  }
}

void Block::forward(const LayerWeights& layer, const BlockWeights& weights, const float* x,
                    float* y) {
  const auto multiply_by = [&](LayerMatrix matrix, const Dense& dense, const float* in,
                               float* out) {
    product(weights[index(matrix)], shape_of(spec_, matrix), dense, in, out);
  };
  const std::int64_t q_dim = spec_.heads * spec_.head_dim;
  const std::int64_t kv_dim = spec_.kv_heads * spec_.head_dim;
  const std::int64_t n = tokens_ * spec_.dim;
  x_ = x;
  const float* attn_in = x;
  if (!spec_.post_norm) {
    normalize(layer.attn_norm, x, get(attn_in_, spec_.dim));
    attn_in = get(attn_in_, spec_.dim);
  }
  multiply_by(LayerMatrix::q, layer.q, attn_in, get(q_, q_dim));
  multiply_by(LayerMatrix::k, layer.k, attn_in, get(k_, kv_dim));
  multiply_by(LayerMatrix::v, layer.v, attn_in, get(v_, kv_dim));
  rotate(get(q_, q_dim), spec_.heads, 1.0f);
  rotate(get(k_, kv_dim), spec_.kv_heads, 1.0f);
  attend();
  float* attn_sum = get(attn_sum_, spec_.dim);
  multiply_by(LayerMatrix::output, layer.output, get(attended_, q_dim), attn_sum);
  for (std::int64_t i = 0; i < n; ++i) attn_sum[i] += x[i];
  float* middle = attn_sum;
  if (spec_.post_norm) {
    middle = get(middle_, spec_.dim);
    normalize(layer.attn_norm, attn_sum, middle);
  }
  const float* mlp_in = middle;
  if (!spec_.post_norm) {
    normalize(layer.ffn_norm, middle, get(mlp_in_, spec_.dim));
    mlp_in = get(mlp_in_, spec_.dim);
  }
  float* up = get(up_, spec_.ffn);
  float* hidden = get(hidden_, spec_.ffn);
  multiply_by(LayerMatrix::up, layer.up, mlp_in, up);
  if (spec_.gated_mlp) multiply_by(LayerMatrix::gate, layer.gate, mlp_in, get(gate_, spec_.ffn));
  const float* gate = spec_.gated_mlp ? get(gate_, spec_.ffn) : nullptr;
  pool_.run(static_cast<int>(tokens_), [&](int t, int) {
    for (std::int64_t i = t * spec_.ffn; i < (t + 1) * spec_.ffn; ++i) {
      hidden[i] =
          gate == nullptr ? std::max(up[i], 0.0f) : gate[i] / (1.0f + std::exp(-gate[i])) * up[i];
    }
  });
  float* mlp_sum = spec_.post_norm ? get(mlp_sum_, spec_.dim) : y;
  multiply_by(LayerMatrix::down, layer.down, hidden, mlp_sum);
  for (std::int64_t i = 0; i < n; ++i) mlp_sum[i] += middle[i];
  if (spec_.post_norm) normalize(layer.ffn_norm, mlp_sum, y);
}

void Block::backward(const LayerWeights& layer, const BlockWeights& weights, const float* dy,
                     const BlockGradients& dw, float* dx, const BlockGradients& squares) {
  const auto w = [&](LayerMatrix matrix) { return weights[index(matrix)]; };
  const auto gradient = [&](LayerMatrix matrix, const float* x, const float* d) {
    const MatrixShape shape = shape_of(spec_, matrix);
    if (dw[index(matrix)] != nullptr) product_back_weight(shape, x, d, dw[index(matrix)]);
    float* sums = squares[index(matrix)];
    if (sums == nullptr) return;
    for (std::int64_t t = 0; t < tokens_; ++t, d += shape.rows) {
      for (std::int64_t r = 0; r < shape.rows; ++r) sums[r] += d[r] * d[r];
    }
  };
  const std::int64_t q_dim = spec_.heads * spec_.head_dim;
  const std::int64_t kv_dim = spec_.kv_heads * spec_.head_dim;
  const auto n = static_cast<std::size_t>(tokens_ * spec_.dim);
  float* d_sum = get(d_sum_, spec_.dim);
  if (spec_.post_norm) {
    std::fill_n(d_sum, n, 0.0f);
    norm_back(spec_, layer.ffn_norm, get(mlp_sum_, spec_.dim), dy, tokens_, d_sum, pool_);
  } else {
    std::memcpy(d_sum, dy, n * sizeof(float));
  }
  // The MLP. d_middle starts with what goes past it.
  float* d_middle = get(d_middle_, spec_.dim);
  std::memcpy(d_middle, d_sum, n * sizeof(float));
  const float* middle = get(spec_.post_norm ? middle_ : attn_sum_, spec_.dim);
  const float* mlp_in = spec_.post_norm ? middle : get(mlp_in_, spec_.dim);
  float* d_hidden = get(d_hidden_, spec_.ffn);
  gradient(LayerMatrix::down, get(hidden_, spec_.ffn), d_sum);
  product_back_input(w(LayerMatrix::down), shape_of(spec_, LayerMatrix::down), d_sum, d_hidden,
                     false);
  float* d_up = get(d_up_, spec_.ffn);
  float* d_gate = spec_.gated_mlp ? get(d_gate_, spec_.ffn) : nullptr;
  const float* gate = spec_.gated_mlp ? get(gate_, spec_.ffn) : nullptr;
  const float* up = get(up_, spec_.ffn);
  pool_.run(static_cast<int>(tokens_), [&](int t, int) {
    for (std::int64_t i = t * spec_.ffn; i < (t + 1) * spec_.ffn; ++i) {
      if (gate == nullptr) {
        d_up[i] = up[i] > 0 ? d_hidden[i] : 0.0f;
        continue;
      }
      const float sigmoid = 1.0f / (1.0f + std::exp(-gate[i]));
      d_up[i] = d_hidden[i] * gate[i] * sigmoid;
      d_gate[i] = d_hidden[i] * up[i] * sigmoid * (1.0f + gate[i] * (1.0f - sigmoid));
    }
  });
  float* d_in = spec_.post_norm ? d_middle : get(d_in_, spec_.dim);
  gradient(LayerMatrix::up, mlp_in, d_up);
  product_back_input(w(LayerMatrix::up), shape_of(spec_, LayerMatrix::up), d_up, d_in,
                     spec_.post_norm);
  if (spec_.gated_mlp) {
    gradient(LayerMatrix::gate, mlp_in, d_gate);
    product_back_input(w(LayerMatrix::gate), shape_of(spec_, LayerMatrix::gate), d_gate, d_in,
                       true);
  }
  if (!spec_.post_norm) norm_back(spec_, layer.ffn_norm, middle, d_in, tokens_, d_middle, pool_);
  // Attention. d_middle becomes the gradient of what goes past it, too.
  if (spec_.post_norm) {
    std::fill_n(d_sum, n, 0.0f);
    norm_back(spec_, layer.attn_norm, get(attn_sum_, spec_.dim), d_middle, tokens_, d_sum, pool_);
    d_middle = d_sum;
  }
  gradient(LayerMatrix::output, get(attended_, q_dim), d_middle);
  float* d_attended = get(d_attended_, q_dim);
  product_back_input(w(LayerMatrix::output), shape_of(spec_, LayerMatrix::output), d_middle,
                     d_attended, false);
  attend_back(d_attended);
  rotate(get(d_q_, q_dim), spec_.heads, -1.0f);
  rotate(get(d_k_, kv_dim), spec_.kv_heads, -1.0f);
  const float* attn_in = spec_.post_norm ? x_ : get(attn_in_, spec_.dim);
  gradient(LayerMatrix::q, attn_in, get(d_q_, q_dim));
  gradient(LayerMatrix::k, attn_in, get(d_k_, kv_dim));
  gradient(LayerMatrix::v, attn_in, get(d_v_, kv_dim));
  if (dx == nullptr) return;
  std::memcpy(dx, d_middle, n * sizeof(float));
  float* d_attn_in = spec_.post_norm ? dx : d_in;
  const std::pair<LayerMatrix, const float*> parts[] = {{LayerMatrix::q, get(d_q_, q_dim)},
                                                        {LayerMatrix::k, get(d_k_, kv_dim)},
                                                        {LayerMatrix::v, get(d_v_, kv_dim)}};
  for (const auto& [matrix, d] : parts) {
    const bool add = spec_.post_norm || matrix != LayerMatrix::q;
    product_back_input(w(matrix), shape_of(spec_, matrix), d, d_attn_in, add);
  }
  if (!spec_.post_norm) norm_back(spec_, layer.attn_norm, x_, d_attn_in, tokens_, dx, pool_);
}

}  // namespace tenfold
