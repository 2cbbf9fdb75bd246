#include "tools/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <iterator>
#include <map>

#include "quantizer/roles.h"
#include "runtime/files/json_file.h"
#include "tools/chart.h"
#include "tools/io.h"
#include "tools/model_size.h"

namespace tenfold {
namespace {

constexpr const char* kHead = R"(<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Tenfold: quantized models</title>
<style>
:root { color-scheme: light dark; --fg: #1f2937; --bg: #ffffff; --soft: #6b7280; --line: #d1d5db; }
@media (prefers-color-scheme: dark) {
  :root { --fg: #e5e7eb; --bg: #111827; --soft: #9ca3af; --line: #374151; }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--fg); background: var(--bg);
       max-width: 1180px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem } h2 { font-size: 1.2rem; margin-top: 2rem }
table { border-collapse: collapse; margin: .5rem 0 1rem }
th, td { border-bottom: 1px solid var(--line); padding: .2rem .8rem .2rem 0; text-align: left;
         vertical-align: top; font-variant-numeric: tabular-nums }
th { color: var(--soft); font-weight: 600 }
td.number { text-align: right }
code { overflow-wrap: anywhere }
.charts { display: flex; flex-wrap: wrap; gap: 1rem }
svg { max-width: 100%; height: auto }
svg text { font: 11px system-ui, sans-serif; fill: var(--fg) }
svg .title { font-weight: 600; font-size: 13px } svg .tick { fill: var(--soft); font-size: 10px }
svg .cell { font-size: 9px } svg .grid { stroke: var(--line); stroke-width: .7 }
</style></head><body>
<h1>Tenfold: quantized models</h1>
)";

constexpr std::size_t kMostLabels = 8;  // of points in a chart: more lie on each other

double number_of(const nlohmann::json& json, const char* key) {
  const auto found = json.is_object() ? json.find(key) : json.end();
  return json.is_object() && found != json.end() && found->is_number() ? found->get<double>() : 0.0;
}

// For each series the runs that nothing smaller of it beats, joined, and all others.
std::vector<Series> frontiers(std::vector<ReportRun> runs,
                              const std::function<double(const ReportRun&)>& size) {
  std::stable_sort(runs.begin(), runs.end(), [&](const ReportRun& a, const ReportRun& b) {
    return std::pair(size(a), a.perplexity) < std::pair(size(b), b.perplexity);
  });
  std::map<std::string, std::pair<Series, Series>> by_name;
  for (const ReportRun& run : runs) {
    if (run.perplexity <= 0 || size(run) <= 0) continue;
    auto& [best, others] = by_name[run.series];
    const bool better = best.points.empty() || run.perplexity < best.points.back().second;
    Series& series = better ? best : others;
    series.points.emplace_back(size(run), run.perplexity);
    series.labels.push_back(run.name);
  }
  std::vector<Series> all;
  for (auto& [name, pair] : by_name) {
    auto& [best, others] = pair;
    best.name = name;
    others.line = others.labels_shown = false;
    best.labels_shown = runs.size() <= kMostLabels;
    best.color = others.color = static_cast<int>(all.size() / 2);
    all.push_back(std::move(best));
    all.push_back(std::move(others));
  }
  return all;
}

std::string runs_section(const std::vector<ReportRun>& runs) {
  std::string html =
      "<h2>Models compared</h2>\n<table><tr><th>model</th><th>bits per weight</th><th>file</th>"
      "<th>perplexity</th><th>seconds</th><th>peak memory</th></tr>\n";
  const auto cell = [&](bool known, const std::string& text) {
    html += "<td class=\"number\">" + (known ? text : "") + "</td>";
  };
  bool measured = false;
  for (const ReportRun& run : runs) {
    html += "<tr><td>" + escape_html(run.name) + "</td>";
    cell(run.bits_per_weight > 0, fmt::format("{:.3f}", run.bits_per_weight));
    cell(run.file_bytes > 0, megabytes(run.file_bytes));
    cell(run.perplexity > 0, fmt::format("{:.3f}", run.perplexity));
    cell(run.seconds > 0, fmt::format("{:.0f}", run.seconds));
    cell(run.peak_bytes > 0, megabytes(run.peak_bytes));
    html += "</tr>\n";
    measured = measured || run.perplexity > 0;
  }
  html += "</table>\n";
  if (!measured) return html;
  const auto bits = [](const ReportRun& run) { return run.bits_per_weight; };
  const auto size = [](const ReportRun& run) {
    return static_cast<double>(run.file_bytes) / (1 << 20);
  };
  return html + "<div class=\"charts\">\n" +
         xy_chart("Perplexity against true bits", {"bits per weight, all included", false, false},
                  {"perplexity", true, false}, frontiers(runs, bits)) +
         xy_chart("Perplexity against file size", {"MiB", false, false},
                  {"perplexity", true, false}, frontiers(runs, size)) +
         "</div>\n";
}

std::string bits_section(const ReportModel& model) {
  std::vector<std::string> roles;
  std::int64_t layers = 0;
  for (const ReportMatrix& matrix : model.matrices) {
    if (std::find(roles.begin(), roles.end(), matrix.role) == roles.end()) {
      roles.push_back(matrix.role);
    }
    layers = std::max(layers, matrix.layer + 1);
  }
  if (roles.empty()) return {};
  std::vector<std::string> columns;
  for (std::int64_t i = 0; i < layers; ++i) columns.push_back(std::to_string(i));
  std::vector<std::vector<double>> cells(roles.size(), std::vector<double>(columns.size(), -1.0));
  for (const ReportMatrix& matrix : model.matrices) {
    const auto row = std::find(roles.begin(), roles.end(), matrix.role) - roles.begin();
    cells[static_cast<std::size_t>(row)][static_cast<std::size_t>(matrix.layer)] =
        matrix.bits_per_weight;
  }
  return heat_map("True bits per weight, by matrix and layer", roles, columns, cells);
}

// One chart a role: rounding to nearest, and what was chosen.
std::string losses_section(const ReportModel& model) {
  if (!model.losses.is_array()) return {};
  std::map<std::string, std::pair<Series, Series>> by_role;
  std::map<std::string, std::pair<Series, Series>> learned;
  for (std::size_t layer = 0; layer < model.losses.size(); ++layer) {
    const nlohmann::json& one = model.losses[layer];
    const auto x = static_cast<double>(layer);
    if (!one.is_object()) continue;
    if (one.contains("matrices") && one["matrices"].is_object()) {
      for (const auto& [role, loss] : one["matrices"].items()) {
        by_role[role].first.points.emplace_back(x, number_of(loss, "nearest"));
        by_role[role].second.points.emplace_back(x, number_of(loss, "chosen"));
      }
    }
    for (const char* pass : {"ranges", "tuned"}) {
      if (!one.contains(pass)) continue;
      learned[pass].first.points.emplace_back(x, number_of(one[pass], "before"));
      learned[pass].second.points.emplace_back(x, number_of(one[pass], "after"));
    }
  }
  const auto chart = [](const std::string& title, Series first, const char* first_name,
                        Series second, const char* second_name) {
    first.name = first_name;
    first.dashed = true;
    first.color = 1;
    second.name = second_name;
    return xy_chart(title, {"layer", false, true}, {"relative square error", true, false},
                    {first, second});
  };
  std::string html;
  for (const auto& [pass, pair] : learned) {
    html += chart(pass == "tuned" ? "Layer outputs, grids tuned for their codes"
                                  : "Layer outputs, learned ranges",
                  pair.first, "before", pair.second, "after");
  }
  for (const auto& [role, pair] : by_role) {
    html += chart("Outputs of " + role, pair.first, "to nearest", pair.second, "chosen");
  }
  return html;
}

// The loss of the accepted models, step by step, and how many of the steps were accepted.
std::string search_section(const ReportModel& model) {
  if (!model.search.is_object() || !model.search.value("history", nlohmann::json()).is_array()) {
    return {};
  }
  Series loss, held_out, accepted;
  loss.name = "calibration";
  held_out.name = "held out";
  held_out.color = 1;
  accepted.name = "accepted";
  for (const nlohmann::json& step : model.search["history"]) {
    const double at = number_of(step, "step") + 1;
    loss.points.emplace_back(at, number_of(step, "loss"));
    held_out.points.emplace_back(at, number_of(step, "held_out"));
    accepted.points.emplace_back(at, static_cast<double>(accepted.points.size() + 1));
  }
  return xy_chart("Search: loss of the model so far", {"step", false, true},
                  {"loss, relative to the start", false, false}, {loss, held_out}) +
         xy_chart("Search: steps accepted", {"step", false, true}, {"accepted", false, true},
                  {accepted});
}

// What each layer of a divided budget adds to the loss, beside what was expected.
std::string allocation_section(const ReportModel& model) {
  if (!model.allocation.is_object()) return {};
  Series layers, equal;
  layers.name = "a layer each";
  layers.line = layers.labels_shown = false;
  equal.name = "as predicted";
  equal.dashed = true;
  equal.color = 1;
  const nlohmann::json list = model.allocation.value("layers", nlohmann::json());
  for (std::size_t layer = 0; list.is_array() && layer < list.size(); ++layer) {
    const double predicted = number_of(list[layer], "predicted");
    const double measured = number_of(list[layer], "measured");
    if (!(predicted > 0) || !(measured > 0)) continue;
    layers.points.emplace_back(predicted, measured);
    layers.labels.push_back(std::to_string(layer));
    equal.points.emplace_back(predicted, predicted);
  }
  if (layers.points.empty()) return {};
  std::sort(equal.points.begin(), equal.points.end());
  return xy_chart("Bit budget: what layers add to the loss, in nats", {"predicted", true, false},
                  {"measured", true, false}, {layers, equal});
}

std::string model_section(const ReportModel& model) {
  std::string html = "<h2>" + escape_html(model.name) + "</h2>\n<table>\n";
  for (const auto& [name, value] : model.facts) {
    html += "<tr><th>" + escape_html(name) + "</th><td><code>" + escape_html(value) +
            "</code></td></tr>\n";
  }
  html += "</table>\n<div class=\"charts\">\n";
  html += bits_section(model);
  html += allocation_section(model);
  html += losses_section(model);
  html += search_section(model);
  return html + "</div>\n";
}

}  // namespace

std::string report_name(const std::string& path) {
  const std::filesystem::path plain = std::filesystem::path(path).lexically_normal();
  return (plain.has_filename() ? plain : plain.parent_path()).string();
}

ReportModel report_model(const ModelSource& source) {
  const Family& family = find_family(source);
  const DecoderSpec spec = read_spec(family, source);
  const ModelSize size = measure(family, spec, source);
  ReportModel model;
  model.name = report_name(source.path());
  model.bits_per_weight = bits_per_weight(size.all);
  model.file_bytes = source.file_bytes();
  model.facts = {{"file", megabytes(model.file_bytes)},
                 {"bits per weight", fmt::format("{:.3f}", model.bits_per_weight)}};
  if (size.quantized.elements > 0) {
    model.facts.emplace_back("over the quantized matrices",
                             fmt::format("{:.3f}", bits_per_weight(size.quantized)));
  }
  if (!source.is_gguf()) return model;
  const GgufMetadata& metadata = source.gguf().metadata();
  if (const std::string* recipe = metadata.get_string(kRecipeKey)) {
    model.facts.emplace_back("recipe", *recipe);
  }
  if (const std::string* hash = metadata.get_string(kCalibrationHashKey)) {
    model.facts.emplace_back("calibration", *hash);
  }
  if (const std::string* losses = metadata.get_string(kLossesKey)) {
    model.losses = parse_json(*losses, fmt::format("{}: key {}", source.path(), kLossesKey));
  }
  if (const std::string* search = metadata.get_string(kSearchKey)) {
    model.search = parse_json(*search, fmt::format("{}: key {}", source.path(), kSearchKey));
  }
  if (const std::string* given = metadata.get_string(kAllocationKey)) {
    model.allocation = parse_json(*given, fmt::format("{}: key {}", source.path(), kAllocationKey));
  }
  if (model.losses.is_array() && !model.losses.empty() && model.losses.back().is_object() &&
      model.losses.back().contains("head")) {
    const nlohmann::json& head = model.losses.back()["head"];
    model.facts.emplace_back("error of the head",
                             fmt::format("{:.5f} to nearest, {:.5f} as chosen",
                                         number_of(head, "nearest"), number_of(head, "chosen")));
  }
  for (const StoredMatrix& matrix : source.matrices()) {
    const std::int64_t layer = layer_of(matrix.name);
    const std::optional<LayerMatrix> role = find_layer_matrix(matrix.name);
    if (layer < 0 || layer >= spec.layers || !role) continue;
    const MatrixView& view = matrix.view;
    model.matrices.push_back(
        {std::string(name_of(*role)), layer,
         8.0 * static_cast<double>(view.bytes()) / static_cast<double>(view.rows * view.cols)});
  }
  return model;
}

ReportRun report_run(const ReportModel& model) {
  ReportRun run;
  run.name = model.name;
  run.bits_per_weight = model.bits_per_weight;
  run.file_bytes = model.file_bytes;
  return run;
}

std::string report_html(const std::vector<ReportModel>& models,
                        const std::vector<ReportRun>& runs) {
  std::string html = kHead;
  if (!runs.empty()) html += runs_section(runs);
  for (const ReportModel& model : models) html += model_section(model);
  return html +
         "<p>Errors are relative square errors of outputs on held-out calibration text; bits "
         "count scales, minima and maps.</p>\n</body></html>\n";
}

}  // namespace tenfold
