#pragma once
// Divides a bit budget between the matrices of the layers (recipe.allocate), then quantizes.
//
// Sensitivities are measured layer by layer (sensitivity.h) and kept in OUT.gguf.allocation.work,
// so that an interrupted run goes on; the quadratic program is solved exactly (solver.h); what it
// chose becomes rules of the recipe, which the file holds. Then the choice is run, all layers of it
// in memory: what each, and all together, add to the last loss beside what was predicted.

#include <filesystem>
#include <functional>
#include <memory>

#include "quantizer/quantize.h"

namespace tenfold {

// What a matrix of `cols` inputs may get. target_bits: a weight.
std::vector<Widths> allocation_choices(const Recipe& recipe, std::int64_t cols, double target_bits);

QuantizeResult allocate_and_quantize(
    const std::shared_ptr<const ModelSource>& source, const std::filesystem::path& output,
    const QuantizeOptions& options,
    const std::function<bool(std::uint64_t, std::uint64_t)>& progress);

}  // namespace tenfold
