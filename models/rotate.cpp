#include "models/rotate.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "kernels/error.h"

namespace tenfold {
namespace {

constexpr std::int64_t kBlockRows = 256;

// Orthogonal, its first row constant: Gram-Schmidt over random rows.
std::vector<float> orthogonal(std::int64_t n, std::mt19937_64& random) {
  const auto size = static_cast<std::size_t>(n);
  std::vector<std::vector<double>> rows(size, std::vector<double>(size, 1.0));
  const auto uniform = [&] { return static_cast<double>(random() >> 11) * 0x1p-52 - 1; };
  for (std::size_t r = 0; r < size; ++r) {
    if (r > 0) std::generate(rows[r].begin(), rows[r].end(), uniform);
    // Twice: what the first pass leaves of the earlier rows by rounding, the second takes.
    for (int pass = 0; pass < 2; ++pass) {
      for (std::size_t o = 0; o < r; ++o) {
        const double along =
            std::inner_product(rows[r].begin(), rows[r].end(), rows[o].begin(), 0.0);
        for (std::size_t c = 0; c < size; ++c) rows[r][c] -= along * rows[o][c];
      }
    }
    const double length =
        std::sqrt(std::inner_product(rows[r].begin(), rows[r].end(), rows[r].begin(), 0.0));
    for (double& value : rows[r]) value /= length;
  }
  std::vector<float> flat;
  for (const auto& row : rows) flat.insert(flat.end(), row.begin(), row.end());
  return flat;
}

// The coordinate (a, b) of a vector is a odd + b: Hadamard over a, not scaled.
void hadamard(std::vector<float>& x, std::size_t odd) {
  for (std::size_t half = odd; half < x.size(); half *= 2) {
    for (std::size_t begin = 0; begin < x.size(); begin += 2 * half) {
      for (std::size_t i = begin; i < begin + half; ++i) {
        const float a = x[i], b = x[i + half];
        x[i] = a + b;
        x[i + half] = a - b;
      }
    }
  }
}

// The small matrix, or its transpose, over b, with the scale that hadamard() leaves out.
void multiply_blocks(std::vector<float>& x, const std::vector<float>& small, std::size_t odd,
                     bool transposed) {
  const float scale = std::sqrt(static_cast<float>(odd) / static_cast<float>(x.size()));
  std::vector<float> block(odd);
  for (std::size_t begin = 0; begin < x.size(); begin += odd) {
    for (std::size_t i = 0; i < odd; ++i) {
      float sum = 0;
      for (std::size_t j = 0; j < odd; ++j) {
        sum += small[transposed ? j * odd + i : i * odd + j] * x[begin + j];
      }
      block[i] = sum * scale;
    }
    std::copy(block.begin(), block.end(), x.begin() + static_cast<std::ptrdiff_t>(begin));
  }
}

std::string stem_of(const std::string& name) { return name.substr(0, name.rfind('.')); }

bool writes_stream(const std::string& stem) {
  return stem.ends_with(".attn_output") || stem.ends_with(".ffn_down");
}

bool is_norm(const std::string& stem) { return stem.ends_with("_norm"); }

}  // namespace

ResidualRotation::ResidualRotation(std::int64_t n, std::uint64_t seed) : n_(n), odd_(n) {
  while (odd_ % 2 == 0) odd_ /= 2;
  std::mt19937_64 random(seed);  // whose numbers the standard fixes
  small_ = orthogonal(odd_, random);
  order_.resize(static_cast<std::size_t>(n));
  std::iota(order_.begin(), order_.end(), 0);
  for (std::size_t i = order_.size(); i-- > 2;) {
    std::swap(order_[i], order_[1 + random() % i]);
  }
  sign_.assign(order_.size(), 1.0f);
  for (std::size_t i = 1; i < sign_.size(); ++i) {
    if (random() % 2 == 0) sign_[i] = -1;
  }
}

void ResidualRotation::spread(std::vector<float>& x) const {
  hadamard(x, static_cast<std::size_t>(odd_));
  multiply_blocks(x, small_, static_cast<std::size_t>(odd_), false);
}

void ResidualRotation::gather(std::vector<float>& x) const {
  multiply_blocks(x, small_, static_cast<std::size_t>(odd_), true);
  hadamard(x, static_cast<std::size_t>(odd_));
}

void ResidualRotation::apply(float* x) const {
  std::vector<float> spread_out(x, x + n_);
  spread(spread_out);
  std::vector<float> moved(spread_out.size());
  for (std::size_t i = 0; i < moved.size(); ++i) {
    moved[i] = sign_[i] * spread_out[static_cast<std::size_t>(order_[i])];
  }
  gather(moved);
  std::copy(moved.begin(), moved.end(), x);
}

RotatedModel::RotatedModel(const DecoderSpec& spec, const std::vector<ModelTensor>& tensors,
                           std::uint64_t seed)
    : spec_(spec), tensors_(tensors), rotation_(spec.dim, seed) {
  if (spec.post_norm || spec.embed_dim != spec.dim) {
    throw_error(ErrorCode::unsupported, "the residual stream of this model cannot be turned: {}",
                spec.post_norm ? "its norms come after the sums"
                               : "its embedding is narrower than the stream");
  }
  DecoderSpec turned = spec;
  turned.tied_head = false;
  for (TensorShape& shape : decoder_tensors(turned)) {
    const std::string stem = stem_of(shape.name);
    const bool head = shape.name == "output.weight";
    const bool reads_norm = !writes_stream(stem) && !is_norm(stem) && shape.name.ends_with(".bias");
    const bool takes_bias = reads_norm && !norm_before(stem).bias.empty();
    if (head || takes_bias || find(shape.name) != nullptr) shapes_.push_back(std::move(shape));
  }
}

const RowReader* RotatedModel::find(const std::string& name) const {
  for (const ModelTensor& tensor : tensors_) {
    if (tensor.info.name == name) return &tensor.rows;
  }
  return nullptr;
}

std::vector<float> RotatedModel::vector_of(const std::string& name) const {
  const RowReader* rows = find(name);
  if (rows == nullptr) return {};
  std::vector<float> values(static_cast<std::size_t>(rows->rows() * rows->cols()));
  read_all(*rows, values.data());
  return values;
}

const RowReader& RotatedModel::matrix_of(const std::string& stem) const {
  const bool tied = stem == "output" && spec_.tied_head;
  return *find(tied ? "token_embd.weight" : stem + ".weight");
}

// Of the norm whose output the matrix reads; empty where there is none.
RotatedModel::NormValues RotatedModel::norm_before(const std::string& stem) const {
  std::string norm = "output_norm";
  if (const std::size_t dot = stem.rfind('.'); dot != std::string::npos) {
    const bool attention = stem.find(".attn_") != std::string::npos;
    norm = stem.substr(0, dot) + (attention ? ".attn_norm" : ".ffn_norm");
  }
  return {vector_of(norm + ".weight"), vector_of(norm + ".bias")};
}

void RotatedModel::read(const TensorShape& tensor, ThreadPool& pool,
                        const std::function<void(std::span<const float>)>& write) const {
  const std::string stem = stem_of(tensor.name);
  if (is_norm(stem)) {
    return write(std::vector<float>(static_cast<std::size_t>(spec_.dim),
                                    tensor.name.ends_with(".weight") ? 1.0f : 0.0f));
  }
  if (tensor.name.ends_with(".bias")) return write(bias_of(stem));
  const RowReader& rows = matrix_of(stem);
  if (writes_stream(stem)) {
    write(turned_columns(rows, pool));
  } else if (stem.ends_with("_embd")) {
    read_rows(rows, {}, pool, write);
  } else {
    read_rows(rows, norm_before(stem).weight, pool, write);
  }
  rows.release();
}

// Each row times the factors (empty: 1), turned.
void RotatedModel::read_rows(const RowReader& rows, std::span<const float> factors,
                             ThreadPool& pool,
                             const std::function<void(std::span<const float>)>& write) const {
  const std::int64_t cols = rows.cols();
  std::vector<float> block(static_cast<std::size_t>(kBlockRows * cols));
  for (std::int64_t begin = 0; begin < rows.rows(); begin += kBlockRows) {
    const std::int64_t count = std::min(kBlockRows, rows.rows() - begin);
    pool.run(static_cast<int>(count), [&](int r, int) {
      std::vector<float> scratch(static_cast<std::size_t>(cols));
      float* row = block.data() + r * cols;
      rows.read(begin + r, row, scratch.data());
      for (std::size_t c = 0; c < factors.size(); ++c) row[c] *= factors[c];
      rotation_.apply(row);
    });
    write(std::span(block).first(static_cast<std::size_t>(count * cols)));
  }
}

std::vector<float> RotatedModel::turned_columns(const RowReader& rows, ThreadPool& pool) const {
  const auto n = static_cast<std::size_t>(rows.rows()),
             cols = static_cast<std::size_t>(rows.cols());
  std::vector<float> weights(n * cols);
  read_all(rows, weights.data());
  pool.run(static_cast<int>(cols), [&](int c, int) {
    std::vector<float> column(n);
    for (std::size_t r = 0; r < n; ++r) column[r] = weights[r * cols + static_cast<std::size_t>(c)];
    rotation_.apply(column.data());
    for (std::size_t r = 0; r < n; ++r) weights[r * cols + static_cast<std::size_t>(c)] = column[r];
  });
  return weights;
}

// A writer's is turned; a reader's takes what the norm's bias made of the weights.
std::vector<float> RotatedModel::bias_of(const std::string& stem) const {
  std::vector<float> bias = vector_of(stem + ".bias");
  if (writes_stream(stem)) {
    rotation_.apply(bias.data());
    return bias;
  }
  const RowReader& rows = matrix_of(stem);
  const std::vector<float> from = norm_before(stem).bias;
  bias.resize(static_cast<std::size_t>(rows.rows()));
  if (from.empty()) return bias;
  std::vector<float> row(from.size()), scratch(from.size());
  for (std::int64_t r = 0; r < rows.rows(); ++r) {
    rows.read(r, row.data(), scratch.data());
    bias[static_cast<std::size_t>(r)] +=
        static_cast<float>(std::inner_product(row.begin(), row.end(), from.begin(), 0.0));
  }
  return bias;
}

}  // namespace tenfold
