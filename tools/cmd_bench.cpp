#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "kernels/cpu/isa.h"
#include "kernels/cpu/machine_limits.h"
#include "kernels/thread_pool.h"
#include "tools/args.h"
#include "tools/bench_report.h"
#include "tools/io.h"
#include "tools/load.h"
#include "tools/progress.h"
#include "tools/signals.h"

namespace tenfold {
namespace {

constexpr std::int64_t kMaxBatch = 512;
constexpr std::int64_t kMaxRuns = 1000;

struct Options {
  CommonOptions common;
  std::int64_t prompt = 512, steps = 128, runs = 5;
  std::vector<std::int32_t> batches = {1, 4, 16};
  std::string output = "md";
  bool no_limits = false, tune = false;
};

void check_lengths(const Options& options, const ModelInfo& info) {
  const auto check = [&](const char* flag, std::int64_t tokens) {
    if (tokens <= info.max_context) return;
    throw_error(ErrorCode::bad_request, "{} {}: the model's context is {} tokens", flag, tokens,
                info.max_context);
  };
  check("-p", options.prompt);
  check("-n", options.steps);
}

// The machine's read bandwidth, measured between the runs of a test.
class BandwidthBeside {
 public:
  BandwidthBeside(bool wanted, int threads) {
    if (wanted) bandwidth_.emplace(threads);
  }
  void sample() {
    if (bandwidth_) samples_.push_back(bandwidth_->measure());
  }
  // Mean of the samples since the last call; 0 where nothing is measured.
  double take() {
    const double mean = summarize(samples_).mean;
    for (const double sample : samples_) best_ = std::max(best_, sample);
    samples_.clear();
    return mean;
  }
  double best() const noexcept { return best_; }  // of all that were taken

 private:
  std::optional<ReadBandwidth> bandwidth_;
  std::vector<double> samples_;
  double best_ = 0;
};

// Stops between steps, and shows how far the test is.
BenchHooks hooks_for(const std::string& test, Progress& progress,
                     std::function<void()> between_runs) {
  return {[&progress, test](std::int64_t done, std::int64_t total) {
            if (stop_requested()) throw_error(ErrorCode::cancelled, "interrupted");
            progress.update(static_cast<std::uint64_t>(done), static_cast<std::uint64_t>(total),
                            test);
          },
          std::move(between_runs)};
}

void measure_prefill(const Options& options, const LoadedModel& loaded, KvType kv,
                     Progress& progress, BenchReport& report) {
  if (options.prompt == 0) return;
  if (!options.no_limits && report.device == "cpu") {
    report.peak_gop_s = report.work.int8 ? measure_int8_peak(report.isa, report.threads)
                                         : measure_fma_peak(report.isa, report.threads);
  }
  const BenchHooks hooks = hooks_for(fmt::format("prefill of {}", options.prompt), progress, [] {});
  report.prefill.push_back({options.prompt, bench_prefill(*loaded.model, *loaded.ws, kv,
                                                          options.prompt, options.runs, hooks)});
}

void measure_decode(const Options& options, const LoadedModel& loaded, KvType kv,
                    Progress& progress, BenchReport& report) {
  if (options.steps == 0) return;
  BandwidthBeside bandwidth(!options.no_limits && report.device == "cpu", report.threads);
  for (const std::int32_t batch : options.batches) {
    const BenchHooks hooks = hooks_for(fmt::format("decode of {} sequences", batch), progress,
                                       [&] { bandwidth.sample(); });
    const Speed speed =
        bench_decode(*loaded.model, *loaded.ws, kv, batch, options.steps, options.runs, hooks);
    report.decode.push_back({batch, options.steps, speed, bandwidth.take()});
  }
  report.read_gb_s = bandwidth.best();
}

// Tries the ways to launch products of one sequence, of some, and of prompts.
void tune(const Options& options, const LoadedModel& loaded, KvType kv, Progress& progress) {
  if (!options.tune) return;
  if (!loaded.ws->backend->begin_tuning()) {
    throw_error(ErrorCode::bad_request, "--tune: there is nothing to tune on this device");
  }
  const BenchHooks hooks = hooks_for("tuning", progress, [] {});
  for (const std::int64_t tokens : {1, 16, 64, 512}) {
    const std::int64_t most = std::min(tokens, loaded.model->info().max_context);
    bench_prefill(*loaded.model, *loaded.ws, kv, most, 1, hooks);
  }
  loaded.ws->backend->end_tuning();
}

int run(const Options& options) {
  if (options.prompt == 0 && options.steps == 0) {
    throw_error(ErrorCode::bad_request, "-p 0 and -n 0 leave nothing to measure");
  }
  const KvType kv = options.common.kv_or(KvType::f16);
  const LoadedModel loaded = load(options.common, std::max(options.prompt, options.steps), kv);
  const ModelInfo& info = loaded.model->info();
  check_lengths(options, info);
  catch_interrupts();
  BenchReport report;
  report.model = options.common.model;
  report.runs_on = loaded.ws->backend->description();
  report.isa = choose_kernels(options.common.isa).isa;
  report.device = loaded.ws->backend->shares_host_memory() ? "cpu" : "cuda";
  report.threads = options.common.threads > 0 ? options.common.threads : default_thread_count();
  report.bits_per_weight = loaded.bits_per_weight;
  report.work = info.work;
  report.kv_bytes_per_token = kv_shape(info, kv).bytes_per_token();
  {
    Progress progress("bench", options.common.quiet);
    tune(options, loaded, kv, progress);
    measure_prefill(options, loaded, kv, progress, report);
    measure_decode(options, loaded, kv, progress, report);
  }
  print(options.output == "json"  ? to_json(report)
        : options.output == "csv" ? to_csv(report)
                                  : to_markdown(report));
  return kExitOk;
}

}  // namespace

Command add_bench(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* sub = app.add_subcommand("bench", "Measure speed, and how near the machine's limits");
  add_common_options(*sub, options->common, ModelArgument::option);
  sub->add_option("-p,--prompt", options->prompt, "tokens of the prefill; 0: no prefill")
      ->check(in_range(0, kMaxCount))
      ->type_name("P")
      ->capture_default_str();
  sub->add_option("-n,--steps", options->steps, "decode steps of a run; 0: no decode")
      ->check(in_range(0, kMaxCount))
      ->type_name("N")
      ->capture_default_str();
  sub->add_option("-b,--batch", options->batches, "sequences that decode together; a list")
      ->delimiter(',')
      ->check(in_range(1, kMaxBatch))
      ->allow_extra_args(false)
      ->type_name("B,B,...")
      ->default_str("1,4,16");
  sub->add_option("-r,--runs", options->runs, "runs of each test, after one to warm up")
      ->check(in_range(1, kMaxRuns))
      ->type_name("R")
      ->capture_default_str();
  sub->add_option("-o,--output", options->output, "md, json or csv")
      ->check(one_of({"md", "json", "csv"}))
      ->type_name("FORMAT")
      ->capture_default_str();
  sub->add_flag("--no-limits", options->no_limits,
                "do not measure the machine's read bandwidth and arithmetic peak");
  sub->add_flag("--tune", options->tune,
                "on a GPU, time the ways to launch each product first and keep the fastest");
  sub->footer("Example:\n  tenfold bench -m MODEL -p 512 -n 128 -b 1,4,16");
  return {sub, [options] { return run(*options); }};
}

}  // namespace tenfold
