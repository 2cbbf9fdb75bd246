#pragma once
// What a decoder does with its weights, for benches: bytes read and multiply-accumulates.

#include "models/weights.h"
#include "runtime/model.h"

namespace tenfold {

WeightWork weight_work(const DecoderSpec& spec, const DecoderWeights& weights);

}  // namespace tenfold
