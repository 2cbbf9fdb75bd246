#pragma once
// One self-contained HTML page about quantized models: perplexity against true bits, errors of each
// layer before and after, what got which bits. Charts are SVG; nothing is fetched.

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "runtime/model_source.h"

namespace tenfold {

// A model among those compared. NaN-free; 0 where a figure is not known.
struct ReportRun {
  std::string name;
  std::string series;  // who made it, where several did; may be empty
  double bits_per_weight = 0;
  std::uint64_t file_bytes = 0;
  double perplexity = 0;
  double seconds = 0;
  std::uint64_t peak_bytes = 0;
};

struct ReportMatrix {
  std::string role;  // "q", "down"
  std::int64_t layer = 0;
  double bits_per_weight = 0;
};

struct ReportModel {
  std::string name;
  double bits_per_weight = 0;
  std::uint64_t file_bytes = 0;
  std::vector<std::pair<std::string, std::string>> facts;
  std::vector<ReportMatrix> matrices;
  nlohmann::json losses;      // quantizer/losses.h, an array of layers; null: none
  nlohmann::json search;      // quantizer/search/search_model.h; null: none
  nlohmann::json allocation;  // quantizer/allocate; null: none
};

// What a model is called: its path, without detours.
std::string report_name(const std::string& path);
// What a file says about itself.
ReportModel report_model(const ModelSource& source);
ReportRun report_run(const ReportModel& model);  // without what was measured of it

std::string report_html(const std::vector<ReportModel>& models, const std::vector<ReportRun>& runs);

}  // namespace tenfold
