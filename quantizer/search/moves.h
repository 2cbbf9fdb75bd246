#pragma once
// What a step of the search tries on one coupling.

#include <cstdint>
#include <optional>
#include <span>

#include "quantizer/random.h"
#include "quantizer/search/compensation.h"
#include "quantizer/search/coupling.h"
#include "quantizer/search/options.h"
#include "quantizer/search/screen.h"

namespace tenfold {

// The released code's move: half as many random pairs as a tenth of the channels has members; their
// angles, scales and places change together (design/papers.md 1.3). Only what the options ask for
// and the coupling allows.
ChannelTransform random_move(const ChannelTransform& now, const Coupling& coupling,
                             const SearchOptions& options, StepRandom& random);

// options.local proposals, each taken over where it lowers the screen's error: two channels change
// groups, or one is scaled; before them, all channels sorted by size, or scaled as AWQ does.
// nullopt where nothing did. The screen is of the coupling's readers.
std::optional<ChannelTransform> screened_move(const ChannelTransform& now, const Coupling& coupling,
                                              const SearchOptions& options, Screen& screen,
                                              std::span<const float> power, const float* columns,
                                              std::int64_t rows, std::int64_t cols,
                                              StepRandom& random);

// What turning the pairs of a coupling does to its makers' rows: their square errors when rounded,
// counted by the mean squares of their inputs, or with compensation by all second moments; relative
// to what the pair holds. Where the loss's derivatives are known, what they say of the rounded
// rows, turned back.
struct RowScreen {
  struct Maker {
    const float* rows;                           // the source's, of channel 0
    const MatrixView* layout;                    // of the matrix
    std::span<const float> power;                // mean squares of its inputs
    const Compensation* compensation = nullptr;  // of all columns; null: rounding to the nearest
    // As accepted, of place 0: the rows, and the loss's derivatives with respect to them
    // (loss_gradient.h). Null where these are not known.
    const float* accepted = nullptr;
    const float* gradient = nullptr;
    const float* curvature = nullptr;
    int scale_power = 0;  // Coupling::Maker's
  };
  std::vector<Maker> makers;
  std::int64_t cols = 0;
  const float* moments = nullptr;  // second, of the inputs, [cols, cols]; with derivatives
  RangeKind range = RangeKind::mse;
  bool weighted = false;  // ranges, too
};
// options.local angles, pairs drawn at random, each kept where it lowers the error of its pair, or
// the loss by what the derivatives say.
// nullopt where none did.
std::optional<ChannelTransform> screened_turn(const ChannelTransform& now, const Coupling& coupling,
                                              const SearchOptions& options, const RowScreen& screen,
                                              StepRandom& random);

}  // namespace tenfold
