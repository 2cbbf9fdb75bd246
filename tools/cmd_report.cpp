#include <algorithm>
#include <nlohmann/json.hpp>

#include "runtime/files/json_file.h"
#include "runtime/files/output_file.h"
#include "tools/args.h"
#include "tools/io.h"
#include "tools/report.h"

namespace tenfold {
namespace {

struct Options {
  CommonOptions common;
  std::vector<std::string> models;
  std::string output;
  std::string runs_file;
  bool force = false;
};

std::vector<ReportRun> read_runs(const std::string& path) {
  std::vector<ReportRun> runs;
  for_each_json_line(path, [&](const nlohmann::json& json, const std::string& name) {
    if (!json.is_object()) throw_file_error(name, "is not a JSON object");
    ReportRun& run = runs.emplace_back();
    run.name = report_name(json_string_or(json, "model", "", name));
    run.series = json_string_or(json, "series", "", name);
    run.bits_per_weight = json_number_or(json, "bits_per_weight", 0, name);
    run.perplexity = json_number_or(json, "ppl", 0, name);
    run.seconds = json_number_or(json, "seconds", 0, name);
    const auto bytes = [&](const char* key) {
      return static_cast<std::uint64_t>(std::max<std::int64_t>(0, json_int_or(json, key, 0, name)));
    };
    run.file_bytes = bytes("file_bytes");
    run.peak_bytes = bytes("peak_rss_bytes");
  });
  return runs;
}

int run(const Options& options) {
  std::vector<ReportRun> runs;
  if (!options.runs_file.empty()) runs = read_runs(options.runs_file);
  std::vector<ReportModel> models;
  for (const std::string& path : options.models) {
    models.push_back(report_model(ModelSource(path)));
    const auto measured = std::any_of(runs.begin(), runs.end(), [&](const ReportRun& one) {
      return one.name == models.back().name;
    });
    if (!measured) runs.push_back(report_run(models.back()));
  }
  OutputFile file(options.output, options.force);
  file.write(report_html(models, runs));
  file.commit();
  if (!options.common.quiet) note(fmt::format("Wrote {}.", options.output));
  return kExitOk;
}

}  // namespace

Command add_report(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* sub = app.add_subcommand("report", "Compare quantized models on one HTML page");
  add_common_options(*sub, options->common, ModelArgument::none);
  sub->add_option("MODELS", options->models, "the models")->required()->type_name("MODEL...");
  sub->add_option("-o,--output", options->output, "the page to write")
      ->type_name("OUT.html")
      ->required();
  sub->add_option(
         "--runs", options->runs_file,
         "what was measured, as JSON lines: those of `tenfold eval --ppl --json`, and perhaps "
         "seconds and peak_rss_bytes")
      ->type_name("FILE");
  sub->add_flag("--force", options->force, "replace OUT.html if it exists");
  sub->footer("Example:\n  tenfold report a-q2.gguf a-q3.gguf -o report.html --runs evals.jsonl");
  return {sub, [options] { return run(*options); }};
}

}  // namespace tenfold
