#pragma once
// What a step of the search tries on one coupling.

#include <cstdint>
#include <optional>
#include <span>

#include "kernels/thread_pool.h"
#include "quantizer/random.h"
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
// groups, or one is scaled; before them, all channels sorted by size. nullopt where nothing did.
// The screen is of the coupling's readers.
std::optional<ChannelTransform> screened_move(const ChannelTransform& now, const Coupling& coupling,
                                              const SearchOptions& options, Screen& screen,
                                              std::span<const float> power, const float* columns,
                                              std::int64_t rows, std::int64_t cols,
                                              StepRandom& random);

}  // namespace tenfold
