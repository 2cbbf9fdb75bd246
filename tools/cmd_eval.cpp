#include <nlohmann/json.hpp>

#include "runtime/choices.h"
#include "runtime/divergence.h"
#include "runtime/score.h"
#include "tools/args.h"
#include "tools/io.h"
#include "tools/load.h"
#include "tools/progress.h"
#include "tools/signals.h"

namespace tenfold {
namespace {

constexpr std::int64_t kDefaultWindow = 2048;

struct Options {
  CommonOptions common;
  std::string ppl_file;
  std::string reference;  // of --kld
  std::string text_file;  // of --kld
  std::string task_file, shots_file;
  std::int64_t shots = 0, limit = 0;  // limit 0: all
  std::int64_t window = 0;            // 0: min(kDefaultWindow, the model's context)
  std::int64_t windows = 0;           // 0: all
  std::string score = "all";
  std::string bos = "auto";
  bool json = false, per_window = false;
};

bool uses_bos(const Options& options, const Tokenizer& tokenizer) {
  if (options.bos == "no") return false;
  if (options.bos == "auto") return tokenizer.adds_bos && tokenizer.bos.has_value();
  if (!tokenizer.bos) {
    throw_error(ErrorCode::bad_request, "--bos yes: {} has no BOS token", options.common.model);
  }
  return true;
}

struct Text {
  PerplexityOptions windows;
  std::vector<TokenId> ids;
};

Text tokenize(const Options& options, const LoadedModel& loaded, const std::string& text) {
  const Tokenizer& tokenizer = require_tokenizer(loaded, options.common);
  const bool bos = uses_bos(options, tokenizer);
  Text result;
  result.windows.window = options.window > 0
                              ? options.window
                              : std::min(kDefaultWindow, loaded.model->info().max_context);
  result.windows.half = options.score == "half";
  result.windows.max_windows = options.windows;
  result.windows.kv = options.common.kv_or(KvType::f16);
  // llama.cpp, whose protocol `half` is, puts BOS before the text and again at each window.
  if (bos && result.windows.half) result.windows.window_bos = tokenizer.bos;
  EncodeOptions encode;
  encode.parse_special = false;
  result.ids = tokenizer.encode(text, encode);
  if (bos) result.ids.insert(result.ids.begin(), *tokenizer.bos);
  return result;
}

// Shows how far it is, and false when it shall stop.
bool advance(Progress& progress, std::int64_t done, std::int64_t total, const std::string& note) {
  progress.update(static_cast<std::uint64_t>(done), static_cast<std::uint64_t>(total), note);
  return !stop_requested();
}

LoadedModel load_for(const Options& options) {
  return load(options.common, options.window, options.common.kv_or(KvType::f16));
}

int run_perplexity(const Options& options) {
  const std::string text = read_text(options.ppl_file);
  const LoadedModel loaded = load_for(options);
  const auto [windows, ids] = tokenize(options, loaded, text);
  catch_interrupts();
  Progress progress("perplexity", options.common.quiet);
  const PerplexityResult result =
      perplexity(*loaded.model, *loaded.ws, ids, windows,
                 [&](std::int64_t done, std::int64_t total, const PerplexityResult& so_far) {
                   return advance(progress, done, total, fmt::format("ppl {:.3f}", so_far.ppl));
                 });
  if (options.json) {
    nlohmann::ordered_json json = {{"model", options.common.model},
                                   {"file_bytes", loaded.file_bytes},
                                   {"ppl", result.ppl},
                                   {"nll", result.nll},
                                   {"tokens", result.tokens},
                                   {"windows", result.windows},
                                   {"bits_per_weight", loaded.bits_per_weight}};
    if (options.per_window) json["window_nll"] = result.window_nll;
    print(json.dump() + "\n");
  } else {
    print(
        fmt::format("perplexity {:.4f} (nll {:.6f}) over {} tokens in {} windows; {:.2f} bits "
                    "per weight\n",
                    result.ppl, result.nll, result.tokens, result.windows, loaded.bits_per_weight));
  }
  return kExitOk;
}

// The reference runs as precisely as it can: what is measured is the model, its activations and
// its KV cache included.
LoadedModel load_reference(Options options) {
  options.common.model = options.reference;
  options.common.activations = Activations::int8x2;
  return load_for(options);
}

int run_divergence(const Options& options) {
  const std::string text = read_text(options.text_file);
  const LoadedModel loaded = load_for(options);
  const LoadedModel reference = load_reference(options);
  const auto [windows, ids] = tokenize(options, loaded, text);
  catch_interrupts();
  Progress progress("divergence", options.common.quiet);
  const DivergenceResult result =
      divergence({reference.model.get(), reference.ws.get()}, {loaded.model.get(), loaded.ws.get()},
                 ids, windows, [&](std::int64_t done, std::int64_t total, double mean) {
                   return advance(progress, done, total, fmt::format("KL {:.5f}", mean));
                 });
  if (options.json) {
    const nlohmann::ordered_json json = {{"kld", result.mean},
                                         {"median", result.median},
                                         {"p90", result.p90},
                                         {"p99", result.p99},
                                         {"max", result.max},
                                         {"same_top", result.same_top},
                                         {"tokens", result.tokens},
                                         {"windows", result.windows},
                                         {"bits_per_weight", loaded.bits_per_weight}};
    print(json.dump() + "\n");
  } else {
    print(
        fmt::format("KL divergence {:.6f} (median {:.6f}, 90 % {:.6f}, 99 % {:.6f}, max {:.4f}), "
                    "same top token "
                    "{:.2f} %, over {} tokens in {} windows; {:.2f} bits per weight\n",
                    result.mean, result.median, result.p90, result.p99, result.max,
                    100 * result.same_top, result.tokens, result.windows, loaded.bits_per_weight));
  }
  return kExitOk;
}

int run_task(const Options& options) {
  std::vector<ChoiceItem> items = read_choice_items(options.task_file);
  if (options.limit > 0 && static_cast<std::size_t>(options.limit) < items.size()) {
    items.resize(static_cast<std::size_t>(options.limit));
  }
  if (options.shots > 0) {
    add_shots(items, read_choice_items(options.shots_file),
              static_cast<std::size_t>(options.shots));
  }
  const LoadedModel loaded = load_for(options);
  const Tokenizer& tokenizer = require_tokenizer(loaded, options.common);
  catch_interrupts();
  Progress progress("task", options.common.quiet);
  const ChoiceResult result =
      choose(*loaded.model, *loaded.ws, tokenizer, items, options.common.kv_or(KvType::f16),
             [&](std::int64_t done, std::int64_t total, const ChoiceResult& so_far) {
               return advance(progress, done, total, fmt::format("acc {:.2f} %", 100 * so_far.acc));
             });
  if (options.json) {
    const nlohmann::ordered_json json = {{"acc", result.acc},
                                         {"acc_norm", result.acc_norm},
                                         {"items", result.items},
                                         {"shots", options.shots},
                                         {"bits_per_weight", loaded.bits_per_weight}};
    print(json.dump() + "\n");
  } else {
    print(fmt::format("acc {:.2f} %, acc_norm {:.2f} % over {} items; {:.2f} bits per weight\n",
                      100 * result.acc, 100 * result.acc_norm, result.items,
                      loaded.bits_per_weight));
  }
  return kExitOk;
}

int run(const Options& options) {
  if (!options.task_file.empty()) return run_task(options);
  if (!options.reference.empty()) return run_divergence(options);
  return run_perplexity(options);
}

}  // namespace

Command add_eval(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* sub =
      app.add_subcommand("eval", "Measure a model: perplexity, tasks, or divergence from another");
  add_common_options(*sub, options->common, ModelArgument::option);
  CLI::Option* ppl =
      sub->add_option("--ppl", options->ppl_file, "perplexity on a text file; - is standard input")
          ->type_name("FILE");
  CLI::Option* text =
      sub->add_option("--text", options->text_file, "the text of --kld; - is standard input")
          ->type_name("FILE");
  CLI::Option* kld = sub->add_option("--kld", options->reference,
                                     "KL divergence from this model's predictions, same top token")
                         ->type_name("MODEL")
                         ->needs(text)
                         ->excludes(ppl);
  text->needs(kld);
  CLI::Option* task = sub->add_option("--task", options->task_file,
                                      "accuracy on multiple-choice items, a JSON object a line")
                          ->type_name("FILE.jsonl")
                          ->excludes(ppl)
                          ->excludes(kld);
  CLI::Option* shots =
      sub->add_option("--shots", options->shots, "solved examples before each item")
          ->check(in_range(1, 1000))
          ->type_name("N")
          ->needs(task);
  CLI::Option* shots_file = sub->add_option("--shots-file", options->shots_file,
                                            "where they come from: never the scored file")
                                ->type_name("FILE.jsonl");
  shots->needs(shots_file);
  shots_file->needs(shots);
  sub->add_option("--limit", options->limit, "items to score at most; default: all")
      ->check(in_range(1, kMaxCount))
      ->type_name("N")
      ->needs(task);
  sub->parse_complete_callback([options] {
    if (options->ppl_file.empty() && options->reference.empty() && options->task_file.empty())
      throw CLI::RequiredError("--ppl FILE, --task FILE or --kld MODEL with --text FILE");
  });
  sub->add_option("--window", options->window,
                  "tokens a window holds; default: 2048, or the model's context if shorter")
      ->check(in_range(4, kMaxCount))
      ->type_name("W");
  sub->add_option("--score", options->score,
                  "all: every prediction of a window; half: those from W/2 on, as llama.cpp")
      ->check(one_of({"all", "half"}))
      ->type_name("WHICH")
      ->capture_default_str();
  sub->add_option("--windows", options->windows, "windows to score at most; default: all")
      ->check(in_range(1, kMaxCount))
      ->type_name("N");
  sub->add_option("--bos", options->bos, "auto, yes or no: whether BOS precedes the text")
      ->check(one_of({"auto", "yes", "no"}))
      ->type_name("WHEN")
      ->capture_default_str();
  CLI::Option* json = sub->add_flag("--json", options->json, "print one JSON object");
  sub->add_flag("--per-window", options->per_window, "in it, also the loss of each window")
      ->needs(json)
      ->needs(ppl);
  sub->footer("Example:\n  tenfold eval -m MODEL --ppl wiki.test.raw --window 512 --score half");
  return {sub, [options] { return run(*options); }};
}

}  // namespace tenfold
