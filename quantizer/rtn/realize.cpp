#include "quantizer/rtn/realize.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <numeric>
#include <span>
#include <vector>

#include "kernels/error.h"
#include "kernels/formats/codec.h"
#include "kernels/formats/plane.h"
#include "models/block_import.h"
#include "quantizer/panel.h"
#include "runtime/files/packed_matrix.h"

namespace tenfold {
namespace {

// True where the codes of the source are those of the layout: then they were copied.
bool copy_codes(const RowReader& source, const QuantizedMatrix& out, ThreadPool& pool) {
  const SourceWeight& weight = source.weight();
  if (source.permuted()) return false;
  if (weight.packed != nullptr) {
    const bool plain = weight.packed->map == InputMap{} && out.view.map == InputMap{};
    if (!plain || !same_layout(*weight.packed, out.view)) return false;
    copy_parts(*weight.packed, out);
    return true;
  }
  const auto exact = exact_layout(*weight.tensor);
  if (!exact || !same_layout(*exact, out.view)) return false;
  pool.run(static_cast<int>(panel_count(source)),
           [&](int panel, int) { import_panel(*weight.tensor, panel, out); });
  return true;
}

}  // namespace

double realize_panel(const float* rows, int n_rows, const MatrixPlan& plan, std::int64_t panel,
                     const QuantizedMatrix& out, std::uint8_t* codes,
                     std::span<const float> importance) noexcept {
  double error = 0;
  const std::vector<ColumnGroup> groups = column_groups(out.view);
  for (std::size_t g = 0; g < groups.size(); ++g) {
    const ColumnGroup& group = groups[g];
    const Band& band = out.view.bands[static_cast<std::size_t>(group.band)];
    const std::span<const Grid> given = plan_grids(plan, panel, g, groups.size());
    PanelGrids grids;
    for (int r = 0; r < n_rows; ++r) {
      const float* row = rows + r * out.view.cols;
      Grid& grid = grids[static_cast<std::size_t>(r)];
      grid = given.empty() ? fit_columns(row, group, out.view, plan.range, importance)
                           : given[static_cast<std::size_t>(r)];
      encode_group(
          {row + group.begin, static_cast<std::size_t>(group.end - group.begin)}, grid,
          format_traits(band.format).bits,
          codes + band.col_begin * kPanelRows + r * band.cols() + group.begin - band.col_begin);
      error += grid.error;
    }
    write_grids(grids, band, panel, group.index, out.view.rows, out);
  }
  for (const Band& band : out.view.all_bands()) {
    write_codes(codes + band.col_begin * kPanelRows, n_rows, band, panel, out.view.rows, out);
  }
  return error;
}

std::optional<QuantizedMatrix> copy_of_source(const RowReader& source, const MatrixPlan& plan,
                                              ThreadPool& pool) {
  if (!plan.col_factor.empty() || !plan.row_factor.empty() || !plan.grids.empty()) {
    return std::nullopt;
  }
  QuantizedMatrix out = allocate_matrix(layout_of(plan, source.rows(), source.cols()));
  if (!copy_codes(source, out, pool)) return std::nullopt;
  return out;
}

QuantizedMatrix realize(const RowReader& source, const MatrixPlan& plan, ThreadPool& pool,
                        const std::string& what, const std::function<void(std::int64_t)>& done,
                        std::span<const float> importance) {
  if (std::optional<QuantizedMatrix> copy = copy_of_source(source, plan, pool)) {
    done(source.rows());
    return *std::move(copy);
  }
  QuantizedMatrix out = allocate_matrix(layout_of(plan, source.rows(), source.cols()));
  for_each_panel(source, plan, pool, what, done, [&](PanelReader& reader, std::int64_t panel, int) {
    realize_panel(reader.rows(), reader.n_rows(), plan, panel, out, reader.codes(), importance);
  });
  return out;
}

double sampled_error(const RowReader& source, const MatrixPlan& plan, ThreadPool& pool,
                     std::int64_t panels, const std::string& what) {
  const std::int64_t all = panel_count(source);
  const std::int64_t sampled = std::min(panels, all);
  std::vector<PanelReader> panel_readers(static_cast<std::size_t>(pool.size()),
                                         PanelReader(source, plan));
  std::vector<QuantizedMatrix> outs;
  outs.reserve(static_cast<std::size_t>(pool.size()));
  for (int thread = 0; thread < pool.size(); ++thread) {
    outs.push_back(allocate_matrix(layout_of(plan, kPanelRows, source.cols())));
  }
  std::vector<double> errors(static_cast<std::size_t>(sampled));
  std::atomic<bool> finite{true};
  pool.run(static_cast<int>(sampled), [&](int chunk, int thread) {
    PanelReader& reader = panel_readers[static_cast<std::size_t>(thread)];
    if (!reader.read(chunk * all / sampled)) {
      finite = false;
      return;
    }
    errors[static_cast<std::size_t>(chunk)] =
        realize_panel(reader.rows(), reader.n_rows(), plan, 0,
                      outs[static_cast<std::size_t>(thread)], reader.codes());
  });
  if (!finite) fail_not_finite(what);
  return std::accumulate(errors.begin(), errors.end(), 0.0);
}

}  // namespace tenfold
