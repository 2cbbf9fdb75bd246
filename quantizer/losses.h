#pragma once
// What quantizing did to a layer, for the file, its inspection and reports. Losses are relative
// square errors of outputs on held-out calibration text, against what `--fias target` aims at where
// that is asked for, else what the source's weights make of the quantized layers' inputs.

#include <array>
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "kernels/backend.h"
#include "kernels/buffer.h"
#include "kernels/matrix.h"
#include "models/tensors.h"
#include "quantizer/plan.h"
#include "quantizer/roles.h"

namespace tenfold {

struct MatrixLoss {
  double nearest = 0;  // rounded to nearest
  double chosen = 0;   // with the codes that were chosen, before their grids are tuned
};

struct LayerLosses {
  std::vector<std::pair<LayerMatrix, MatrixLoss>> matrices;
  std::array<std::optional<double>, kLayerInputs> awq_ratio;    // by LinearInput
  std::array<std::optional<double>, kLayerInputs> pbar_lambda;  // where the best was taken
  // Of the layer's outputs, before and after learning: OmniQuant's ranges, and tuned grids.
  std::optional<std::array<double, 2>> ranges, tuned;
  LayerFactors factors;  // not part of the JSON
};
nlohmann::ordered_json to_json(const LayerFactors& factors);
// Throws bad_file naming `name` where it is none.
LayerFactors read_factors(const nlohmann::json& json, const std::string& name);
// {"nearest", "chosen"}
nlohmann::ordered_json to_json(const MatrixLoss& loss);
// {"matrices": {"q": {...}, ...}, "awq_ratio": {"qkv": r, ...}, "pbar_lambda": {...},
//  "ranges": {"before", "after"}, "tuned": {"before", "after"}}; what did not run is absent.
nlohmann::ordered_json to_json(const LayerLosses& losses);

// Inputs of a matrix on held-out text.
struct HeldOut {
  std::vector<float> x;  // [tokens, cols]
  std::int64_t tokens = 0;
  std::vector<float> row_weight;  // how much errors of each output count; empty: 1
};

// ||X (W - Q)^T R||^2 / ||X W^T R||^2 with R the row weights, where W is what the plan's factors
// make of the source. Throws bad_file naming `what` where a weight is not finite.
double relative_loss(const RowReader& source, const MatrixPlan& plan, const MatrixView& quantized,
                     const HeldOut& held_out, Backend& backend, const std::string& what);

}  // namespace tenfold
