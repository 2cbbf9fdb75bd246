#pragma once
// A budget of bits, divided between the matrices of the layers. Part of a recipe.

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

namespace tenfold {

// What a matrix may get. ratio: the recipe's bits, and a share of its columns one step more
// (layer-wise high-impact ratios, design/papers.md 3). bits: any width, and mixed ones near the
// target.
enum class Allocation { none, ratio, bits };
std::string_view to_string(Allocation allocation) noexcept;
std::optional<Allocation> parse_allocation(std::string_view name) noexcept;

// What a choice is judged by, each matrix and choice by itself. block: the square error of the
// layer's outputs. scaled: the same, times what one choice of the matrix costs the model's last
// loss. final: the last loss.
enum class Sensitivity { block, scaled, final };
std::string_view to_string(Sensitivity sensitivity) noexcept;
std::optional<Sensitivity> parse_sensitivity(std::string_view name) noexcept;

struct AllocateOptions {
  Allocation kind = Allocation::none;
  double target_bits = 0;          // over the layers' matrices; 0: target_bytes says it
  std::uint64_t target_bytes = 0;  // of the whole file
  Sensitivity sensitivity = Sensitivity::scaled;
  std::vector<int> widths;     // of whole matrices, and nothing else (bits); empty: as above
  bool cross = true;           // count how errors of two matrices of a layer add up
  std::int64_t sequences = 4;  // of the calibration's, to measure on
  bool solved = false;         // the recipe's rules are the answer
};

}  // namespace tenfold
