#include "quantizer/rtn/realize.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
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
    const auto from = parts(*weight.packed);
    const auto to = parts(out.view);
    for (std::size_t i = 0; i < from.size(); ++i) {
      std::memcpy(writable(out, to[i].data()), from[i].data(), from[i].size());
    }
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
  for (const Band& band : out.view.all_bands()) {
    const int bits = format_traits(band.format).bits;
    const GridKind kind{bits, band.min_kind, plan.range};
    for (std::int64_t begin = 0, g = 0; begin < band.cols(); begin += band.group, ++g) {
      const auto count = static_cast<std::size_t>(std::min(band.group, band.cols() - begin));
      const auto first = static_cast<std::size_t>(band.col_begin + begin);
      PanelGrids grids;
      for (int r = 0; r < n_rows; ++r) {
        const std::span<const float> weights(
            rows + r * out.view.cols + static_cast<std::int64_t>(first), count);
        Grid& grid = grids[static_cast<std::size_t>(r)];
        grid = fit_group(weights, kind,
                         importance.empty() ? importance : importance.subspan(first, count));
        encode_group(weights, grid, bits, codes + r * band.cols() + begin);
        error += grid.error;
      }
      write_grids(grids, band, panel, g, out.view.rows, out);
    }
    write_codes(codes, n_rows, band, panel, out.view.rows, out);
  }
  return error;
}

std::optional<QuantizedMatrix> copy_of_source(const RowReader& source, const MatrixPlan& plan,
                                              ThreadPool& pool) {
  if (!plan.col_factor.empty() || !plan.row_factor.empty()) return std::nullopt;
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
