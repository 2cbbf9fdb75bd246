#pragma once
// How InvarExplore searches (search.h). Part of a recipe.

#include <cstdint>
#include <optional>
#include <string_view>

namespace tenfold {

inline constexpr std::int64_t kDefaultSearchSteps = 100;  // where a search is asked for

// What the next tokens are compared with: the calibration text's own, or what the full-precision
// model expects.
enum class SearchTarget { text, teacher };
std::string_view to_string(SearchTarget target) noexcept;
std::optional<SearchTarget> parse_search_target(std::string_view name) noexcept;

struct SearchOptions {
  std::int64_t steps = 0;     // put to the test of the true loss; 0: no search
  std::int64_t together = 0;  // layers that a step changes; 0: as layers_of_a_step (search.h) says
  // Proposals for each of them, of which those that the loss's derivatives (loss_gradient.h) expect
  // to help are confirmed together, one of a coupling; 0: one, whatever they say.
  std::int64_t ranked = 8;
  bool permute = true, scale = true, rotate = true;
  bool ffn = true, values = true, queries = true, norms = true;  // couplings that are searched
  std::int64_t matched = 10;  // layers whose outputs are compared
  double alpha = 0.1;         // what these count
  SearchTarget target = SearchTarget::teacher;
  // Proposals that are tried by the local error for each that is confirmed, rotations only where
  // they are exact; 0: none, each step changes a tenth of a coupling's channels at random, as the
  // paper does.
  std::int64_t local = 64;
  double scale_step = 1e-2, rotate_step = 1e-5;  // standard deviations of the paper's moves
  double early = 0.02;                           // objective.h
  // Stop after so many rounds (steps that change as many layers as the model has) without a lower
  // held-out loss; 0: never.
  std::int64_t patience = 20;
};

}  // namespace tenfold
