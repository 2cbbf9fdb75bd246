#pragma once
// The grid of one group of weights: w = scale * code + min, code in [0, 2^bits - 1]. Scale and min
// are rounded to what the file holds before codes are chosen, so a code is always the nearest one.
//
// minmax: the least range that holds all weights (and 0, for `zero`). At 1 bit the two levels of
//   `midrise` and `f16` stand in the middle of the range's halves: at its ends, as with more bits,
//   they would hold two weights well and all others badly.
// mse: the least squared error among shrunken ranges, each then fitted by least squares; at 1 bit
//   with f16 minima also the binarization mu +- mean|w - mu|. Never worse than minmax.
//
// With importances (the diagonal of a Hessian) errors count by them: mse then means the least
// weighted error.

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "kernels/formats/format.h"

namespace tenfold {

enum class RangeKind { minmax, mse, weighted };  // weighted: mse with importances

// "minmax", "mse", "weighted".
std::optional<RangeKind> parse_range(std::string_view name) noexcept;
std::string_view name_of(RangeKind range) noexcept;

struct GridKind {
  int bits = 4;
  MinKind min_kind = MinKind::zero;
  RangeKind range = RangeKind::mse;
};

struct Grid {
  std::uint16_t scale_bits = 0;  // f16
  std::uint16_t min_bits = 0;    // `f16`: the minimum; `zero`: the integer zero point
  float scale = 0, min = 0;      // what they mean
  double error = 0;              // sum of (weighted) squared errors over the group
};

// A grid near scale and min, as the file can hold it.
Grid make_grid(float scale, float min, int bits, MinKind kind) noexcept;

// Weights must be finite. importance: one a weight, >= 0, or empty for all the same.
Grid fit_group(std::span<const float> weights, const GridKind& kind,
               std::span<const float> importance = {}) noexcept;
// The same, only sought near a grid that fitted weights much like these.
Grid refit_group(std::span<const float> weights, const GridKind& kind,
                 std::span<const float> importance, const Grid& near) noexcept;
// Of the weights' nearest values, weighted by the importances.
double squared_error(std::span<const float> weights, std::span<const float> importance,
                     const Grid& grid, int bits) noexcept;
float nearest_value(float weight, const Grid& grid, int bits, std::uint8_t& code) noexcept;
float top_code(int bits) noexcept;
// The scale's inverse, with which codes are computed; 0 for a scale of 0, which has one level.
float inverse_scale(const Grid& grid) noexcept;
// The nearest code of each weight.
void encode_group(std::span<const float> weights, const Grid& grid, int bits,
                  std::uint8_t* codes) noexcept;

}  // namespace tenfold
