#pragma once
// A cheap guess at what a change of columns does to the matrices that read them: the square errors
// of their weights when rounded, each column's counted by the mean square of its input, relative to
// what the matrix holds. It looks at up to 128 rows of each matrix and sees no correlations; the
// true loss decides.

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
  struct Matrix {
    const float* weights;  // [rows, cols], the accepted columns
    const MatrixView* layout;
  };
  // power: mean squares of the inputs, of all matrices; weighted: also ranges count errors by them.
  // All outlive this.
  Screen(std::span<const Matrix> matrices, RangeKind range, bool weighted,
         std::span<const float> power, ThreadPool& pool);

  const ColumnChange& change() const noexcept { return change_; }
  // Of the first matrix.
  std::size_t group_of(std::int64_t col) const {
    return matrices_.front().group_of[static_cast<std::size_t>(col)];
  }

  // Takes the change over where it lowers the error; true where it did. `columns`: those in which
  // it differs from change().
  bool improve(const ColumnChange& next, std::span<const std::int64_t> columns);

 private:
  struct Screened {
    const float* weights;
    const MatrixView* layout;
    std::vector<std::int64_t> rows;  // those looked at
    std::vector<ColumnGroup> groups;
    std::vector<std::size_t> group_of;     // of each column
    std::vector<std::vector<Grid>> grids;  // of each group: of those rows, as accepted
    std::vector<double> errors;            // of each group
    double held = 0;                       // what the errors are relative to
  };
  struct Fitted {
    std::vector<Grid> grids;
    double error = 0;
  };
  Screened begin(const Matrix& matrix);
  Fitted fit(const ColumnChange& change, const Screened& of, std::size_t group);

  std::vector<Screened> matrices_;
  RangeKind range_;
  bool weighted_;
  std::span<const float> power_;
  ThreadPool& pool_;
  ColumnChange change_;
  std::vector<float> importance_;         // [cols]
  std::vector<std::vector<float>> rows_;  // of each thread
};

}  // namespace tenfold
