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
#include "runtime/files/packed_matrix.h"

namespace tenfold {
namespace {

constexpr int kPanelsPerThread = 8;  // between two calls of done()

// The rows of one panel in the plan's column order; memory of one thread.
class PanelReader {
 public:
  PanelReader(const RowReader& source, const MatrixPlan& plan)
      : source_(source),
        plan_(plan),
        cols_(static_cast<std::size_t>(source.cols())),
        rows_(kPanelRows * cols_),
        row_(cols_),
        scratch_(cols_),
        codes_(kPanelRows * cols_) {}

  // false where a weight is not finite.
  bool read(std::int64_t panel) noexcept {
    const std::int64_t first = panel * kPanelRows;
    n_rows_ = static_cast<int>(std::min<std::int64_t>(kPanelRows, source_.rows() - first));
    bool finite = true;
    for (int r = 0; r < n_rows_; ++r) {
      float* out = rows_.data() + static_cast<std::size_t>(r) * cols_;
      float* row = plan_.order.empty() ? out : row_.data();
      source_.read(first + r, row, scratch_.data());
      for (std::size_t c = 0; c < cols_; ++c) finite &= std::isfinite(row[c]);
      if (plan_.order.empty()) continue;
      for (std::size_t c = 0; c < cols_; ++c) {
        out[c] = row[static_cast<std::size_t>(plan_.order[c])];
      }
    }
    return finite;
  }
  const float* rows() const noexcept { return rows_.data(); }
  int n_rows() const noexcept { return n_rows_; }
  std::uint8_t* codes() noexcept { return codes_.data(); }

 private:
  const RowReader& source_;
  const MatrixPlan& plan_;
  std::size_t cols_;
  std::vector<float> rows_, row_, scratch_;
  std::vector<std::uint8_t> codes_;
  int n_rows_ = 0;
};

std::int64_t panel_count(const RowReader& source) {
  return (source.rows() + kPanelRows - 1) / kPanelRows;
}

struct GroupPlace {
  std::byte* scale;  // 16 f16
  std::byte* min;    // as the min kind has them
};

GroupPlace place_of(const Band& band, const QuantizedMatrix& out, std::int64_t index) {
  GroupPlace place{writable(out, band.scale) + index * kPanelRows * 2, nullptr};
  if (band.min_kind == MinKind::midrise) return place;
  const int bytes = band.min_kind == MinKind::f16
                        ? kPanelRows * 2
                        : kPanelRows * format_traits(band.format).bits / 8;
  place.min = writable(out, band.min) + index * bytes;
  return place;
}

// One group of columns [begin, end) of the band, all rows of the panel.
double realize_group(const float* rows, int n_rows, std::int64_t row_stride, const Band& band,
                     RangeKind range, std::int64_t begin, std::int64_t end, GroupPlace place,
                     std::uint8_t* codes) noexcept {
  const int bits = format_traits(band.format).bits;
  std::uint8_t zeros[kPanelRows] = {};
  double error = 0;
  for (int r = 0; r < n_rows; ++r) {
    const std::span<const float> weights(rows + r * row_stride + band.col_begin + begin,
                                         static_cast<std::size_t>(end - begin));
    const Grid grid = fit_group(weights, {bits, band.min_kind, range});
    encode_group(weights, grid, bits, codes + r * band.cols() + begin);
    error += grid.error;
    std::memcpy(place.scale + std::ptrdiff_t{r} * 2, &grid.scale_bits, 2);
    zeros[r] = static_cast<std::uint8_t>(grid.min_bits);
    if (band.min_kind == MinKind::f16)
      std::memcpy(place.min + std::ptrdiff_t{r} * 2, &grid.min_bits, 2);
  }
  if (band.min_kind == MinKind::zero) pack_zeros(band.format, zeros, place.min);
  return error;
}

[[noreturn]] void fail_not_finite(const std::string& what) {
  throw_error(ErrorCode::bad_file, "{} holds a weight that is not a finite number", what);
}

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

std::vector<PanelReader> readers(const RowReader& source, const MatrixPlan& plan,
                                 const ThreadPool& pool) {
  return {static_cast<std::size_t>(pool.size()), PanelReader(source, plan)};
}

}  // namespace

double realize_panel(const float* rows, int n_rows, const MatrixPlan& plan, std::int64_t panel,
                     const QuantizedMatrix& out, std::uint8_t* codes) noexcept {
  double error = 0;
  for (const Band& band : out.view.all_bands()) {
    const PackedLayout sizes =
        packed_layout(band.format, band.min_kind, out.view.rows, band.cols(), band.group);
    for (std::int64_t g = 0; g < sizes.groups; ++g) {
      const std::int64_t begin = g * band.group;
      const std::int64_t end = std::min(begin + band.group, band.cols());
      error += realize_group(rows, n_rows, out.view.cols, band, plan.range, begin, end,
                             place_of(band, out, panel * sizes.groups + g), codes);
    }
    pack_panel(band.format, codes, n_rows, band.cols(),
               writable(out, band.codes) + panel * sizes.panel_code_bytes);
  }
  return error;
}

QuantizedMatrix realize(const RowReader& source, const MatrixPlan& plan, ThreadPool& pool,
                        const std::string& what, const std::function<void(std::int64_t)>& done) {
  QuantizedMatrix out = allocate_matrix(layout_of(plan, source.rows(), source.cols()));
  if (copy_codes(source, out, pool)) {
    done(source.rows());
    return out;
  }
  std::vector<PanelReader> panel_readers = readers(source, plan, pool);
  const std::int64_t panels = panel_count(source);
  const std::int64_t step = std::int64_t{pool.size()} * kPanelsPerThread;
  std::atomic<bool> finite{true};
  for (std::int64_t first = 0; first < panels; first += step) {
    const std::int64_t end = std::min(first + step, panels);
    pool.run(static_cast<int>(end - first), [&](int chunk, int thread) {
      PanelReader& reader = panel_readers[static_cast<std::size_t>(thread)];
      if (!reader.read(first + chunk)) {
        finite = false;
        return;
      }
      realize_panel(reader.rows(), reader.n_rows(), plan, first + chunk, out, reader.codes());
    });
    if (!finite) fail_not_finite(what);
    done(std::min(end * kPanelRows, source.rows()));
  }
  return out;
}

double sampled_error(const RowReader& source, const MatrixPlan& plan, ThreadPool& pool,
                     std::int64_t panels, const std::string& what) {
  const std::int64_t all = panel_count(source);
  const std::int64_t sampled = std::min(panels, all);
  std::vector<PanelReader> panel_readers = readers(source, plan, pool);
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
