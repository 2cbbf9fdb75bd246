#pragma once
// Which norm reads what a layer adds to the residual stream.

#include <cstdint>
#include <span>

#include "models/spec.h"
#include "models/weights.h"

namespace tenfold {

// Weights [dim] of the norm that reads what leaves the layer; empty: none does.
std::span<const float> reader_of_outputs(const DecoderSpec& spec, const DecoderWeights& weights,
                                         std::int64_t layer) noexcept;

}  // namespace tenfold
