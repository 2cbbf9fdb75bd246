#pragma once
// A cheap guess at what a change of a matrix's columns does: the square errors of its weights when
// rounded, each column's counted by the mean square of its input. It sees one matrix and no
// correlations; the true loss decides.

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/matrix.h"
#include "kernels/thread_pool.h"
#include "quantizer/panel.h"
#include "quantizer/range.h"

namespace tenfold {

// How the columns of a matrix stand relative to the accepted ones: column c is accepted column
// from[c] divided by factor[c], and meets an input so much larger.
struct ColumnChange {
  std::vector<std::int32_t> from;
  std::vector<float> factor;
  explicit ColumnChange(std::int64_t cols);  // changes nothing
};

class Screen {
 public:
  // weights: [rows, cols], the accepted columns; power: mean squares of their inputs; weighted:
  // also ranges count errors by them. All outlive this.
  Screen(const float* weights, const MatrixView& layout, RangeKind range, bool weighted,
         std::span<const float> power, ThreadPool& pool);

  const ColumnChange& change() const noexcept { return change_; }
  std::size_t group_of(std::int64_t col) const { return group_of_[static_cast<std::size_t>(col)]; }

  // Takes the change over where it lowers the error; true where it did. `columns`: those in which
  // it differs from change().
  bool improve(const ColumnChange& next, std::span<const std::int64_t> columns);

 private:
  double group_error(const ColumnChange& change, std::size_t group);

  const float* weights_;
  const MatrixView& layout_;
  RangeKind range_;
  bool weighted_;
  std::span<const float> power_;
  ThreadPool& pool_;
  std::vector<ColumnGroup> groups_;
  std::vector<std::size_t> group_of_;
  ColumnChange change_;
  std::vector<double> errors_;            // of each group
  std::vector<float> importance_;         // [cols]
  std::vector<std::vector<float>> rows_;  // of each thread
  std::vector<double> chunk_errors_;
};

}  // namespace tenfold
