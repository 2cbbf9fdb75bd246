#pragma once
// Makes parts of a quantized matrix again after its channels moved: rows take their codes with
// them, columns are rounded anew, group by group, and what no move touches keeps its bytes.

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "kernels/matrix.h"
#include "kernels/thread_pool.h"
#include "quantizer/hessian.h"
#include "quantizer/range.h"
#include "quantizer/search/coupling.h"

namespace tenfold {

// Row `place` of `out` becomes row from(place) of `before` times factor(place) > 0: its codes are
// unchanged, and its grids are scaled, in f16. Both have one layout.
struct RowMove {
  std::int64_t place = 0, from = 0;
  float factor = 1;
};
void move_rows(const MatrixView& before, std::span<const RowMove> moves, const QuantizedMatrix& out,
               ThreadPool& pool);

struct Rounding {
  RangeKind range = RangeKind::mse;
  bool weighted = false;  // ranges: errors count by the mean square of their input
  // Second moments of the inputs as `weights` meets them; may be null where nothing looks at them.
  const Hessian* moments = nullptr;
  // Of compensation (GPTQ): codes also make up for the errors of all other columns, the strongest
  // inputs first; absent: to the nearest.
  std::optional<double> damping;
};
// Rows `places` of `out` are rounded anew to `weights` [rows, cols].
void round_rows(const float* weights, std::span<const std::int64_t> places,
                const Rounding& rounding, const QuantizedMatrix& out, ThreadPool& pool);
// The column groups `groups` (indices of column_groups()) of all rows, likewise.
void round_groups(const float* weights, std::span<const std::size_t> groups,
                  const Rounding& rounding, const QuantizedMatrix& out, ThreadPool& pool);

}  // namespace tenfold
