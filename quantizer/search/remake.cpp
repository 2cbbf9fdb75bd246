#include "quantizer/search/remake.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "kernels/formats/codec.h"
#include "kernels/half.h"
#include "quantizer/panel.h"
#include "runtime/files/packed_matrix.h"

namespace tenfold {
namespace {

// The codes and grids of a panel of 16 rows, to be changed and written back.
class PanelEdit {
 public:
  explicit PanelEdit(const MatrixView& view) : view_(view), groups_(column_groups(view)) {
    codes_.resize(static_cast<std::size_t>(kPanelRows * view.cols));
    grids_.resize(groups_.size());
  }

  void read(std::int64_t panel) {
    panel_ = panel;
    for (PanelGrids& grids : grids_) grids = {};  // of rows past the last, too
    n_rows_ = static_cast<int>(std::min<std::int64_t>(kPanelRows, view_.rows - panel * kPanelRows));
    for (int r = 0; r < n_rows_; ++r) read_row(view_, panel * kPanelRows + r, r);
  }
  // Row `row` of a matrix of the same layout, as row r of this panel.
  void read_row(const MatrixView& from, std::int64_t row, int r) {
    for (const Band& band : from.all_bands()) {
      const PackedLayout layout =
          packed_layout(band.format, band.min_kind, from.rows, band.cols(), band.group);
      unpack_panel_row(band.format, band.codes + row / kPanelRows * layout.panel_code_bytes,
                       static_cast<int>(row % kPanelRows), band.cols(), codes(r, band));
    }
    for (std::size_t g = 0; g < groups_.size(); ++g) {
      grids_[g][static_cast<std::size_t>(r)] = stored_grid(
          from.bands[static_cast<std::size_t>(groups_[g].band)], row, groups_[g].index, from.rows);
    }
  }
  void write(const QuantizedMatrix& out) const {
    for (std::size_t g = 0; g < groups_.size(); ++g) {
      const Band& band = out.view.bands[static_cast<std::size_t>(groups_[g].band)];
      write_grids(grids_[g], band, panel_, groups_[g].index, out.view.rows, out);
    }
    for (const Band& band : out.view.all_bands()) {
      write_codes(codes_.data() + band.col_begin * kPanelRows, n_rows_, band, panel_, out.view.rows,
                  out);
    }
  }

  int n_rows() const noexcept { return n_rows_; }
  const std::vector<ColumnGroup>& groups() const noexcept { return groups_; }
  Grid& grid(std::size_t g, int r) { return grids_[g][static_cast<std::size_t>(r)]; }
  std::uint8_t* codes(int r, const Band& band) {
    return codes_.data() + band.col_begin * kPanelRows + r * band.cols();
  }
  // Of the group's first column.
  std::uint8_t* group_codes(std::size_t g, int r) {
    const Band& band = view_.bands[static_cast<std::size_t>(groups_[g].band)];
    return codes(r, band) + groups_[g].begin - band.col_begin;
  }
  int bits(std::size_t g) const { return group_bits(groups_[g], view_); }

 private:
  static Grid stored_grid(const Band& band, std::int64_t row, std::int64_t group,
                          std::int64_t rows) {
    const PackedLayout layout =
        packed_layout(band.format, band.min_kind, rows, band.cols(), band.group);
    const std::int64_t at = row / kPanelRows * layout.groups + group;
    const auto in_panel = static_cast<int>(row % kPanelRows);
    Grid grid;
    std::memcpy(&grid.scale_bits, band.scale + (at * kPanelRows + in_panel) * 2, 2);
    if (band.min_kind == MinKind::f16) {
      std::memcpy(&grid.min_bits, band.min + (at * kPanelRows + in_panel) * 2, 2);
    } else if (band.min_kind == MinKind::zero) {
      grid.min_bits =
          unpack_zero(band.format, band.min + at * 2 * format_traits(band.format).bits, in_panel);
    }
    grid.scale = group_scale(band, row, group);
    grid.min = group_min(band, row, group);
    return grid;
  }

  const MatrixView& view_;
  std::vector<ColumnGroup> groups_;
  std::vector<std::uint8_t> codes_;  // band after band: [16, band.cols()]
  std::vector<PanelGrids> grids_;
  std::int64_t panel_ = 0;
  int n_rows_ = 0;
};

// The same codes times `factor`.
Grid scaled(const Grid& grid, float factor, const Band& band) {
  Grid result = grid;
  result.scale_bits = f32_to_f16(grid.scale * factor);
  result.scale = f16_to_f32(result.scale_bits);
  if (band.min_kind == MinKind::f16) {
    result.min_bits = f32_to_f16(grid.min * factor);
    result.min = f16_to_f32(result.min_bits);
  }
  return result;
}

// Runs body(edit, panel) for the panels of these rows, and writes them.
template <typename Body>
void edit_panels(std::vector<std::int64_t> panels, const QuantizedMatrix& out, ThreadPool& pool,
                 Body&& body) {
  std::sort(panels.begin(), panels.end());
  panels.erase(std::unique(panels.begin(), panels.end()), panels.end());
  std::vector<PanelEdit> edits(static_cast<std::size_t>(pool.size()), PanelEdit(out.view));
  pool.run(static_cast<int>(panels.size()), [&](int i, int thread) {
    PanelEdit& edit = edits[static_cast<std::size_t>(thread)];
    const std::int64_t panel = panels[static_cast<std::size_t>(i)];
    edit.read(panel);
    body(edit, panel);
    edit.write(out);
  });
}

std::vector<std::int64_t> all_panels(std::int64_t rows) {
  std::vector<std::int64_t> panels(static_cast<std::size_t>((rows + kPanelRows - 1) / kPanelRows));
  std::iota(panels.begin(), panels.end(), 0);
  return panels;
}

void round_group(PanelEdit& edit, std::size_t g, int r, const float* row, RangeKind range,
                 std::span<const float> importance, const MatrixView& layout) {
  const ColumnGroup& group = edit.groups()[g];
  edit.grid(g, r) = fit_columns(row, group, layout, range, importance);
  encode_group({row + group.begin, static_cast<std::size_t>(group.end - group.begin)},
               edit.grid(g, r), edit.bits(g), edit.group_codes(g, r));
}

// The columns of some groups, in the order they are rounded in, and the moments they share.
struct Compensation {
  std::vector<std::int32_t> columns;  // by turn: the strongest first
  std::vector<std::size_t> group;     // of each, as an index of `groups`
  Feedback feedback;                  // by turn
  std::vector<float> cross;           // [turns, cols]: H of a column with all; 0 where it is one
  std::vector<float> importance;      // [cols]
};

Compensation compensation_for(const MatrixView& layout, std::span<const std::size_t> groups,
                              const Hessian& moments, double damping, ThreadPool& pool) {
  Compensation made;
  made.importance = moments.diagonal();
  const std::vector<ColumnGroup> all = column_groups(layout);
  std::vector<std::size_t> group_of(static_cast<std::size_t>(layout.cols), groups.size());
  for (std::size_t i = 0; i < groups.size(); ++i) {
    for (std::int64_t c = all[groups[i]].begin; c < all[groups[i]].end; ++c) {
      group_of[static_cast<std::size_t>(c)] = i;
      made.columns.push_back(static_cast<std::int32_t>(c));
    }
  }
  std::stable_sort(made.columns.begin(), made.columns.end(), [&](std::int32_t a, std::int32_t b) {
    return made.importance[static_cast<std::size_t>(a)] >
           made.importance[static_cast<std::size_t>(b)];
  });
  made.feedback = factor(moments.of(made.columns, {}), {}, damping, pool);
  const bool all_touched = made.columns.size() == static_cast<std::size_t>(layout.cols);
  for (const std::int32_t column : made.columns) {
    made.group.push_back(group_of[static_cast<std::size_t>(column)]);
    if (all_touched) continue;
    for (std::int64_t c = 0; c < layout.cols; ++c) {
      const bool inside = group_of[static_cast<std::size_t>(c)] < groups.size();
      made.cross.push_back(inside ? 0.0f : static_cast<float>(moments.mean(column, c)));
    }
  }
  return made;
}

// x of H_AA x = x, in place: H_AA = U D U^T.
void solve(const Feedback& feedback, std::vector<double>& x) {
  const std::size_t n = x.size();
  for (std::size_t i = n; i-- > 0;) {
    for (std::size_t j = i + 1; j < n; ++j) {
      x[i] -= static_cast<double>(feedback.u[i * n + j]) * x[j];
    }
  }
  for (std::size_t i = 0; i < n; ++i) x[i] /= static_cast<double>(feedback.d[i]);
  for (std::size_t i = 0; i < n; ++i) {
    for (std::size_t j = i + 1; j < n; ++j) {
      x[j] -= static_cast<double>(feedback.u[i * n + j]) * x[i];
    }
  }
}

// row: [cols]; missed: [cols], errors of the columns that stay. The columns are first moved by what
// the errors that stay make of them, then rounded one after the other (gptq/realize.h).
void round_compensated(PanelEdit& edit, int r, const float* row, const std::vector<float>& missed,
                       std::span<const std::size_t> groups, const Compensation& by, RangeKind range,
                       std::span<const float> importance, const MatrixView& layout) {
  const std::size_t n = by.columns.size(), cols = missed.size();
  std::vector<double> shift(n);
  for (std::size_t t = 0; t < n && n < cols; ++t) {
    const float* cross = by.cross.data() + t * cols;
    double sum = 0;
    for (std::size_t c = 0; c < cols; ++c) sum += static_cast<double>(cross[c] * missed[c]);
    shift[t] = sum;
  }
  if (n < cols) solve(by.feedback, shift);
  std::vector<float> targets(row, row + cols);
  for (std::size_t t = 0; t < n; ++t) {
    targets[static_cast<std::size_t>(by.columns[t])] += static_cast<float>(shift[t]);
  }
  for (const std::size_t g : groups) {
    edit.grid(g, r) = fit_columns(targets.data(), edit.groups()[g], layout, range, importance);
  }
  std::vector<float> moved(n);
  for (std::size_t t = 0; t < n; ++t) moved[t] = targets[static_cast<std::size_t>(by.columns[t])];
  const std::vector<float> wanted = moved;
  for (std::size_t t = 0; t < n; ++t) {
    const std::size_t g = groups[by.group[t]];
    std::uint8_t& code =
        edit.group_codes(g, r)[by.columns[t] - static_cast<std::int32_t>(edit.groups()[g].begin)];
    const float error = wanted[t] - nearest_value(moved[t], edit.grid(g, r), edit.bits(g), code);
    const float* u = by.feedback.u.data() + t * n;
    for (std::size_t k = t + 1; k < n; ++k) moved[k] += error * u[k];
  }
}

std::vector<float> missed_by(PanelEdit& edit, int r, const float* row, std::int64_t cols) {
  std::vector<float> missed(static_cast<std::size_t>(cols));
  for (std::size_t g = 0; g < edit.groups().size(); ++g) {
    const ColumnGroup& group = edit.groups()[g];
    const Grid& grid = edit.grid(g, r);
    const std::uint8_t* codes = edit.group_codes(g, r);
    for (std::int64_t c = group.begin; c < group.end; ++c) {
      missed[static_cast<std::size_t>(c)] =
          row[c] - (grid.scale * static_cast<float>(codes[c - group.begin]) + grid.min);
    }
  }
  return missed;
}

}  // namespace

void move_rows(const MatrixView& start, std::span<const RowMove> moves, const QuantizedMatrix& out,
               ThreadPool& pool) {
  std::vector<std::int64_t> panels;
  for (const RowMove& move : moves) panels.push_back(move.place / kPanelRows);
  edit_panels(std::move(panels), out, pool, [&](PanelEdit& edit, std::int64_t panel) {
    for (const RowMove& move : moves) {
      if (move.place / kPanelRows != panel) continue;
      const auto r = static_cast<int>(move.place % kPanelRows);
      edit.read_row(start, move.from, r);
      if (move.factor == 1) continue;
      for (std::size_t g = 0; g < edit.groups().size(); ++g) {
        const Band& band = start.bands[static_cast<std::size_t>(edit.groups()[g].band)];
        edit.grid(g, r) = scaled(edit.grid(g, r), move.factor, band);
      }
    }
  });
}

void round_rows(const float* weights, std::span<const std::int64_t> places, RangeKind range,
                std::span<const float> importance, const QuantizedMatrix& out, ThreadPool& pool) {
  std::vector<std::int64_t> panels;
  for (const std::int64_t place : places) panels.push_back(place / kPanelRows);
  edit_panels(std::move(panels), out, pool, [&](PanelEdit& edit, std::int64_t panel) {
    for (const std::int64_t place : places) {
      if (place / kPanelRows != panel) continue;
      const auto r = static_cast<int>(place % kPanelRows);
      for (std::size_t g = 0; g < edit.groups().size(); ++g) {
        round_group(edit, g, r, weights + place * out.view.cols, range, importance, out.view);
      }
    }
  });
}

void round_groups(const float* weights, std::span<const std::size_t> groups,
                  const ColumnRounding& rounding, const QuantizedMatrix& out, ThreadPool& pool) {
  if (groups.empty()) return;
  const std::int64_t cols = out.view.cols;
  std::vector<float> importance;
  if (rounding.weighted) importance = rounding.moments->diagonal();
  std::optional<Compensation> by;
  if (rounding.damping) {
    by = compensation_for(out.view, groups, *rounding.moments, *rounding.damping, pool);
  }
  edit_panels(all_panels(out.view.rows), out, pool, [&](PanelEdit& edit, std::int64_t panel) {
    for (int r = 0; r < edit.n_rows(); ++r) {
      const float* row = weights + (panel * kPanelRows + r) * cols;
      if (by) {
        round_compensated(edit, r, row, missed_by(edit, r, row, cols), groups, *by, rounding.range,
                          importance, out.view);
        continue;
      }
      for (const std::size_t g : groups) {
        round_group(edit, g, r, row, rounding.range, importance, out.view);
      }
    }
  });
}

}  // namespace tenfold
