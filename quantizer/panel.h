#pragma once
// What realizing has in common, whatever the method: sources are read, and packed bytes written, in
// panels of 16 rows.

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "kernels/formats/plane.h"
#include "kernels/matrix.h"
#include "kernels/thread_pool.h"
#include "models/tensors.h"
#include "quantizer/plan.h"

namespace tenfold {

std::int64_t panel_count(const RowReader& source);

// A group of columns, in the plan's order.
struct ColumnGroup {
  int band;
  std::int64_t index;  // within the band
  std::int64_t begin, end;
};
// Of all bands, from left to right.
std::vector<ColumnGroup> column_groups(const MatrixView& layout);
std::vector<std::size_t> all_groups(const MatrixView& layout);  // their indices
int group_bits(const ColumnGroup& group, const MatrixView& layout) noexcept;
// The group's grid for one row [cols]. importance: [cols], or empty.
Grid fit_columns(const float* row, const ColumnGroup& group, const MatrixView& layout,
                 RangeKind range, std::span<const float> importance) noexcept;

// Of one group and the 16 rows of a panel; empty where the plan has none.
std::span<const Grid> plan_grids(const MatrixPlan& plan, std::int64_t panel, std::size_t group,
                                 std::size_t groups) noexcept;

// The rows of one panel in the plan's column order, and codes for them; memory of one thread.
class PanelReader {
 public:
  PanelReader(const RowReader& source, const MatrixPlan& plan);
  // false where a weight is not finite.
  bool read(std::int64_t panel) noexcept;
  const float* rows() const noexcept { return rows_.data(); }  // [n_rows, cols]
  int n_rows() const noexcept { return n_rows_; }
  std::uint8_t* codes() noexcept { return codes_.data(); }  // [16, cols]

 private:
  const RowReader& source_;
  const MatrixPlan& plan_;
  std::size_t cols_;
  std::vector<float> rows_, row_, scratch_;
  std::vector<std::uint8_t> codes_;
  int n_rows_ = 0;
};

// One group of all rows of a panel.
using PanelGrids = std::array<Grid, kPanelRows>;
void write_grids(const PanelGrids& grids, const Band& band, std::int64_t panel, std::int64_t group,
                 std::int64_t rows, const QuantizedMatrix& out) noexcept;
// codes: [n_rows, band.cols()].
void write_codes(const std::uint8_t* codes, int n_rows, const Band& band, std::int64_t panel,
                 std::int64_t rows, const QuantizedMatrix& out) noexcept;

// All bytes of a matrix of the same layout.
void copy_parts(const MatrixView& from, const QuantizedMatrix& to) noexcept;
// A copy with its own storage.
QuantizedMatrix copy_matrix(const MatrixView& view);

[[noreturn]] void fail_not_finite(const std::string& what);

// Calls body(reader, panel, thread) for every panel, in parallel; done(rows) now and then between,
// which may throw. `what` names the tensor for the error (bad_file) that a weight which is no
// number ends in.
template <typename Body>
void for_each_panel(const RowReader& source, const MatrixPlan& plan, ThreadPool& pool,
                    const std::string& what, const std::function<void(std::int64_t)>& done,
                    Body&& body) {
  constexpr std::int64_t kPanelsPerThread = 8;
  std::vector<PanelReader> readers(static_cast<std::size_t>(pool.size()),
                                   PanelReader(source, plan));
  const std::int64_t panels = panel_count(source);
  const std::int64_t step = std::int64_t{pool.size()} * kPanelsPerThread;
  std::atomic<bool> finite{true};
  for (std::int64_t first = 0; first < panels; first += step) {
    const std::int64_t end = std::min(first + step, panels);
    pool.run(static_cast<int>(end - first), [&](int chunk, int thread) {
      PanelReader& reader = readers[static_cast<std::size_t>(thread)];
      if (reader.read(first + chunk)) {
        body(reader, first + chunk, thread);
      } else {
        finite = false;
      }
    });
    if (!finite) fail_not_finite(what);
    done(std::min(end * kPanelRows, source.rows()));
  }
}

// What the weights of a packed or float matrix mean, [rows, cols].
std::vector<float> dequantized(const MatrixView& matrix);

}  // namespace tenfold
