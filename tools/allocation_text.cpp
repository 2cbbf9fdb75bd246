#include "tools/allocation_text.h"

#include <fmt/format.h>

#include <array>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>

namespace tenfold {

std::string allocation_table(const std::vector<Rule>& rules) {
  std::map<std::int64_t, std::array<std::string, kLayerMatrices>> cells;
  std::array<bool, kLayerMatrices> there{};
  for (const Rule& rule : rules) {
    if (!rule.layers || rule.layers->first != rule.layers->second || !rule.bits) continue;
    std::string cell = fmt::format("{}", *rule.bits);
    if (rule.mixed.value_or(0) > 0) {
      cell += fmt::format(" +{}%{}", std::lround(100 * *rule.mixed), rule.high_bits.value_or(0));
    }
    for (const LayerMatrix matrix : rule.matrices) {
      cells[rule.layers->first][static_cast<std::size_t>(matrix)] = cell;
      there[static_cast<std::size_t>(matrix)] = true;
    }
  }
  if (cells.empty()) return {};
  std::string text = "layer";
  for (std::size_t m = 0; m < kLayerMatrices; ++m) {
    if (there[m]) text += fmt::format("  {:<8}", name_of(static_cast<LayerMatrix>(m)));
  }
  for (const auto& [layer, row] : cells) {
    text += fmt::format("\n{:>5}", layer);
    for (std::size_t m = 0; m < kLayerMatrices; ++m) {
      if (there[m]) text += fmt::format("  {:<8}", row[m]);
    }
  }
  return text + "\n";
}

std::string allocation_sentence(const nlohmann::json& summary) {
  if (!summary.is_object()) return {};
  const nlohmann::json predicted = summary.value("predicted", nlohmann::json());
  const nlohmann::json measured = summary.value("measured", nlohmann::json());
  if (!predicted.is_number() || !measured.is_number()) return {};
  return fmt::format(
      "rounded to nearest, the layers were expected to add {:.4f} nats a token to the loss; "
      "together they add {:.4f}",
      predicted.get<double>(), measured.get<double>());
}

}  // namespace tenfold
