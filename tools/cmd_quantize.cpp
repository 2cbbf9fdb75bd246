#include <algorithm>
#include <charconv>
#include <chrono>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "kernels/error.h"
#include "quantizer/quantize.h"
#include "runtime/files/json_file.h"
#include "runtime/files/output_file.h"
#include "tools/allocation_text.h"
#include "tools/args.h"
#include "tools/io.h"
#include "tools/progress.h"
#include "tools/report.h"
#include "tools/signals.h"

namespace tenfold {
namespace {

constexpr int kDefaultMixedBits = 1;

struct Options {
  CommonOptions common;
  std::string output;
  std::string recipe_file;
  std::string method;
  std::vector<std::string> passes;
  std::optional<int> bits;
  std::string group;
  std::string range;
  std::string min;
  std::optional<int> embed_bits, head_bits;
  std::optional<double> mixed, pbar_lambda;
  std::string salience, supervision;
  bool pbar_trials = false;
  std::optional<int> high_bits;
  std::string allocation, sensitivity;
  std::optional<double> target_bits;
  std::optional<std::uint64_t> target_size;
  std::optional<std::int64_t> allocation_seqs;
  std::vector<int> widths;
  bool cross = true;
  CalibrationOptions calibration;
  CLI::Option* calib_seqs = nullptr;
  CLI::Option* calib_len = nullptr;
  CLI::Option* seed = nullptr;
  std::optional<double> damping;
  bool act_order = true, scales = true;
  CLI::Option* act_order_flag = nullptr;
  CLI::Option* scales_flag = nullptr;
  std::optional<int> epochs;
  std::optional<double> rate, scale_rate;
  std::string learned_codes;
  std::string search, target;
  std::optional<std::int64_t> steps, together, ranked, matched, local, patience;
  std::vector<std::string> moves, couplings;
  std::optional<double> alpha, early, scale_step, rotate_step;
  std::int64_t checkpoint_every = 100;
  bool force = false;
  bool dry_run = false;
  bool resume = false;
  bool json = false;
  std::string report;
};

template <typename T, typename From>
void set_if(T& to, const std::optional<From>& from) {
  if (from) to = *from;
}

bool among(const std::vector<std::string>& names, const char* name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

void set_search(const Options& options, SearchOptions& search) {
  const bool given = options.steps || options.together || options.ranked || options.matched ||
                     options.local || options.patience || !options.target.empty() ||
                     options.alpha || options.early || options.scale_step || options.rotate_step ||
                     !options.moves.empty() || !options.couplings.empty();
  if (given && options.search.empty() && search.steps == 0) {
    throw_error(ErrorCode::bad_request, "the flags of a search need --search invarexplore");
  }
  if (!options.search.empty() && search.steps == 0) search.steps = kDefaultSearchSteps;
  set_if(search.steps, options.steps);
  set_if(search.together, options.together);
  set_if(search.ranked, options.ranked);
  set_if(search.matched, options.matched);
  set_if(search.local, options.local);
  set_if(search.patience, options.patience);
  set_if(search.alpha, options.alpha);
  if (!options.target.empty()) search.target = *parse_search_target(options.target);
  set_if(search.early, options.early);
  set_if(search.scale_step, options.scale_step);
  set_if(search.rotate_step, options.rotate_step);
  if (!options.moves.empty()) {
    search.permute = among(options.moves, "perm");
    search.scale = among(options.moves, "scale");
    search.rotate = among(options.moves, "rot");
  }
  if (!options.couplings.empty()) {
    search.ffn = among(options.couplings, "ffn");
    search.values = among(options.couplings, "vo");
    search.queries = among(options.couplings, "qk");
    search.norms = among(options.couplings, "norm");
  }
}

// "60MiB", "1.5 GB", "900000": in bytes.
std::uint64_t parse_size(const std::string& text) {
  double bytes = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, bytes);
  std::string unit = CLI::detail::to_lower(CLI::detail::trim_copy(std::string(stop, end)));
  if (unit.ends_with('b')) unit.pop_back();
  const bool binary = unit.ends_with('i');
  if (binary) unit.pop_back();
  // 0: without a prefix, or npos + 1.
  const std::size_t power = unit.empty() ? 0 : std::string_view("kmgtpe").find(unit) + 1;
  const bool known = power > 0 ? unit.size() == 1 : unit.empty() && !binary;
  bytes *= std::pow(binary ? 1024.0 : 1000.0, static_cast<double>(power));
  constexpr double kMost = 0x1p60;
  if (error == std::errc{} && known && bytes >= 1 && bytes <= kMost) {
    return static_cast<std::uint64_t>(bytes);
  }
  throw CLI::ValidationError(
      fmt::format("--target-size must be a size such as 60MiB or 1.5GB, found {}", text));
}

// What a flag or the recipe file says, so that no default may stand in for it.
struct Given {
  bool group = false, bits = false, high_bits = false, salience = false;
};

void set_allocation(const Options& options, const Given& given, Recipe& recipe) {
  AllocateOptions& allocate = recipe.allocate;
  const bool target = options.target_bits || options.target_size;
  const bool how = !options.allocation.empty() || !options.sensitivity.empty() ||
                   options.allocation_seqs || !options.cross || !options.widths.empty();
  if (!target && !how && (allocate.kind == Allocation::none || allocate.solved)) return;
  if (!target && allocate.kind == Allocation::none) {
    throw_error(ErrorCode::bad_request,
                "how a budget is divided matters only with --target-bits or --target-size");
  }
  if (allocate.solved) recipe.rules.clear();  // another answer than the file's
  allocate.solved = false;
  if (target) {
    if (allocate.kind == Allocation::none) allocate.kind = Allocation::bits;
    allocate.target_bits = options.target_bits.value_or(0);
    allocate.target_bytes = options.target_size.value_or(0);
  }
  if (!options.allocation.empty()) allocate.kind = *parse_allocation(options.allocation);
  if (!options.sensitivity.empty()) allocate.sensitivity = *parse_sensitivity(options.sensitivity);
  set_if(allocate.sequences, options.allocation_seqs);
  if (!options.cross) allocate.cross = false;
  if (!options.widths.empty()) allocate.widths = options.widths;
  if (options.method == "squeeze10") {  // with shares that the budget chooses
    if (!options.mixed) recipe.mixed = 0;
    if (!given.salience && !mixes(recipe)) recipe.salience = Salience::weight;
  } else if (!given.salience && mixes(recipe) && !recipe.awq && !recipe.omniquant) {
    recipe.salience = Salience::activation;  // best, where no pass fits scales to another choice
  }
  if (allocate.kind != Allocation::ratio) {
    if (!given.high_bits) return;
    throw_error(ErrorCode::bad_request,
                "a budget chooses its widths by itself: --high-bits needs --allocate ratio");
  }
  if (!given.bits) {
    throw_error(ErrorCode::bad_request,
                "--allocate ratio needs --bits: the width of the columns that do not keep more");
  }
  if (!given.high_bits) recipe.high_bits = recipe.bits >= 4 ? 8 : recipe.bits + 1;
}

// Flags beat the recipe file.
Recipe to_recipe(const Options& options) {
  Recipe recipe;
  Given given{!options.group.empty(), options.bits.has_value(), options.high_bits.has_value(),
              !options.salience.empty()};
  if (!options.recipe_file.empty()) {
    const nlohmann::json json = read_json_file(options.recipe_file);
    read_json(json, options.recipe_file, recipe);
    given.group = given.group || json.contains("group");
    given.bits = given.bits || json.contains("bits");
    given.high_bits = given.high_bits || json.contains("high_bits");
    given.salience = given.salience || json.contains("salience");
  }
  if (!options.passes.empty()) {
    set_passes(recipe, options.passes);
  } else if (options.method == "squeeze10") {
    set_squeeze10(recipe);
  } else if (!options.method.empty()) {
    set_passes(recipe, {options.method});
  }
  set_if(recipe.mixed, options.mixed);
  if (!options.salience.empty()) recipe.salience = *parse_salience(options.salience);
  if (options.pbar_lambda) recipe.pbar_lambda = options.pbar_lambda;
  if (options.pbar_trials) recipe.pbar_trials = true;
  if (!options.supervision.empty()) recipe.supervision = *parse_supervision(options.supervision);
  set_if(recipe.high_bits, options.high_bits);
  if (options.bits) recipe.bits = *options.bits;
  if (!given.bits && recipe.mixed > 0) recipe.bits = kDefaultMixedBits;
  if (!options.group.empty()) recipe.group = options.group == "row" ? 0 : std::stoll(options.group);
  if (!given.group && recipe.mixed > 0) recipe.group = 0;
  if (!options.range.empty()) recipe.range = *parse_range(options.range);
  if (!options.min.empty()) recipe.min = parse_min_kind(options.min);
  recipe.calibration.file = options.calibration.file;
  if (options.calib_seqs->count() > 0) recipe.calibration.sequences = options.calibration.sequences;
  if (options.calib_len->count() > 0) recipe.calibration.length = options.calibration.length;
  if (options.seed->count() > 0) recipe.calibration.seed = options.calibration.seed;
  if (options.act_order_flag->count() > 0) recipe.act_order = options.act_order;
  set_if(recipe.damping, options.damping);
  set_if(recipe.learn.epochs, options.epochs);
  set_if(recipe.learn.rate, options.rate);
  if (options.scales_flag->count() > 0) recipe.learn.scales = options.scales;
  set_if(recipe.learn.scale_rate, options.scale_rate);
  if (!options.learned_codes.empty()) {
    recipe.learn.codes = *parse_learned_codes(options.learned_codes);
  }
  if (options.embed_bits) recipe.embed_bits = options.embed_bits;
  if (options.head_bits) recipe.head_bits = options.head_bits;
  set_search(options, recipe.search);
  set_allocation(options, given, recipe);
  if (options.high_bits && !mixes(recipe)) {
    throw_error(ErrorCode::bad_request,
                "no columns keep more bits: --high-bits needs --mixed or --allocate ratio");
  }
  validate(recipe);
  return recipe;
}

// Memory that is the process's own; pages of mapped files are the system's to take back.
std::uint64_t anonymous_bytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.rfind("RssAnon:", 0) == 0) return std::stoull(line.substr(8)) * 1024;
  }
  return 0;
}

void print_json(const Options& options, const QuantizeResult& result, double seconds,
                std::uint64_t peak) {
  nlohmann::ordered_json json;
  json["output"] = nullptr;
  if (!options.dry_run) json["output"] = options.output;
  json["bits_per_weight"] = result.all.bits_per_weight();
  json["bits_per_weight_quantized"] = result.quantized.bits_per_weight();
  json["weight_bytes"] = result.all.bytes;
  json["tensors"] = result.tensors;
  json["seconds"] = seconds;
  json["peak_rss_bytes"] = peak;
  json["clipped"] = result.clipped;
  json["split_head"] = result.split_head;
  if (result.search) json["search"] = to_json(*result.search);
  if (!result.allocation.empty()) json["allocation"] = nlohmann::json::parse(result.allocation);
  print(json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
}

void note_result(const Options& options, const QuantizeResult& result, double seconds,
                 std::uint64_t peak) {
  note(
      fmt::format("{} {}: {} tensors, {}, {:.3f} bits per weight ({:.3f} over the quantized "
                  "matrices); {:.1f} s, {} of memory.",
                  options.dry_run ? "Would write" : "Wrote", options.output, result.tensors,
                  megabytes(result.all.bytes), result.all.bits_per_weight(),
                  result.quantized.bits_per_weight(), seconds, megabytes(peak)));
  if (!result.rules.empty()) {
    note(allocation_table(result.rules) +
         allocation_sentence(nlohmann::json::parse(result.allocation)));
  }
  if (result.split_head) {
    note(
        "The model shares one matrix between embedding and head; asked for different widths, "
        "the file holds two.");
  }
  note_clipped(result.clipped, "");
}

void write_report(const Options& options, double seconds, std::uint64_t peak) {
  const ReportModel made = report_model(ModelSource(options.output));
  ReportRun run = report_run(made);
  run.seconds = seconds;
  run.peak_bytes = peak;
  OutputFile file(options.report, options.force);
  file.write(report_html({made}, {run}));
  file.commit();
}

int run(const Options& options) {
  QuantizeOptions quantization;
  quantization.recipe = to_recipe(options);
  quantization.threads = options.common.threads;
  quantization.isa = options.common.isa;
  quantization.device = options.common.device;
  std::string notice;
  if (options.common.device == "auto") {
    quantization.device = "cpu";
    const bool runs = !quantization.recipe.calibration.file.empty();
    if (runs && !open_device(options.common, notice)->shares_host_memory()) {
      quantization.device = "cuda";
    }
  }
  quantization.overwrite = options.force;
  quantization.dry_run = options.dry_run;
  quantization.resume = options.resume;
  quantization.checkpoint_every = options.checkpoint_every;
  if (!options.report.empty() && !options.dry_run) check_output(options.report, options.force);
  const auto source = std::make_shared<const ModelSource>(options.common.model);
  catch_interrupts();
  catch_termination();
  std::uint64_t peak = 0;
  QuantizeResult result;
  const auto start = std::chrono::steady_clock::now();
  {
    Progress progress("quantize", options.common.quiet);
    Progress search("search", options.common.quiet);
    Progress allocation("measure", options.common.quiet);
    quantization.on_allocation = [&](std::uint64_t done, std::uint64_t total) {
      peak = std::max(peak, anonymous_bytes());
      allocation.update(done, total);
      return !stop_requested();
    };
    const std::int64_t steps = quantization.recipe.search.steps;
    quantization.on_search_step = [&](const SearchStep& step, const SearchCounts& counts) {
      peak = std::max(peak, anonymous_bytes());
      search.update(static_cast<std::uint64_t>(step.step + 1), static_cast<std::uint64_t>(steps),
                    fmt::format("loss {:.4f}, held out {:.4f}, {} accepted", step.loss,
                                step.held_out, counts.accepted));
      return !stop_requested();
    };
    result = quantize(source, options.output, quantization,
                      [&](std::uint64_t done, std::uint64_t total) {
                        peak = std::max(peak, anonymous_bytes());
                        progress.update(done, total);
                        return !stop_requested();
                      });
  }
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (!options.common.quiet && !notice.empty()) note(notice);
  if (!options.common.quiet) note_result(options, result, seconds, peak);
  if (!options.report.empty() && !options.dry_run) write_report(options, seconds, peak);
  if (options.json) print_json(options, result, seconds, peak);
  return kExitOk;
}

std::string is_share(const std::string& text) {
  double value = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error == std::errc{} && stop == end && value > 0 && value < 1) return {};
  return fmt::format("must be a number between 0 and 1, found {}", text);
}

void add_recipe_options(CLI::App& sub, Options& options) {
  sub.add_option("--recipe", options.recipe_file,
                 "a recipe as JSON, as `inspect --json` shows it; other flags beat it")
      ->type_name("FILE");
  CLI::Option* method = sub.add_option(
      "--method", options.method,
      "rtn (default): weights are rounded to nearest; gptq: column by column, later ones making "
      "up for the errors of earlier ones; awq: channels that meet strong inputs are scaled up "
      "first; omniquant: ranges are learned layer by layer; squeeze10: gptq with a fifth of the "
      "columns at 4 bits, those that lose most at 1 bit, and the others at 1");
  method->check(one_of({"rtn", "gptq", "awq", "omniquant", "squeeze10"}))->type_name("METHOD");
  sub.add_option(
         "--passes", options.passes,
         "several of these in turn: awq, omniquant, rtn or gptq, and tune, which learns the "
         "grids of the codes that were chosen")
      ->delimiter(',')
      ->type_name("A,B,...")
      ->excludes(method);
  sub.add_option("--bits", options.bits, "of the layers' matrices: 1, 2, 3, 4 or 8; default 4")
      ->check(one_of({"1", "2", "3", "4", "8"}))
      ->type_name("N");
  sub.add_option("--group", options.group,
                 "columns that share a scale: 32, 64, 128 or row; default 128, row with --mixed")
      ->check(one_of({"32", "64", "128", "row"}))
      ->type_name("G");
  sub.add_option(
         "--range", options.range,
         "range of a group: mse (least squared error), weighted (errors count as the inputs they "
         "meet are strong; needs --calib) or minmax; default mse")
      ->check(one_of({"minmax", "mse", "weighted"}))
      ->type_name("RANGE");
  sub.add_option("--min", options.min,
                 "minima of the layers' matrices: zero, midrise, f16 or auto (default): f16 at 1 "
                 "bit, the better of zero and midrise at 2 without calibration, else zero")
      ->check(one_of({"auto", "zero", "midrise", "f16"}))
      ->type_name("KIND");
  sub.add_option("--embed-bits", options.embed_bits, "of the embeddings; 16: F16; default 8")
      ->check(one_of({"1", "2", "3", "4", "8", "16"}))
      ->type_name("N");
  sub.add_option("--head-bits", options.head_bits, "of the output head; 16: F16; default 8")
      ->check(one_of({"1", "2", "3", "4", "8", "16"}))
      ->type_name("N");
  sub.add_option("--mixed", options.mixed,
                 "this share of the input columns, the strongest, at --high-bits (default 4); the "
                 "rest at --bits (default 1)")
      ->check(is_share)
      ->type_name("SHARE");
  sub.add_option("--salience", options.salience,
                 "which columns: weight (default), those of the largest weights; activation, with "
                 "the strongest inputs; pbar, those that lose most at few bits")
      ->check(one_of({"weight", "activation", "pbar"}))
      ->type_name("BY");
  sub.add_option("--pbar-lambda", options.pbar_lambda,
                 "pbar: what the inputs' own strength counts; default: for each input the best of "
                 "0, 0.25, 0.5, 1 and 2")
      ->check(CLI::Range(0.0, 1e6))
      ->type_name("L");
  sub.add_flag("--pbar-trials", options.pbar_trials,
               "pbar: the best by the loss of the running model on held-out text, instead of by "
               "the error of the matrices' outputs");
  sub.add_option("--fias", options.supervision,
                 "gptq: what codes are fitted to: none (default), the inputs that the quantized "
                 "layers make; full, those of full precision; blend, both; target, the first, with "
                 "full precision's outputs")
      ->check(one_of({"none", "full", "blend", "target"}))
      ->type_name("HOW");
}

void add_allocation_options(CLI::App& sub, Options& options) {
  CLI::Option* bits =
      sub.add_option("--target-bits", options.target_bits,
                     "a budget for all of the layers' matrices together, in bits a weight, scales "
                     "included, divided where the running model gains most by it; needs --calib");
  bits->check(CLI::Range(1.0, 16.0))->type_name("X");
  sub.add_option_function<std::string>(
         "--target-size",
         [&options](const std::string& text) { options.target_size = parse_size(text); },
         "the same, as the size of the whole file: 60MiB, 1.5GB")
      ->excludes(bits)
      ->type_name("SIZE");
  sub.add_option("--allocate", options.allocation,
                 "what a matrix may get: bits (default), any width, and mixed ones near the "
                 "target; or ratio, --bits and --high-bits for a share of its columns")
      ->check(one_of({"bits", "ratio"}))
      ->type_name("HOW");
  sub.add_option("--widths", options.widths,
                 "bits: these widths of whole matrices alone, such as 1,2")
      ->delimiter(',')
      ->check(one_of({"1", "2", "3", "4", "8"}))
      ->type_name("A,B,...");
  sub.add_option("--high-bits", options.high_bits,
                 "of the columns that keep more; default 4 with --mixed, one step more than "
                 "--bits with --allocate ratio")
      ->check(one_of({"2", "3", "4", "8"}))
      ->type_name("N");
  sub.add_option("--sensitivity", options.sensitivity,
                 "what a choice is judged by: the error of its layer's outputs (block), that times "
                 "what one choice of each matrix adds to the model's loss (scaled, default), or "
                 "what each adds (final, slow)")
      ->check(one_of({"block", "scaled", "final"}))
      ->type_name("BY");
  sub.add_option("--allocation-seqs", options.allocation_seqs,
                 "sequences of the calibration text to measure on; default 4")
      ->check(in_range(1, 1 << 20))
      ->type_name("N");
  sub.add_flag("!--no-cross", options.cross,
               "take the errors of a layer's matrices for independent");
}

void add_calibration_options(CLI::App& sub, Options& options) {
  sub.add_option("--calib", options.calibration.file,
                 "calibration text, or .jsonl with a \"text\" in each line")
      ->type_name("FILE");
  options.calib_seqs =
      sub.add_option("--calib-seqs", options.calibration.sequences, "sequences drawn from it");
  options.calib_seqs->check(in_range(1, 1 << 20))->type_name("N")->capture_default_str();
  options.calib_len =
      sub.add_option("--calib-len", options.calibration.length, "tokens of a sequence");
  options.calib_len->check(in_range(2, 1 << 20))->type_name("L")->capture_default_str();
  options.seed = sub.add_option("--seed", options.calibration.seed, "of the draw");
  options.seed->type_name("N")->capture_default_str();
  options.act_order_flag =
      sub.add_flag("--act-order,!--no-act-order", options.act_order,
                   "gptq: columns of the strongest inputs first (default), or from left to right");
  sub.add_option("--damping", options.damping,
                 "gptq: this share of each input's mean square is added to it; default 0.1")
      ->check(CLI::Range(0.0, 1.0))
      ->type_name("SHARE");
  sub.add_option("--epochs", options.epochs,
                 "omniquant, tune: times they go over the calibration text; default 10")
      ->check(in_range(1, 1000))
      ->type_name("N");
  sub.add_option("--learning-rate", options.rate,
                 "omniquant, tune: of ranges, in steps of their grids; default 0.002")
      ->check(CLI::Range(0.0, 1.0))
      ->type_name("R");
  options.scales_flag =
      sub.add_flag("--scales,!--no-scales", options.scales,
                   "omniquant: learn scales of input channels too (default), or ranges alone");
  sub.add_option("--learn-codes", options.learned_codes,
                 "tune: codes too, of the columns that keep more bits in a mixed layout (high) or "
                 "all; default none")
      ->check(one_of({"none", "high", "all"}))
      ->type_name("WHICH");
  sub.add_option("--scale-rate", options.scale_rate,
                 "omniquant: learning rate of the scales' logarithms; default 0.002")
      ->check(CLI::Range(0.0, 1.0))
      ->type_name("R");
}

void add_search_options(CLI::App& sub, Options& options) {
  sub.add_option("--search", options.search,
                 "invarexplore: then move, scale and turn channels, step by step, where the "
                 "running model gets better on the calibration text")
      ->check(one_of({"invarexplore"}))
      ->type_name("METHOD");
  const auto add = [&](const char* name, auto& value, const char* help) {
    return sub.add_option(name, value, help);
  };
  add("--steps", options.steps, "of the search; default 100")
      ->check(in_range(1, 1 << 30))
      ->type_name("N");
  add("--together", options.together,
      "layers that a step changes; default: as many as hold 134 million weights, with --ranked 0 "
      "one")
      ->check(in_range(1, 1 << 20))
      ->type_name("N");
  add("--ranked", options.ranked,
      "proposals for each layer, of which the loss's derivatives choose; 0: one, unchosen; "
      "default 8")
      ->check(in_range(0, 1 << 20))
      ->type_name("N");
  add("--moves", options.moves, "perm, scale, rot; default all")
      ->delimiter(',')
      ->check(one_of({"perm", "scale", "rot"}))
      ->type_name("A,B,...");
  add("--couplings", options.couplings,
      "whose channels move: ffn, vo (values and output), qk (queries and keys), norm (a norm and "
      "what reads it); default all")
      ->delimiter(',')
      ->check(one_of({"ffn", "vo", "qk", "norm"}))
      ->type_name("A,B,...");
  add("--target", options.target,
      "what next tokens are compared with: what the full-precision model expects (teacher, "
      "default), or the text's own")
      ->check(one_of({"text", "teacher"}))
      ->type_name("TARGET");
  add("--match-layers", options.matched,
      "layers whose outputs are compared with full precision's; default 10")
      ->check(in_range(0, 1 << 20))
      ->type_name("N");
  add("--match-weight", options.alpha, "what they count beside the loss; default 0.1")
      ->check(CLI::Range(0.0, 1e6))
      ->type_name("A");
  add("--local", options.local,
      "changes tried by a local error for each that is confirmed; 0: random ones, as in the "
      "paper; default 64")
      ->check(in_range(0, 1 << 20))
      ->type_name("N");
  add("--early", options.early,
      "the chance at which a good step may be given up after some of the sequences; 0: never; "
      "default 0.02")
      ->check(CLI::Range(0.0, 0.49))
      ->type_name("P");
  add("--scale-step", options.scale_step, "standard deviation of random scales; default 0.01")
      ->check(CLI::Range(0.0, 10.0))
      ->type_name("S");
  add("--rotate-step", options.rotate_step, "standard deviation of random angles; default 0.00001")
      ->check(CLI::Range(0.0, 10.0))
      ->type_name("S");
  add("--patience", options.patience,
      "stop after so many rounds, steps that change as many layers as the model has, without a "
      "lower loss on held-out text; 0: never; default 20")
      ->check(in_range(0, 1 << 30))
      ->type_name("N");
  add("--checkpoint-every", options.checkpoint_every,
      "steps after which the model so far is saved in OUT.gguf.work")
      ->check(in_range(1, 1 << 30))
      ->type_name("N")
      ->capture_default_str();
}

}  // namespace

Command add_quantize(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* sub = app.add_subcommand("quantize", "Make a model of a few bits per weight");
  add_common_options(*sub, options->common, ModelArgument::option);
  sub->add_option("-o,--output", options->output, "the GGUF file to write")
      ->type_name("OUT.gguf")
      ->required();
  add_recipe_options(*sub, *options);
  add_allocation_options(*sub, *options);
  add_calibration_options(*sub, *options);
  add_search_options(*sub, *options);
  sub->add_flag("--force", options->force, "replace OUT.gguf if it exists");
  sub->add_flag("--resume", options->resume,
                "go on with the finished layers of an interrupted run");
  sub->add_option("--report", options->report, "also write a page about it (see `tenfold report`)")
      ->type_name("OUT.html");
  sub->add_flag("--dry-run", options->dry_run, "show sizes and bits per weight, write nothing");
  sub->add_flag("--json", options->json, "print one JSON object");
  sub->footer("Example:\n  tenfold quantize -m opt-125m/ -o opt-125m-q4.gguf --bits 4 --group 64");
  return {sub, [options] { return run(*options); }};
}

}  // namespace tenfold
