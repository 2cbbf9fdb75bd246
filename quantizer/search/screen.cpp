#include "quantizer/search/screen.h"

#include <algorithm>
#include <numeric>

namespace tenfold {
namespace {

constexpr std::size_t kChunkRows = 32;
constexpr std::int64_t kMostRows = 128;  // of each matrix

}  // namespace

ColumnChange::ColumnChange(std::int64_t cols)
    : from(static_cast<std::size_t>(cols)), factor(static_cast<std::size_t>(cols), 1.0f) {
  std::iota(from.begin(), from.end(), 0);
}

Screen::Screen(std::span<const Matrix> matrices, RangeKind range, bool weighted,
               std::span<const float> power, ThreadPool& pool)
    : range_(range),
      weighted_(weighted),
      power_(power),
      pool_(pool),
      change_(static_cast<std::int64_t>(power.size())),
      importance_(power.size()),
      rows_(static_cast<std::size_t>(pool.size()), std::vector<float>(power.size())) {
  for (const Matrix& matrix : matrices) matrices_.push_back(begin(matrix));
}

Screen::Screened Screen::begin(const Matrix& matrix) {
  Screened of{matrix.weights, matrix.layout, {}, column_groups(*matrix.layout), {}, {}, {}, 0};
  const std::int64_t rows = matrix.layout->rows, count = std::min(rows, kMostRows);
  for (std::int64_t i = 0; i < count; ++i) of.rows.push_back(i * rows / count);
  for (const std::int64_t r : of.rows) {
    const float* row = matrix.weights + r * matrix.layout->cols;
    for (std::size_t c = 0; c < power_.size(); ++c) {
      of.held += static_cast<double>(power_[c] * row[c] * row[c]);
    }
  }
  if (!(of.held > 0)) of.held = 1;
  of.group_of.resize(power_.size());
  for (std::size_t g = 0; g < of.groups.size(); ++g) {
    for (std::int64_t c = of.groups[g].begin; c < of.groups[g].end; ++c) {
      of.group_of[static_cast<std::size_t>(c)] = g;
    }
    Fitted fitted = fit(change_, of, g);
    of.grids.push_back(std::move(fitted.grids));
    of.errors.push_back(fitted.error);
  }
  return of;
}

// Near the accepted grids, once there are any.
Screen::Fitted Screen::fit(const ColumnChange& change, const Screened& of, std::size_t g) {
  const ColumnGroup& group = of.groups[g];
  const MatrixView& layout = *of.layout;
  const auto begin = static_cast<std::size_t>(group.begin);
  const auto count = static_cast<std::size_t>(group.end - group.begin);
  for (std::size_t c = begin; c < begin + count; ++c) {
    importance_[c] =
        power_[static_cast<std::size_t>(change.from[c])] * change.factor[c] * change.factor[c];
  }
  const auto importance = std::span<const float>(importance_).subspan(begin, count);
  const auto fitted_by = weighted_ ? importance : std::span<const float>();
  const Band& band = layout.bands[static_cast<std::size_t>(group.band)];
  const GridKind kind{group_bits(group, layout), band.min_kind, range_};
  Fitted fitted;
  fitted.grids.resize(of.rows.size());
  std::vector<double> errors(of.rows.size());
  const int chunks = static_cast<int>((of.rows.size() + kChunkRows - 1) / kChunkRows);
  pool_.run(chunks, [&](int chunk, int thread) {
    const std::span row = std::span(rows_[static_cast<std::size_t>(thread)]).first(count);
    const std::size_t first = static_cast<std::size_t>(chunk) * kChunkRows;
    for (std::size_t i = first; i < std::min(first + kChunkRows, of.rows.size()); ++i) {
      const float* from = of.weights + of.rows[i] * layout.cols;
      for (std::size_t c = 0; c < count; ++c) {
        row[c] = from[change.from[begin + c]] / change.factor[begin + c];
      }
      fitted.grids[i] = g < of.grids.size() ? refit_group(row, kind, fitted_by, of.grids[g][i])
                                            : fit_group(row, kind, fitted_by);
      errors[i] = squared_error(row, importance, fitted.grids[i], kind.bits);
    }
  });
  fitted.error = std::accumulate(errors.begin(), errors.end(), 0.0) / of.held;
  return fitted;
}

bool Screen::improve(const ColumnChange& next, std::span<const std::int64_t> columns) {
  struct Touched {
    std::size_t matrix, group;
    Fitted fitted;
  };
  std::vector<Touched> touched;
  double gain = 0;
  for (std::size_t m = 0; m < matrices_.size(); ++m) {
    const Screened& of = matrices_[m];
    std::vector<std::size_t> groups;
    for (const std::int64_t col : columns) {
      groups.push_back(of.group_of[static_cast<std::size_t>(col)]);
    }
    std::sort(groups.begin(), groups.end());
    groups.erase(std::unique(groups.begin(), groups.end()), groups.end());
    for (const std::size_t g : groups) {
      touched.push_back({m, g, fit(next, of, g)});
      gain += of.errors[g] - touched.back().fitted.error;
    }
  }
  if (!(gain > 0)) return false;
  for (Touched& one : touched) {
    matrices_[one.matrix].errors[one.group] = one.fitted.error;
    matrices_[one.matrix].grids[one.group] = std::move(one.fitted.grids);
  }
  for (const std::int64_t col : columns) {
    const auto c = static_cast<std::size_t>(col);
    change_.from[c] = next.from[c];
    change_.factor[c] = next.factor[c];
  }
  return true;
}

}  // namespace tenfold
