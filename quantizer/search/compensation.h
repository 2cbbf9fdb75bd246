#pragma once
// GPTQ for some column groups of a matrix, the others staying as they are (gptq/realize.h has the
// whole): what the columns are rounded to also makes up for the errors of all others.

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/matrix.h"
#include "kernels/thread_pool.h"
#include "quantizer/hessian.h"
#include "quantizer/panel.h"
#include "quantizer/range.h"

namespace tenfold {

struct CompensatedRow {
  std::vector<Grid> grids;          // by group, as the compensation has them
  std::vector<std::uint8_t> codes;  // by turn
  double loss = 0;  // of the turns, where every column has one: e H e^T with H damped
};

// A row [cols], and the errors [cols] of its columns that stay, not read where none does.
struct RowToCompensate {
  const float* row;
  std::span<const float> missed;
};

class Compensation {
 public:
  // groups: indices of column_groups(layout); moments: of the inputs of all columns.
  Compensation(const MatrixView& layout, std::vector<std::size_t> groups, const Hessian& moments,
               double damping, ThreadPool& pool);

  // The column of each turn, the strongest input first, and its group's place among those given.
  const std::vector<std::int32_t>& columns() const noexcept { return columns_; }
  const std::vector<std::size_t>& group_of_turn() const noexcept { return group_of_turn_; }

  bool none_stays() const noexcept { return cross_.empty(); }

  // importance of ranges: [cols] or empty. Several rows together read the moments once. May be
  // called from several threads.
  std::vector<CompensatedRow> round(std::span<const RowToCompensate> rows, RangeKind range,
                                    std::span<const float> importance) const;

 private:
  std::vector<double> shift(std::span<const float> missed) const;

  MatrixView layout_;
  std::vector<ColumnGroup> all_;
  std::vector<std::size_t> groups_;
  std::vector<std::int32_t> columns_;
  std::vector<std::size_t> group_of_turn_;
  Feedback feedback_;         // by turn
  std::vector<float> cross_;  // [turns, cols]: H of a column with all that stay, else 0
};

}  // namespace tenfold
