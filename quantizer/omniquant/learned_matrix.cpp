#include "quantizer/omniquant/learned_matrix.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/formats/codec.h"

namespace tenfold {
namespace {

constexpr float kBeta1 = 0.9f, kBeta2 = 0.999f, kEpsilon = 1e-8f;
constexpr float kMostSteps = 256.0f;  // a minimum moves by
constexpr float kMostLog = 3.0f;      // a scale stays within a factor of 20 of the first
constexpr float kMostShift = 1.0f;    // of a code

struct Rounding {
  float code;   // as encode_group() finds it
  float place;  // not rounded, not clamped
  bool inside;  // the code was not clamped
};

Rounding round_weight(float weight, const Grid& grid, float inverse, float top) {
  Rounding result{};
  result.place = (weight - grid.min) * inverse;
  result.code = static_cast<float>(static_cast<std::int32_t>(
      std::clamp(result.place, 0.0f, top) + 0.5f));  // NOLINT(bugprone-incorrect-roundings)
  result.inside = result.place > -0.5f && result.place < top + 0.5f;
  return result;
}

}  // namespace

AdamStep::AdamStep(float learning_rate, std::int64_t step) noexcept
    : rate(learning_rate),
      first_share(1 - std::pow(kBeta1, static_cast<float>(step))),
      second_share(1 - std::pow(kBeta2, static_cast<float>(step))) {}

float Adam::update(float gradient, const AdamStep& step) noexcept {
  first = kBeta1 * first + (1 - kBeta1) * gradient;
  second = kBeta2 * second + (1 - kBeta2) * gradient * gradient;
  return -step.rate * (first / step.first_share) /
         (std::sqrt(second / step.second_share) + kEpsilon);
}

template <typename Body>
void LearnedMatrix::for_rows(Body&& body) const {
  const auto panels = static_cast<int>((rows_ + kPanelRows - 1) / kPanelRows);
  pool_.run(panels, [&](int panel, int) {
    const std::int64_t begin = std::int64_t{panel} * kPanelRows;
    for (std::int64_t r = begin; r < std::min(begin + kPanelRows, rows_); ++r) body(r, panel);
  });
}

LearnedMatrix::LearnedMatrix(const RowReader& source, const MatrixPlan& plan,
                             std::span<const float> importance, ThreadPool& pool,
                             const std::string& what)
    : pool_(pool),
      rows_(source.rows()),
      cols_(source.cols()),
      layout_(layout_of(plan, source.rows(), source.cols())),
      order_(plan.order),
      groups_(column_groups(layout_)),
      weights_(static_cast<std::size_t>(rows_ * cols_)) {
  size_parameters();
  for_each_panel(
      source, plan, pool, what, [](std::int64_t) {},
      [&](PanelReader& reader, std::int64_t panel, int) {
        for (int i = 0; i < reader.n_rows(); ++i) {
          const std::int64_t r = panel * kPanelRows + i;
          const float* row = reader.rows() + i * cols_;
          std::copy_n(row, cols_, weights_.data() + r * cols_);
          for (std::size_t g = 0; g < groups_.size(); ++g) {
            const Grid fitted = fit_columns(row, groups_[g], layout_, plan.range, importance);
            first_scale_[at(r, g)] = fitted.scale;
            first_min_[at(r, g)] = fitted.min;
          }
        }
      });
}

LearnedMatrix::LearnedMatrix(const QuantizedMatrix& made, const std::vector<std::int32_t>& order,
                             LearnedCodes learned, ThreadPool& pool)
    : pool_(pool),
      rows_(made.view.rows),
      cols_(made.view.cols),
      layout_(made.view),
      order_(order),
      groups_(column_groups(layout_)),
      codes_(static_cast<std::size_t>(rows_ * cols_)) {
  size_parameters();
  if (learned == LearnedCodes::all) learned_cols_ = cols_;
  if (learned == LearnedCodes::high && layout_.n_bands == 2) {
    learned_cols_ = layout_.bands[0].col_end;
  }
  if (learned_cols_ > 0) state_.shift.resize(codes_.size());
  for_rows([&](std::int64_t r, int panel) {
    for (const Band& band : layout_.all_bands()) {
      const PackedLayout sizes =
          packed_layout(band.format, band.min_kind, rows_, band.cols(), band.group);
      unpack_panel_row(band.format, band.codes + panel * sizes.panel_code_bytes,
                       static_cast<int>(r % kPanelRows), band.cols(),
                       codes_.data() + r * cols_ + band.col_begin);
    }
    for (std::size_t g = 0; g < groups_.size(); ++g) {
      const Band& band = layout_.bands[static_cast<std::size_t>(groups_[g].band)];
      first_scale_[at(r, g)] = group_scale(band, r, groups_[g].index);
      first_min_[at(r, g)] = group_min(band, r, groups_[g].index);
    }
  });
}

void LearnedMatrix::size_parameters() {
  if (order_.empty()) {
    order_.resize(static_cast<std::size_t>(cols_));
    std::iota(order_.begin(), order_.end(), 0);
  }
  layout_.map = {};
  const std::size_t count = static_cast<std::size_t>(rows_) * groups_.size();
  first_scale_.resize(count);
  first_min_.resize(count);
  state_ = {std::vector<float>(count), std::vector<float>(count), {}};
  scale_steps_.resize(count);
  min_steps_.resize(count);
}

float LearnedMatrix::code(std::size_t place, float top) const noexcept {
  const auto chosen = static_cast<float>(codes_[place]);
  if (state_.shift.empty()) return chosen;
  return std::clamp(std::nearbyint(chosen + state_.shift[place]), 0.0f, top);
}

Grid LearnedMatrix::grid(std::int64_t row, std::size_t group) const {
  const std::size_t i = at(row, group);
  const Band& band = layout_.bands[static_cast<std::size_t>(groups_[group].band)];
  const int bits = format_traits(band.format).bits;
  const float scale = first_scale_[i] * std::exp(state_.scale[i]);
  if (!fixed() || band.min_kind != MinKind::zero) {
    return make_grid(scale, first_min_[i] + first_scale_[i] * state_.min[i], bits, band.min_kind);
  }
  Grid grid = make_grid(scale, 0.0f, bits, band.min_kind);
  const float zero = first_scale_[i] > 0 ? std::round(-first_min_[i] / first_scale_[i]) : 0.0f;
  grid.min_bits = static_cast<std::uint16_t>(zero);
  grid.min = -grid.scale * zero;
  return grid;
}

void LearnedMatrix::rounded(std::span<const float> factor, float* out) const {
  for_rows([&](std::int64_t r, int) {
    const float* row = weights_.data() + r * cols_;
    float* to = out + r * cols_;
    for (std::size_t g = 0; g < groups_.size(); ++g) {
      const Grid values = grid(r, g);
      const float top = top_code(group_bits(groups_[g], layout_));
      if (fixed()) {
        for (std::int64_t c = groups_[g].begin; c < groups_[g].end; ++c) {
          to[order_[static_cast<std::size_t>(c)]] =
              values.scale * code(static_cast<std::size_t>(r * cols_ + c), top) + values.min;
        }
        continue;
      }
      const float inverse = inverse_scale(values);
      for (std::int64_t c = groups_[g].begin; c < groups_[g].end; ++c) {
        const auto source = static_cast<std::size_t>(order_[static_cast<std::size_t>(c)]);
        const float f = factor[source];
        to[source] =
            (values.scale * round_weight(row[c] * f, values, inverse, top).code + values.min) / f;
      }
    }
  });
}

void LearnedMatrix::learn(std::span<const float> factor, const float* gradient,
                          const AdamStep& step, float code_step, std::span<double> d_log_factor) {
  const std::size_t panels = static_cast<std::size_t>((rows_ + kPanelRows - 1) / kPanelRows);
  const auto cols = static_cast<std::size_t>(cols_);
  std::vector<float> d_factor(panels * cols);  // by panel: the sum's order is the same for any pool
  for_rows([&](std::int64_t r, int panel) {
    const float* row = weights_.data() + r * cols_;
    const float* d_row = gradient + r * cols_;
    float* d_panel = d_factor.data() + static_cast<std::size_t>(panel) * cols;
    for (std::size_t g = 0; g < groups_.size(); ++g) {
      const ColumnGroup& group = groups_[g];
      const MinKind kind = layout_.bands[static_cast<std::size_t>(group.band)].min_kind;
      const Grid values = grid(r, g);
      const float top = top_code(group_bits(group, layout_));
      const float inverse = inverse_scale(values);
      const float middle = kind == MinKind::midrise ? 0.5f * top : 0.0f;
      float d_scale = 0;
      float d_min = 0;
      // Where weight 0 lies on the grid, for minima that hang on the scale.
      const bool hangs = kind != MinKind::f16 && values.scale > 0;
      const float zero = hangs ? -values.min / values.scale : 0.0f;
      for (std::int64_t c = group.begin; c < group.end; ++c) {
        const auto source = static_cast<std::size_t>(order_[static_cast<std::size_t>(c)]);
        const float f = factor[source];
        const float d = d_row[source];
        if (fixed()) {
          const auto place = static_cast<std::size_t>(r * cols_ + c);
          d_scale += d * (code(place, top) - zero);
          d_min += d;
          if (c < learned_cols_ && d != 0 && std::isfinite(d)) {
            float& shift = state_.shift[place];
            const float most = std::min(kMostShift, top - static_cast<float>(codes_[place]));
            const float least = std::max(-kMostShift, -static_cast<float>(codes_[place]));
            shift = std::clamp(shift - std::copysign(code_step, d), least, most);
          }
          continue;
        }
        const Rounding at_c = round_weight(row[c] * f, values, inverse, top);
        d_scale += d / f * (at_c.inside ? at_c.code - at_c.place : at_c.code - middle);
        if (!at_c.inside) d_min += d / f;
        const float value = (values.scale * at_c.code + values.min) / f;
        d_panel[source] += d * ((at_c.inside ? row[c] : 0.0f) - value);
      }
      if (!std::isfinite(d_scale) || !std::isfinite(d_min)) continue;  // it blew up: stay
      const std::size_t i = at(r, g);
      state_.scale[i] =
          std::clamp(state_.scale[i] + scale_steps_[i].update(d_scale * values.scale, step),
                     -kMostLog, kMostLog);
      if (kind == MinKind::midrise || (fixed() && kind == MinKind::zero)) continue;
      state_.min[i] =
          std::clamp(state_.min[i] + min_steps_[i].update(d_min * first_scale_[i], step),
                     -kMostSteps, kMostSteps);
    }
  });
  for (std::size_t panel = 0; panel < panels; ++panel) {
    for (std::size_t c = 0; c < cols; ++c) {
      d_log_factor[c] += static_cast<double>(d_factor[panel * cols + c]);
    }
  }
}

void LearnedMatrix::write(const QuantizedMatrix& made) const {
  const std::vector<Grid> all = grids();
  const auto panels = (rows_ + kPanelRows - 1) / kPanelRows;
  for (std::int64_t panel = 0; panel < panels; ++panel) {
    for (std::size_t g = 0; g < groups_.size(); ++g) {
      PanelGrids of_panel;
      const std::size_t at = static_cast<std::size_t>(panel) * groups_.size() + g;
      std::copy_n(all.begin() + static_cast<std::ptrdiff_t>(at * kPanelRows), kPanelRows,
                  of_panel.begin());
      const Band& band = made.view.bands[static_cast<std::size_t>(groups_[g].band)];
      write_grids(of_panel, band, panel, groups_[g].index, rows_, made);
    }
    if (learned_cols_ > 0) write_learned_codes(panel, made);
  }
}

void LearnedMatrix::write_learned_codes(std::int64_t panel, const QuantizedMatrix& made) const {
  const std::int64_t first = panel * kPanelRows;
  const std::int64_t n_rows = std::min(rows_ - first, std::int64_t{kPanelRows});
  for (const Band& band : made.view.all_bands()) {
    const float top = top_code(format_traits(band.format).bits);
    std::vector<std::uint8_t> codes;
    for (std::int64_t r = first; r < first + n_rows; ++r) {
      for (std::int64_t c = band.col_begin; c < band.col_end; ++c) {
        codes.push_back(
            static_cast<std::uint8_t>(code(static_cast<std::size_t>(r * cols_ + c), top)));
      }
    }
    write_codes(codes.data(), static_cast<int>(n_rows), band, panel, rows_, made);
  }
}

std::vector<Grid> LearnedMatrix::grids() const {
  const std::size_t panels = static_cast<std::size_t>((rows_ + kPanelRows - 1) / kPanelRows);
  std::vector<Grid> result(panels * groups_.size() * kPanelRows);
  for (std::int64_t r = 0; r < rows_; ++r) {
    const auto panel = static_cast<std::size_t>(r / kPanelRows);
    for (std::size_t g = 0; g < groups_.size(); ++g) {
      result[(panel * groups_.size() + g) * kPanelRows + static_cast<std::size_t>(r % kPanelRows)] =
          grid(r, g);
    }
  }
  return result;
}

}  // namespace tenfold
