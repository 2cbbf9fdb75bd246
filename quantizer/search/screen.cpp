#include "quantizer/search/screen.h"

#include <algorithm>
#include <numeric>

namespace tenfold {
namespace {

constexpr std::int64_t kChunkRows = 32;

}  // namespace

ColumnChange::ColumnChange(std::int64_t cols)
    : from(static_cast<std::size_t>(cols)), factor(static_cast<std::size_t>(cols), 1.0f) {
  std::iota(from.begin(), from.end(), 0);
}

Screen::Screen(const float* weights, const MatrixView& layout, RangeKind range, bool weighted,
               std::span<const float> power, ThreadPool& pool)
    : weights_(weights),
      layout_(layout),
      range_(range),
      weighted_(weighted),
      power_(power),
      pool_(pool),
      groups_(column_groups(layout)),
      group_of_(static_cast<std::size_t>(layout.cols)),
      change_(layout.cols),
      importance_(static_cast<std::size_t>(layout.cols)),
      rows_(static_cast<std::size_t>(pool.size()),
            std::vector<float>(static_cast<std::size_t>(layout.cols))) {
  for (std::size_t g = 0; g < groups_.size(); ++g) {
    for (std::int64_t c = groups_[g].begin; c < groups_[g].end; ++c) {
      group_of_[static_cast<std::size_t>(c)] = g;
    }
  }
  for (std::size_t g = 0; g < groups_.size(); ++g) errors_.push_back(group_error(change_, g));
}

double Screen::group_error(const ColumnChange& change, std::size_t g) {
  const ColumnGroup& group = groups_[g];
  for (std::int64_t col = group.begin; col < group.end; ++col) {
    const auto c = static_cast<std::size_t>(col);
    importance_[c] =
        power_[static_cast<std::size_t>(change.from[c])] * change.factor[c] * change.factor[c];
  }
  const std::span<const float> fitted_by =
      weighted_ ? std::span<const float>(importance_) : std::span<const float>();
  const int bits = group_bits(group, layout_);
  const std::int64_t chunks = (layout_.rows + kChunkRows - 1) / kChunkRows;
  chunk_errors_.assign(static_cast<std::size_t>(chunks), 0.0);
  pool_.run(static_cast<int>(chunks), [&](int chunk, int thread) {
    float* row = rows_[static_cast<std::size_t>(thread)].data();
    double sum = 0;
    const std::int64_t end = std::min((chunk + 1) * kChunkRows, layout_.rows);
    for (std::int64_t r = chunk * kChunkRows; r < end; ++r) {
      const float* from = weights_ + r * layout_.cols;
      for (std::int64_t c = group.begin; c < group.end; ++c) {
        const auto i = static_cast<std::size_t>(c);
        row[c] = from[change.from[i]] / change.factor[i];
      }
      const Grid grid = fit_columns(row, group, layout_, range_, fitted_by);
      for (std::int64_t c = group.begin; c < group.end; ++c) {
        std::uint8_t code = 0;
        const float missed = row[c] - nearest_value(row[c], grid, bits, code);
        sum += static_cast<double>(importance_[static_cast<std::size_t>(c)] * missed * missed);
      }
    }
    chunk_errors_[static_cast<std::size_t>(chunk)] = sum;
  });
  return std::accumulate(chunk_errors_.begin(), chunk_errors_.end(), 0.0);
}

bool Screen::improve(const ColumnChange& next, std::span<const std::int64_t> columns) {
  std::vector<std::size_t> touched;
  for (const std::int64_t col : columns) touched.push_back(group_of(col));
  std::sort(touched.begin(), touched.end());
  touched.erase(std::unique(touched.begin(), touched.end()), touched.end());
  std::vector<double> errors;
  double gain = 0;
  for (const std::size_t g : touched) {
    errors.push_back(group_error(next, g));
    gain += errors_[g] - errors.back();
  }
  if (gain <= 0) return false;
  for (std::size_t i = 0; i < touched.size(); ++i) errors_[touched[i]] = errors[i];
  for (const std::int64_t col : columns) {
    const auto c = static_cast<std::size_t>(col);
    change_.from[c] = next.from[c];
    change_.factor[c] = next.factor[c];
  }
  return true;
}

}  // namespace tenfold
