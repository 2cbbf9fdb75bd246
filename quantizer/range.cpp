#include "quantizer/range.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "kernels/cpu/isa.h"
#include "kernels/half.h"
#include "quantizer/names.h"

namespace tenfold {
namespace {

constexpr std::array<std::string_view, 3> kRangeNames = {"minmax", "mse", "weighted"};
constexpr int kShrinkSteps = 32;
constexpr float kLeastShrink = 0.07f;  // of the range: one outlier must not fix a row's grid
constexpr int kRefinements = 3;
constexpr double kHopeless = 4.0;  // times the best error: no narrower range will do better

std::uint16_t to_f16(float value) { return f32_to_f16(std::clamp(value, -kMaxF16, kMaxF16)); }

Grid with_scale(float scale) {
  Grid grid;
  grid.scale_bits = to_f16(scale);
  grid.scale = f16_to_f32(grid.scale_bits);
  return grid;
}

Grid zero_grid(float scale, float zero) {
  Grid grid = with_scale(scale);
  grid.min_bits = static_cast<std::uint16_t>(zero);
  grid.min = -grid.scale * zero;
  return grid;
}

Grid midrise_grid(float scale, float top) {
  Grid grid = with_scale(scale);
  grid.min = -grid.scale * (top * 0.5f);
  return grid;
}

Grid affine_grid(float scale, float min) {
  Grid grid = with_scale(scale);
  grid.min_bits = to_f16(min);
  grid.min = f16_to_f32(grid.min_bits);
  return grid;
}

float nearest_code(float weight, const Grid& grid, float inverse, float top) {
  const float place = std::min(std::max((weight - grid.min) * inverse, 0.0f), top);
  // Not negative and at most 255; lround would keep the compiler from using vectors.
  return static_cast<float>(
      static_cast<std::int32_t>(place + 0.5f));  // NOLINT(bugprone-incorrect-roundings)
}

Levels levels_of(const Grid& grid, int bits) {
  return {grid.scale, grid.min, inverse_scale(grid), top_code(bits)};
}

const float* data_or_null(std::span<const float> values) {
  return values.empty() ? nullptr : values.data();
}

class GroupFit {
 public:
  GroupFit(std::span<const float> weights, const GridKind& kind, std::span<const float> importance)
      : weights_(weights), importance_(importance), kind_(kind), top_(top_code(kind.bits)) {
    const auto [low, high] = std::minmax_element(weights.begin(), weights.end());
    low_ = *low;
    high_ = *high;
    if (kind.min_kind == MinKind::zero) {
      low_ = std::min(low_, 0.0f);
      high_ = std::max(high_, 0.0f);
    }
    if (kind.min_kind == MinKind::midrise) {
      high_ = std::max(-low_, high_);
      low_ = -high_;
    }
    double sum = 0;
    double total = 0;
    for (std::size_t i = 0; i < weights.size(); ++i) {
      sum += importance_of(i) * static_cast<double>(weights[i]);
      total += importance_of(i);
    }
    mean_ = total > 0 ? static_cast<float>(sum / total) : 0.0f;
  }

  Grid minmax() const { return measured(shrunken(1.0f)); }
  Grid refined(const Grid& near) const {
    Grid best = measured(near);
    refine(best);
    return best;
  }

  Grid least_squares() const {
    Grid best = minmax();
    for (int step = 1; step < kShrinkSteps; ++step) {
      const float shrink =
          1.0f - (1.0f - kLeastShrink) * static_cast<float>(step) / (kShrinkSteps - 1);
      const Grid grid = measured(shrunken(shrink));
      if (grid.error > kHopeless * best.error) break;
      if (grid.error < best.error) best = grid;
    }
    if (kind_.bits == 1 && kind_.min_kind == MinKind::f16) keep_better(best, binarized());
    refine(best);
    if (kind_.min_kind != MinKind::zero) return best;
    const int zero = best.min_bits;  // its neighbours may fit better once the scale follows
    for (const int other : {zero - 1, zero + 1}) {
      if (other < 0 || other > static_cast<int>(top_)) continue;
      Grid grid = measured(zero_grid(best.scale, static_cast<float>(other)));
      refine(grid);
      keep_better(best, grid);
    }
    return best;
  }

 private:
  double importance_of(std::size_t i) const {
    return importance_.empty() ? 1.0 : static_cast<double>(importance_[i]);
  }

  static void keep_better(Grid& best, const Grid& other) {
    if (other.error < best.error) best = other;
  }

  Grid measured(Grid grid) const {
    grid.error = squared_error(weights_, importance_, grid, kind_.bits);
    return grid;
  }

  // The grid of the range shrunken around 0, or around the mean where the minimum is free.
  Grid shrunken(float shrink) const {
    switch (kind_.min_kind) {
      case MinKind::zero: {
        const float scale = f16_to_f32(to_f16(shrink * (high_ - low_) / top_));
        const float zero = scale > 0 ? std::round(-shrink * low_ / scale) : 0.0f;
        return zero_grid(scale, std::clamp(zero, 0.0f, top_));
      }
      case MinKind::midrise:
        // At 1 bit: levels in the middle of the halves, +- high / 2.
        return midrise_grid(shrink * (kind_.bits == 1 ? high_ : 2.0f * high_ / top_), top_);
      case MinKind::f16:
        break;
    }
    const float low = mean_ + shrink * (low_ - mean_);
    const float high = mean_ + shrink * (high_ - mean_);
    if (kind_.bits > 1) return affine_grid((high - low) / top_, low);
    return affine_grid((high - low) * 0.5f, low + (high - low) * 0.25f);
  }

  // mu +- mean|w - mu|.
  Grid binarized() const {
    double deviation = 0;
    double total = 0;
    for (std::size_t i = 0; i < weights_.size(); ++i) {
      deviation += importance_of(i) * std::fabs(static_cast<double>(weights_[i] - mean_));
      total += importance_of(i);
    }
    const auto half = total > 0 ? static_cast<float>(deviation / total) : 0.0f;
    return measured(affine_grid(2.0f * half, mean_ - half));
  }

  // Levels are counted from the zero point or the middle where the minimum hangs on the scale.
  LevelMoments moments(const Grid& grid) const {
    float origin = 0;
    if (kind_.min_kind == MinKind::zero) origin = static_cast<float>(grid.min_bits);
    if (kind_.min_kind == MinKind::midrise) origin = top_ * 0.5f;
    return loops().moments(weights_.data(), data_or_null(importance_),
                           static_cast<std::int64_t>(weights_.size()), levels_of(grid, kind_.bits),
                           origin);
  }

  // The best scale (and f16 minimum) for the codes of a grid; the codes then change, and so on.
  void refine(Grid& best) const {
    for (int round = 0; round < kRefinements; ++round) {
      const LevelMoments m = moments(best);
      Grid grid;
      if (kind_.min_kind == MinKind::f16) {
        const double spread = m.n * m.level2 - m.level * m.level;
        if (!(spread > 0)) return;
        const double scale = (m.n * m.product - m.level * m.weight) / spread;
        grid = affine_grid(static_cast<float>(scale),
                           static_cast<float>((m.weight - scale * m.level) / m.n));
      } else {
        if (!(m.level2 > 0)) return;
        const auto scale = static_cast<float>(m.product / m.level2);
        grid = kind_.min_kind == MinKind::zero ? zero_grid(scale, static_cast<float>(best.min_bits))
                                               : midrise_grid(scale, top_);
      }
      if (!(grid.scale > 0)) return;
      grid = measured(grid);
      if (!(grid.error < best.error)) return;
      best = grid;
    }
  }

  std::span<const float> weights_, importance_;
  GridKind kind_;
  float top_;
  float low_ = 0, high_ = 0, mean_ = 0;
};

}  // namespace

float top_code(int bits) noexcept { return static_cast<float>((1 << bits) - 1); }

float inverse_scale(const Grid& grid) noexcept { return grid.scale > 0 ? 1.0f / grid.scale : 0.0f; }

std::string_view name_of(RangeKind range) noexcept {
  return kRangeNames[static_cast<std::size_t>(range)];
}

std::optional<RangeKind> parse_range(std::string_view name) noexcept {
  return find_name<RangeKind>(kRangeNames, name);
}

Grid make_grid(float scale, float min, int bits, MinKind kind) noexcept {
  const float top = top_code(bits);
  if (kind == MinKind::f16) return affine_grid(scale, min);
  if (kind == MinKind::midrise) return midrise_grid(scale, top);
  const float held = with_scale(scale).scale;
  return zero_grid(scale, held > 0 ? std::clamp(std::round(-min / held), 0.0f, top) : 0.0f);
}

Grid fit_group(std::span<const float> weights, const GridKind& kind,
               std::span<const float> importance) noexcept {
  const GroupFit fit(weights, kind, importance);
  return kind.range == RangeKind::minmax ? fit.minmax() : fit.least_squares();
}

Grid refit_group(std::span<const float> weights, const GridKind& kind,
                 std::span<const float> importance, const Grid& near) noexcept {
  const GroupFit fit(weights, kind, importance);
  return kind.range == RangeKind::minmax ? fit.minmax() : fit.refined(near);
}

double squared_error(std::span<const float> weights, std::span<const float> importance,
                     const Grid& grid, int bits) noexcept {
  return loops().squared_error(weights.data(), data_or_null(importance),
                               static_cast<std::int64_t>(weights.size()), levels_of(grid, bits));
}

float nearest_value(float weight, const Grid& grid, int bits, std::uint8_t& code) noexcept {
  const float nearest = nearest_code(weight, grid, inverse_scale(grid), top_code(bits));
  code = static_cast<std::uint8_t>(nearest);
  return grid.scale * nearest + grid.min;
}

void encode_group(std::span<const float> weights, const Grid& grid, int bits,
                  std::uint8_t* codes) noexcept {
  const float inverse = inverse_scale(grid);
  const float top = top_code(bits);
  for (std::size_t i = 0; i < weights.size(); ++i) {
    codes[i] = static_cast<std::uint8_t>(nearest_code(weights[i], grid, inverse, top));
  }
}

}  // namespace tenfold
