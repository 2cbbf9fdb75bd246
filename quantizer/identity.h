#pragma once
// What must agree for the work of an interrupted run to be gone on with.

#include <string>
#include <string_view>
#include <vector>

#include "models/spec.h"
#include "models/tensors.h"
#include "quantizer/calibration.h"
#include "quantizer/plan.h"

namespace tenfold {

// Recipe, calibration, kernels, what the model computes beside its weights, and names, sizes and
// first bytes of all its tensors; and a number that is raised when the passes make other layers of
// the same recipe.
std::string run_identity(const Recipe& recipe, const Calibration& calibration,
                         const DecoderSpec& spec, const std::vector<ModelTensor>& tensors,
                         std::string_view isa);

}  // namespace tenfold
