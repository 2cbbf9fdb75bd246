#include "quantizer/squeeze/salience.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "quantizer/columns.h"

namespace tenfold {
namespace {

constexpr int kRounds = 3;

// Sums over the rows of a matrix, of what add(row, sums) adds for each; in panel order, so that
// threads do not change them.
template <typename Add>
std::vector<double> sum_rows(const SalientMatrix& matrix, ThreadPool& pool, Add&& add) {
  const auto cols = static_cast<std::size_t>(matrix.source->cols());
  MatrixPlan plain;  // in the source's order
  plain.col_factor = matrix.plan->col_factor;
  plain.row_factor = matrix.plan->row_factor;
  std::vector<std::vector<double>> panels(static_cast<std::size_t>(panel_count(*matrix.source)));
  for_each_panel(
      *matrix.source, plain, pool, matrix.name, [](std::int64_t) {},
      [&](PanelReader& reader, std::int64_t panel, int) {
        std::vector<double>& sums = panels[static_cast<std::size_t>(panel)];
        sums.resize(cols);
        for (int r = 0; r < reader.n_rows(); ++r) {
          add(reader.rows() + static_cast<std::size_t>(r) * cols, sums);
        }
      });
  std::vector<double> total(cols);
  for (const std::vector<double>& sums : panels) {
    for (std::size_t c = 0; c < cols; ++c) total[c] += sums[c];
  }
  return total;
}

// Of each column, the squared errors of its weights when binarized.
std::vector<double> binarized_errors(const SalientMatrix& matrix, const std::vector<bool>& kept,
                                     ThreadPool& pool) {
  const std::size_t cols = kept.size();
  const auto binarized = static_cast<double>(std::count(kept.begin(), kept.end(), false));
  return sum_rows(matrix, pool, [&](const float* row, std::vector<double>& sums) {
    double mean = 0, deviation = 0;
    for (std::size_t c = 0; c < cols; ++c) mean += kept[c] ? 0.0 : static_cast<double>(row[c]);
    mean /= binarized;
    for (std::size_t c = 0; c < cols; ++c) {
      if (!kept[c]) deviation += std::fabs(static_cast<double>(row[c]) - mean);
    }
    deviation /= binarized;
    for (std::size_t c = 0; c < cols; ++c) {
      const double error = std::fabs(static_cast<double>(row[c]) - mean) - deviation;
      sums[c] += error * error;
    }
  });
}

// Of a matrix, added to scores: errors by column, each times its weight, relative to their mean.
void add_relative(const std::vector<double>& errors, std::span<const float> weights, double factor,
                  std::vector<double>& scores) {
  double sum = 0;
  for (std::size_t c = 0; c < errors.size(); ++c) {
    sum += errors[c] * static_cast<double>(weights[c]);
  }
  if (!(sum > 0)) return;
  const double mean = sum / static_cast<double>(errors.size());
  for (std::size_t c = 0; c < errors.size(); ++c) {
    scores[c] += factor * errors[c] * static_cast<double>(weights[c]) / mean;
  }
}

}  // namespace

std::vector<double> activation_scores(std::span<const SalientMatrix> matrices,
                                      std::span<const float> power, ThreadPool& pool) {
  std::vector<double> scores(power.size());
  for (const SalientMatrix& matrix : matrices) {
    const std::vector<double> squares =
        sum_rows(matrix, pool, [&](const float* row, std::vector<double>& sums) {
          for (std::size_t c = 0; c < power.size(); ++c) {
            sums[c] += static_cast<double>(row[c]) * static_cast<double>(row[c]);
          }
        });
    add_relative(squares, power, 1.0, scores);
  }
  return scores;
}

std::vector<double> pbar_scores(std::span<const SalientMatrix> matrices, const Hessian& inputs,
                                const Feedback& left_to_right, double lambda, std::int64_t first,
                                ThreadPool& pool) {
  const std::vector<float> power = inputs.diagonal();
  std::vector<bool> kept(power.size());
  std::vector<double> scores;
  for (int round = 0; round < kRounds; ++round) {
    scores.assign(power.size(), 0.0);
    for (const SalientMatrix& matrix : matrices) {
      const std::vector<double> errors = binarized_errors(matrix, kept, pool);
      add_relative(errors, left_to_right.d, 1.0, scores);
      add_relative(errors, power, lambda, scores);
    }
    const std::vector<std::int32_t> order = column_order(scores, first);
    std::fill(kept.begin(), kept.end(), false);
    for (std::int64_t c = 0; c < first; ++c) {
      kept[static_cast<std::size_t>(order[static_cast<std::size_t>(c)])] = true;
    }
  }
  return scores;
}

}  // namespace tenfold
