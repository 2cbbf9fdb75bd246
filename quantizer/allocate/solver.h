#pragma once
// The quadratic program of a bit budget (design/papers.md 3.1): one choice for each matrix, the
// least sum of losses, what all of them cost within the budget. Two matrices of a layer also count
// together; layers do not. Solved exactly.

#include <cstdint>
#include <vector>

namespace tenfold {

struct MatrixChoices {
  std::vector<std::int64_t> cost;  // >= 0
  std::vector<double> loss;
};

struct LayerChoices {
  std::vector<MatrixChoices> matrices;
  // What two choices of different matrices add to their losses: [choices of all matrices, the
  // same], of which the upper half counts; empty: nothing.
  std::vector<double> cross;

  std::size_t choices() const noexcept;  // of all matrices
};

using LayerAnswer = std::vector<std::size_t>;  // a choice for each matrix

// Within a layer all combinations are tried and those kept that no other beats in both cost and
// loss; layers are then joined one by one, states that cannot lead to the best answer being dropped
// by a Lagrangian bound. The same answer on every machine. Throws bad_request where even the
// cheapest choices cost more than the budget, saying how much.
std::vector<LayerAnswer> solve_budget(const std::vector<LayerChoices>& layers, std::int64_t budget);

std::int64_t cost_of(const LayerChoices& layer, const LayerAnswer& answer) noexcept;
double loss_of(const LayerChoices& layer, const LayerAnswer& answer) noexcept;

}  // namespace tenfold
