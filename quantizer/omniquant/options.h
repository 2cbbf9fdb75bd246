#pragma once
// How OmniQuant trains; see learn.h.

#include <optional>
#include <string_view>

namespace tenfold {

// Which codes are learned, too, once they are chosen: none, those of the columns that keep more
// bits in a mixed layout, or all.
enum class LearnedCodes { none, high, all };
std::string_view to_string(LearnedCodes codes) noexcept;
std::optional<LearnedCodes> parse_learned_codes(std::string_view name) noexcept;

struct LearnOptions {
  int epochs = 10;
  double rate = 2e-3;  // of grids, in units of a grid's scale; falls to 0 along a straight line
  double scale_rate = 2e-3;  // of the logarithms of channel scales
  bool scales = true;        // LET
  LearnedCodes codes = LearnedCodes::none;
};

}  // namespace tenfold
