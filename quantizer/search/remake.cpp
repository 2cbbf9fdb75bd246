#include "quantizer/search/remake.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "kernels/formats/codec.h"
#include "kernels/half.h"
#include "quantizer/panel.h"
#include "quantizer/search/compensation.h"
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
  result.scale_bits = f32_to_f16(std::min(grid.scale * factor, kMaxF16));
  result.scale = f16_to_f32(result.scale_bits);
  if (band.min_kind == MinKind::f16) {
    result.min_bits = f32_to_f16(std::clamp(grid.min * factor, -kMaxF16, kMaxF16));
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

// Rounds some column groups of single rows.
class Rounder {
 public:
  Rounder(std::vector<std::size_t> groups, const Rounding& by, const MatrixView& layout,
          ThreadPool& pool)
      : groups_(std::move(groups)), range_(by.range), layout_(layout) {
    if (by.weighted) importance_ = by.moments->diagonal();
    if (by.damping) compensation_.emplace(layout, groups_, *by.moments, *by.damping, pool);
  }
  // Rows `places` of the panel; row(place) [cols] is what they are to approximate.
  template <typename Row>
  void round(PanelEdit& edit, std::span<const int> places, Row&& row) const {
    if (compensation_) return compensate(edit, places, row);
    for (const int r : places) {
      for (const std::size_t g : groups_) {
        const ColumnGroup& group = edit.groups()[g];
        edit.grid(g, r) = fit_columns(row(r), group, layout_, range_, importance_);
        encode_group({row(r) + group.begin, static_cast<std::size_t>(group.end - group.begin)},
                     edit.grid(g, r), edit.bits(g), edit.group_codes(g, r));
      }
    }
  }

 private:
  template <typename Row>
  void compensate(PanelEdit& edit, std::span<const int> places, Row&& row) const {
    std::vector<std::vector<float>> missed(places.size());
    std::vector<RowToCompensate> rows;
    for (std::size_t i = 0; i < places.size(); ++i) {
      if (!compensation_->none_stays()) {
        missed[i] = missed_by(edit, places[i], row(places[i]), layout_.cols);
      }
      rows.push_back({row(places[i]), missed[i]});
    }
    const std::vector<CompensatedRow> made = compensation_->round(rows, range_, importance_);
    for (std::size_t i = 0; i < places.size(); ++i) {
      put(edit, places[i], made[i]);
    }
  }
  void put(PanelEdit& edit, int r, const CompensatedRow& made) const {
    for (std::size_t i = 0; i < groups_.size(); ++i) edit.grid(groups_[i], r) = made.grids[i];
    for (std::size_t t = 0; t < made.codes.size(); ++t) {
      const std::size_t g = groups_[compensation_->group_of_turn()[t]];
      edit.group_codes(g, r)[compensation_->columns()[t] - edit.groups()[g].begin] = made.codes[t];
    }
  }

  std::vector<std::size_t> groups_;
  RangeKind range_;
  const MatrixView& layout_;
  std::vector<float> importance_;
  std::optional<Compensation> compensation_;
};

}  // namespace

void move_rows(const MatrixView& before, std::span<const RowMove> moves, const QuantizedMatrix& out,
               ThreadPool& pool) {
  std::vector<std::int64_t> panels;
  for (const RowMove& move : moves) panels.push_back(move.place / kPanelRows);
  edit_panels(std::move(panels), out, pool, [&](PanelEdit& edit, std::int64_t panel) {
    for (const RowMove& move : moves) {
      if (move.place / kPanelRows != panel) continue;
      const auto r = static_cast<int>(move.place % kPanelRows);
      edit.read_row(before, move.from, r);
      if (move.factor == 1) continue;
      for (std::size_t g = 0; g < edit.groups().size(); ++g) {
        const Band& band = before.bands[static_cast<std::size_t>(edit.groups()[g].band)];
        edit.grid(g, r) = scaled(edit.grid(g, r), move.factor, band);
      }
    }
  });
}

void round_rows(const float* weights, std::span<const std::int64_t> places,
                const Rounding& rounding, const QuantizedMatrix& out, ThreadPool& pool) {
  if (places.empty()) return;
  const Rounder rounder(all_groups(out.view), rounding, out.view, pool);
  std::vector<std::int64_t> panels;
  for (const std::int64_t place : places) panels.push_back(place / kPanelRows);
  edit_panels(std::move(panels), out, pool, [&](PanelEdit& edit, std::int64_t panel) {
    std::vector<int> in_panel;
    for (const std::int64_t place : places) {
      if (place / kPanelRows == panel) in_panel.push_back(static_cast<int>(place % kPanelRows));
    }
    rounder.round(edit, in_panel,
                  [&](int r) { return weights + (panel * kPanelRows + r) * out.view.cols; });
  });
}

void round_groups(const float* weights, std::span<const std::size_t> groups,
                  const Rounding& rounding, const QuantizedMatrix& out, ThreadPool& pool) {
  if (groups.empty()) return;
  const Rounder rounder({groups.begin(), groups.end()}, rounding, out.view, pool);
  edit_panels(all_panels(out.view.rows), out, pool, [&](PanelEdit& edit, std::int64_t panel) {
    std::vector<int> all(static_cast<std::size_t>(edit.n_rows()));
    std::iota(all.begin(), all.end(), 0);
    rounder.round(edit, all,
                  [&](int r) { return weights + (panel * kPanelRows + r) * out.view.cols; });
  });
}

}  // namespace tenfold
