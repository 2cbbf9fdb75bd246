#include "quantizer/panel.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "kernels/error.h"
#include "kernels/formats/codec.h"
#include "runtime/files/packed_matrix.h"

namespace tenfold {

std::int64_t panel_count(const RowReader& source) {
  return (source.rows() + kPanelRows - 1) / kPanelRows;
}

std::vector<ColumnGroup> column_groups(const MatrixView& layout) {
  std::vector<ColumnGroup> groups;
  for (int b = 0; b < layout.n_bands; ++b) {
    const Band& band = layout.bands[static_cast<std::size_t>(b)];
    for (std::int64_t begin = 0, g = 0; begin < band.cols(); begin += band.group, ++g) {
      groups.push_back({b, g, band.col_begin + begin,
                        band.col_begin + std::min(begin + band.group, band.cols())});
    }
  }
  return groups;
}

std::vector<std::size_t> all_groups(const MatrixView& layout) {
  std::vector<std::size_t> groups(column_groups(layout).size());
  std::iota(groups.begin(), groups.end(), std::size_t{0});
  return groups;
}

int group_bits(const ColumnGroup& group, const MatrixView& layout) noexcept {
  return format_traits(layout.bands[static_cast<std::size_t>(group.band)].format).bits;
}

Grid fit_columns(const float* row, const ColumnGroup& group, const MatrixView& layout,
                 RangeKind range, std::span<const float> importance) noexcept {
  const Band& band = layout.bands[static_cast<std::size_t>(group.band)];
  const auto first = static_cast<std::size_t>(group.begin);
  const auto count = static_cast<std::size_t>(group.end - group.begin);
  return fit_group({row + group.begin, count},
                   {format_traits(band.format).bits, band.min_kind, range},
                   importance.empty() ? importance : importance.subspan(first, count));
}

std::span<const Grid> plan_grids(const MatrixPlan& plan, std::int64_t panel, std::size_t group,
                                 std::size_t groups) noexcept {
  if (plan.grids.empty()) return {};
  const std::size_t at = static_cast<std::size_t>(panel) * groups + group;
  return std::span(plan.grids).subspan(at * kPanelRows, kPanelRows);
}

PanelReader::PanelReader(const RowReader& source, const MatrixPlan& plan)
    : source_(source),
      plan_(plan),
      cols_(static_cast<std::size_t>(source.cols())),
      rows_(kPanelRows * cols_),
      row_(cols_),
      scratch_(cols_),
      codes_(kPanelRows * cols_) {}

bool PanelReader::read(std::int64_t panel) noexcept {
  const std::int64_t first = panel * kPanelRows;
  n_rows_ = static_cast<int>(std::min<std::int64_t>(kPanelRows, source_.rows() - first));
  bool finite = true;
  for (int r = 0; r < n_rows_; ++r) {
    float* out = rows_.data() + static_cast<std::size_t>(r) * cols_;
    float* row = plan_.order.empty() ? out : row_.data();
    source_.read(first + r, row, scratch_.data());
    const float by_row =
        plan_.row_factor.empty() ? 1.0f : plan_.row_factor[static_cast<std::size_t>(first + r)];
    if (by_row != 1.0f) {
      for (std::size_t c = 0; c < cols_; ++c) row[c] *= by_row;
    }
    if (!plan_.col_factor.empty()) {
      for (std::size_t c = 0; c < cols_; ++c) row[c] *= plan_.col_factor[c];
    }
    for (std::size_t c = 0; c < cols_; ++c) finite &= std::isfinite(row[c]);
    if (plan_.order.empty()) continue;
    for (std::size_t c = 0; c < cols_; ++c) out[c] = row[static_cast<std::size_t>(plan_.order[c])];
  }
  return finite;
}

void write_grids(const PanelGrids& grids, const Band& band, std::int64_t panel, std::int64_t group,
                 std::int64_t rows, const QuantizedMatrix& out) noexcept {
  const PackedLayout sizes =
      packed_layout(band.format, band.min_kind, rows, band.cols(), band.group);
  const std::int64_t index = panel * sizes.groups + group;
  std::uint16_t scales[kPanelRows];
  std::uint16_t minima[kPanelRows];
  std::uint8_t zeros[kPanelRows];
  for (std::size_t r = 0; r < kPanelRows; ++r) {
    scales[r] = grids[r].scale_bits;
    minima[r] = grids[r].min_bits;
    zeros[r] = static_cast<std::uint8_t>(grids[r].min_bits);
  }
  std::memcpy(writable(out, band.scale) + index * kPanelRows * 2, scales, sizeof scales);
  if (band.min_kind == MinKind::f16) {
    std::memcpy(writable(out, band.min) + index * kPanelRows * 2, minima, sizeof minima);
  } else if (band.min_kind == MinKind::zero) {
    const int bits = format_traits(band.format).bits;
    pack_zeros(band.format, zeros, writable(out, band.min) + index * kPanelRows * bits / 8);
  }
}

void write_codes(const std::uint8_t* codes, int n_rows, const Band& band, std::int64_t panel,
                 std::int64_t rows, const QuantizedMatrix& out) noexcept {
  const PackedLayout sizes =
      packed_layout(band.format, band.min_kind, rows, band.cols(), band.group);
  pack_panel(band.format, codes, n_rows, band.cols(),
             writable(out, band.codes) + panel * sizes.panel_code_bytes);
}

void copy_parts(const MatrixView& from, const QuantizedMatrix& to) noexcept {
  const auto source = parts(from);
  const auto target = parts(to.view);
  for (std::size_t i = 0; i < source.size(); ++i) {
    std::memcpy(writable(to, target[i].data()), source[i].data(), source[i].size());
  }
}

QuantizedMatrix copy_matrix(const MatrixView& view) {
  QuantizedMatrix copy = allocate_matrix(view);
  copy_parts(view, copy);
  return copy;
}

void fail_not_finite(const std::string& what) {
  throw_error(ErrorCode::bad_file, "{} holds a weight that is not a finite number", what);
}

std::vector<float> dequantized(const MatrixView& matrix) {
  std::vector<float> values(static_cast<std::size_t>(matrix.rows * matrix.cols));
  for (std::int64_t r = 0; r < matrix.rows; ++r) {
    dequantize_row(matrix, r, values.data() + r * matrix.cols);
  }
  return values;
}

}  // namespace tenfold
