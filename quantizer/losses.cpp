#include "quantizer/losses.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "kernels/error.h"
#include "kernels/formats/codec.h"
#include "quantizer/panel.h"

namespace tenfold {
namespace {

constexpr const char* kInputNames[kLayerInputs] = {"qkv", "output", "mlp", "down"};
constexpr std::int64_t kRowsAtOnce = 64 * kPanelRows;

double squares(const std::vector<float>& values) {
  double sum = 0;
  for (const float value : values) sum += static_cast<double>(value) * static_cast<double>(value);
  return sum;
}

}  // namespace

nlohmann::ordered_json to_json(const MatrixLoss& loss) {
  return {{"nearest", loss.nearest}, {"chosen", loss.chosen}};
}

nlohmann::ordered_json to_json(const LayerLosses& losses) {
  nlohmann::ordered_json json;
  for (const auto& [role, loss] : losses.matrices) {
    json["matrices"][std::string(name_of(role))] = to_json(loss);
  }
  for (std::size_t i = 0; i < kLayerInputs; ++i) {
    if (losses.awq_ratio[i]) json["awq_ratio"][kInputNames[i]] = *losses.awq_ratio[i];
    if (losses.pbar_lambda[i]) json["pbar_lambda"][kInputNames[i]] = *losses.pbar_lambda[i];
  }
  const auto learned = [&](const char* name, const std::optional<std::array<double, 2>>& loss) {
    if (loss) json[name] = {{"before", loss->front()}, {"after", loss->back()}};
  };
  learned("ranges", losses.ranges);
  learned("tuned", losses.tuned);
  return json;
}

nlohmann::ordered_json to_json(const LayerFactors& factors) {
  nlohmann::ordered_json json = nlohmann::ordered_json::object();
  for (std::size_t i = 0; i < kLayerMatrices; ++i) {
    if (factors[i].col.empty() && factors[i].row.empty()) continue;
    json[std::string(name_of(static_cast<LayerMatrix>(i)))] = {{"col", factors[i].col},
                                                               {"row", factors[i].row}};
  }
  return json;
}

LayerFactors read_factors(const nlohmann::json& json, const std::string& name) {
  LayerFactors factors;
  try {
    for (std::size_t i = 0; i < kLayerMatrices; ++i) {
      const std::string role(name_of(static_cast<LayerMatrix>(i)));
      if (!json.contains(role)) continue;
      factors[i].col = json.at(role).at("col").get<std::vector<float>>();
      factors[i].row = json.at(role).at("row").get<std::vector<float>>();
    }
  } catch (const nlohmann::json::exception& error) {
    throw_file_error(name, "the factors of a layer cannot be read: {}", error.what());
  }
  return factors;
}

double relative_loss(const RowReader& source, const MatrixPlan& plan, const MatrixView& quantized,
                     const HeldOut& held_out, Backend& backend, const std::string& what) {
  MatrixPlan plain;  // rows in the source's order of columns
  plain.col_factor = plan.col_factor;
  plain.row_factor = plan.row_factor;
  PanelReader reader(source, plain);
  const std::int64_t cols = source.cols();
  std::vector<float> weights;
  std::vector<float> errors;
  std::vector<float> outputs;
  std::vector<float> row(static_cast<std::size_t>(cols));
  double lost = 0;
  double all = 0;
  for (std::int64_t begin = 0; begin < source.rows(); begin += kRowsAtOnce) {
    const std::int64_t rows = std::min(kRowsAtOnce, source.rows() - begin);
    weights.clear();
    errors.clear();
    for (std::int64_t r = 0; r < rows; r += kPanelRows) {
      if (!reader.read((begin + r) / kPanelRows)) fail_not_finite(what);
      for (int i = 0; i < reader.n_rows(); ++i) {
        const float* from = reader.rows() + i * cols;
        weights.insert(weights.end(), from, from + cols);
        errors.insert(errors.end(), from, from + cols);
        dequantize_row(quantized, begin + r + i, row.data());
        float* weight = weights.data() + weights.size() - static_cast<std::size_t>(cols);
        float* error = errors.data() + errors.size() - static_cast<std::size_t>(cols);
        for (std::size_t c = 0; c < row.size(); ++c) {
          error[plan.order.empty() ? c : static_cast<std::size_t>(plan.order[c])] -= row[c];
        }
        if (held_out.row_weight.empty()) continue;
        const float counts = held_out.row_weight[static_cast<std::size_t>(begin + r + i)];
        for (std::int64_t c = 0; c < cols; ++c) {
          weight[c] *= counts;
          error[c] *= counts;
        }
      }
    }
    outputs.resize(static_cast<std::size_t>(rows * held_out.tokens));
    const auto output_squares = [&](const std::vector<float>& w) {
      const Linear product{float_matrix(w.data(), Format::f32, rows, cols), nullptr, outputs.data(),
                           rows, false};
      backend.linear({&product, 1}, held_out.x.data(), cols, held_out.tokens);
      return squares(outputs);
    };
    lost += output_squares(errors);
    all += output_squares(weights);
  }
  return all > 0 ? lost / all : 0.0;
}

}  // namespace tenfold
