#include "quantizer/search/compensation.h"

#include <algorithm>
#include <utility>

#include "kernels/cpu/isa.h"

namespace tenfold {
Compensation::Compensation(const MatrixView& layout, std::vector<std::size_t> groups,
                           const Hessian& moments, double damping, ThreadPool& pool)
    : layout_(layout), all_(column_groups(layout)), groups_(std::move(groups)) {
  const std::vector<float> power = moments.diagonal();
  std::vector<std::size_t> group_of(static_cast<std::size_t>(layout.cols), groups_.size());
  for (std::size_t i = 0; i < groups_.size(); ++i) {
    for (std::int64_t c = all_[groups_[i]].begin; c < all_[groups_[i]].end; ++c) {
      group_of[static_cast<std::size_t>(c)] = i;
      columns_.push_back(static_cast<std::int32_t>(c));
    }
  }
  std::stable_sort(columns_.begin(), columns_.end(), [&](std::int32_t a, std::int32_t b) {
    return power[static_cast<std::size_t>(a)] > power[static_cast<std::size_t>(b)];
  });
  feedback_ = factor(moments.of(columns_, {}), {}, damping, pool);
  const bool none_stays = columns_.size() == static_cast<std::size_t>(layout.cols);
  for (const std::int32_t column : columns_) {
    group_of_turn_.push_back(group_of[static_cast<std::size_t>(column)]);
    if (none_stays) continue;
    for (std::int64_t c = 0; c < layout.cols; ++c) {
      const bool stays = group_of[static_cast<std::size_t>(c)] == groups_.size();
      cross_.push_back(stays ? static_cast<float>(moments.mean(column, c)) : 0.0f);
    }
  }
}

// By turn, what the errors that stay move the columns by.
std::vector<double> Compensation::shift(std::span<const float> missed) const {
  std::vector<double> shift(columns_.size());
  if (cross_.empty()) return shift;
  for (std::size_t t = 0; t < shift.size(); ++t) {
    shift[t] = loops().dot(cross_.data() + t * missed.size(), missed.data(),
                           static_cast<std::int64_t>(missed.size()));
  }
  solve(feedback_, std::span(shift));
  return shift;
}

std::vector<CompensatedRow> Compensation::round(std::span<const RowToCompensate> rows,
                                                RangeKind range,
                                                std::span<const float> importance) const {
  const std::size_t n = columns_.size();
  std::vector<CompensatedRow> made(rows.size());
  std::vector<float> moved(rows.size() * n);  // by turn
  for (std::size_t r = 0; r < rows.size(); ++r) {
    const std::vector<double> shift = this->shift(rows[r].missed);
    std::vector<float> targets(rows[r].row, rows[r].row + layout_.cols);
    for (std::size_t t = 0; t < n; ++t) {
      float& target = targets[static_cast<std::size_t>(columns_[t])];
      target += static_cast<float>(shift[t]);
      moved[r * n + t] = target;
    }
    for (const std::size_t g : groups_) {
      made[r].grids.push_back(fit_columns(targets.data(), all_[g], layout_, range, importance));
    }
    made[r].codes.resize(n);
  }
  const std::vector<float> wanted = moved;
  for (std::size_t t = 0; t < n; ++t) {
    const std::size_t g = group_of_turn_[t];
    const int bits = group_bits(all_[groups_[g]], layout_);
    const auto d = static_cast<double>(feedback_.d[t]);
    const float* u = feedback_.u.data() + t * n;
    for (std::size_t r = 0; r < rows.size(); ++r) {
      float* row = moved.data() + r * n;
      const float value = nearest_value(row[t], made[r].grids[g], bits, made[r].codes[t]);
      const auto left = static_cast<double>(row[t] - value);
      made[r].loss += d * left * left;
      const float error = wanted[r * n + t] - value;
      loops().add_scaled(error, u + t + 1, static_cast<std::int64_t>(n - t - 1), row + t + 1);
    }
  }
  return made;
}

}  // namespace tenfold
