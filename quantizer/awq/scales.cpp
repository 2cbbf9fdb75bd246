#include "quantizer/awq/scales.h"

#include <cmath>
#include <numeric>

namespace tenfold {
namespace {

constexpr int kRatios = 20;
constexpr std::int64_t kPanels = 8;  // of each matrix
constexpr float kLeastScale = 1e-4f;

// Scaled so that the largest and the smallest lie equally far from 1.
std::vector<float> scales_of(const std::vector<float>& magnitude, double ratio) {
  std::vector<float> scale;
  for (const float x : magnitude) {
    scale.push_back(std::max(std::pow(x, static_cast<float>(ratio)), kLeastScale));
  }
  const auto [low, high] = std::minmax_element(scale.begin(), scale.end());
  const float middle = std::sqrt(*low * *high);
  for (float& s : scale) s /= middle;
  return scale;
}

// Rows of a matrix in the source's column order.
struct Sample {
  const MatrixPlan* plan;
  std::int64_t cols;
  int n_rows;
  std::vector<float> rows;  // [n_rows, cols]
};

std::vector<Sample> take_samples(std::span<const AwqMatrix> matrices) {
  std::vector<Sample> samples;
  for (const AwqMatrix& matrix : matrices) {
    const MatrixPlan plain;  // in order, not scaled
    PanelReader reader(*matrix.source, plain);
    const std::int64_t all = panel_count(*matrix.source);
    const std::int64_t count = std::min(all, kPanels);
    for (std::int64_t i = 0; i < count; ++i) {
      if (!reader.read(i * all / count)) continue;  // realizing will name it
      const std::int64_t cols = matrix.source->cols();
      samples.push_back({matrix.plan,
                         cols,
                         reader.n_rows(),
                         {reader.rows(), reader.rows() + reader.n_rows() * cols}});
    }
  }
  return samples;
}

// errors [n_rows, cols]: weights less what is left of them when scaled and rounded.
void round_scaled(const Sample& sample, std::span<const float> scale, std::span<const float> power,
                  float* errors) {
  const MatrixPlan& plan = *sample.plan;
  const auto cols = static_cast<std::size_t>(sample.cols);
  std::vector<float> weights(cols);
  std::vector<float> importance(cols);
  const auto source_of = [&](std::size_t c) {
    return plan.order.empty() ? c : static_cast<std::size_t>(plan.order[c]);
  };
  for (std::size_t c = 0; c < cols; ++c) {
    const std::size_t from = source_of(c);
    importance[c] = power[from] / (scale[from] * scale[from]);
  }
  const MatrixView layout = layout_of(plan, kPanelRows, sample.cols);
  const std::vector<ColumnGroup> groups = column_groups(layout);
  std::span<const float> counted;
  if (plan.range == RangeKind::weighted) counted = importance;
  for (int r = 0; r < sample.n_rows; ++r) {
    const float* row = sample.rows.data() + static_cast<std::size_t>(r) * cols;
    float* error = errors + static_cast<std::size_t>(r) * cols;
    for (std::size_t c = 0; c < cols; ++c) {
      const std::size_t from = source_of(c);
      weights[c] = row[from] * scale[from];
    }
    for (const ColumnGroup& group : groups) {
      const Grid grid = fit_columns(weights.data(), group, layout, plan.range, counted);
      const int bits = group_bits(group, layout);
      for (auto c = static_cast<std::size_t>(group.begin); c < static_cast<std::size_t>(group.end);
           ++c) {
        std::uint8_t code = 0;
        const std::size_t to = source_of(c);
        error[to] = (weights[c] - nearest_value(weights[c], grid, bits, code)) / scale[to];
      }
    }
  }
}

class Search {
 public:
  Search(const Hessian& hessian, std::span<const AwqMatrix> matrices, Backend& backend,
         ThreadPool& pool)
      : samples_(take_samples(matrices)),
        power_(hessian.diagonal()),
        backend_(backend),
        pool_(pool),
        cols_(hessian.cols()),
        h_(static_cast<std::size_t>(cols_ * cols_)) {
    for (std::int64_t i = 0; i < cols_; ++i) {
      for (std::int64_t j = 0; j < cols_; ++j) {
        h_[static_cast<std::size_t>(i * cols_ + j)] = static_cast<float>(hessian.mean(i, j));
      }
    }
  }

  double loss(std::span<const float> scale) {
    const auto panel = static_cast<std::size_t>(kPanelRows * cols_);
    float* errors = errors_.get<float>(samples_.size() * panel);
    float* products = products_.get<float>(samples_.size() * panel);
    pool_.run(static_cast<int>(samples_.size()), [&](int i, int) {
      const auto at = static_cast<std::size_t>(i);
      std::fill_n(errors + at * panel, panel, 0.0f);
      round_scaled(samples_[at], scale, power_, errors + at * panel);
    });
    const auto rows = static_cast<std::int64_t>(samples_.size()) * kPanelRows;
    const Linear times_h{float_matrix(h_.data(), Format::f32, cols_, cols_), nullptr, products,
                         cols_, false};
    backend_.linear({&times_h, 1}, errors, cols_, rows);
    double total = 0;
    for (std::size_t i = 0; i < samples_.size() * panel; ++i) {
      total += static_cast<double>(errors[i]) * static_cast<double>(products[i]);
    }
    return total;
  }

 private:
  std::vector<Sample> samples_;
  std::vector<float> power_;
  Backend& backend_;
  ThreadPool& pool_;
  std::int64_t cols_;
  std::vector<float> h_;
  Scratch errors_, products_;
};

}  // namespace

AwqScales search_scales(const Hessian& hessian, std::span<const AwqMatrix> matrices,
                        Backend& backend, ThreadPool& pool) {
  Search search(hessian, matrices, backend, pool);
  const std::vector<float> magnitude = hessian.mean_magnitude();
  AwqScales best;
  best.loss_before = best.loss =
      search.loss(std::vector<float>(static_cast<std::size_t>(hessian.cols()), 1.0f));
  for (int i = 1; i < kRatios; ++i) {
    const double ratio = static_cast<double>(i) / kRatios;
    std::vector<float> scale = scales_of(magnitude, ratio);
    const double loss = search.loss(scale);
    if (!(loss < best.loss)) continue;
    best.loss = loss;
    best.ratio = ratio;
    best.scale = std::move(scale);
  }
  return best;
}

}  // namespace tenfold
