#include <nlohmann/json.hpp>

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
  std::string text_file;
  std::int64_t window = 0;   // 0: min(kDefaultWindow, the model's context)
  std::int64_t windows = 0;  // 0: all
  std::string score = "all";
  std::string bos = "auto";
  bool json = false;
};

bool uses_bos(const Options& options, const Tokenizer& tokenizer) {
  if (options.bos == "no") return false;
  if (options.bos == "auto") return tokenizer.adds_bos && tokenizer.bos.has_value();
  if (!tokenizer.bos) {
    throw_error(ErrorCode::bad_request, "--bos yes: {} has no BOS token", options.common.model);
  }
  return true;
}

PerplexityResult measure_perplexity(const Options& options, const LoadedModel& loaded,
                                    const std::string& text) {
  const Tokenizer& tokenizer = require_tokenizer(loaded, options.common);
  const bool bos = uses_bos(options, tokenizer);
  PerplexityOptions ppl;
  ppl.window = options.window > 0 ? options.window
                                  : std::min(kDefaultWindow, loaded.model->info().max_context);
  ppl.half = options.score == "half";
  ppl.max_windows = options.windows;
  ppl.kv = options.common.kv_or(KvType::f16);
  // llama.cpp, whose protocol `half` is, puts BOS before the text and again at each window.
  if (bos && ppl.half) ppl.window_bos = tokenizer.bos;
  EncodeOptions encode;
  encode.parse_special = false;
  std::vector<TokenId> ids = tokenizer.encode(text, encode);
  if (bos) ids.insert(ids.begin(), *tokenizer.bos);
  catch_interrupts();
  Progress progress("perplexity", options.common.quiet);
  return perplexity(*loaded.model, *loaded.ws, ids, ppl,
                    [&](std::int64_t done, std::int64_t total, const PerplexityResult& so_far) {
                      progress.update(static_cast<std::uint64_t>(done),
                                      static_cast<std::uint64_t>(total),
                                      fmt::format("ppl {:.3f}", so_far.ppl));
                      return !stop_requested();
                    });
}

int run(const Options& options) {
  const std::string text = read_text(options.text_file);
  const LoadedModel loaded =
      load(options.common, options.window, options.common.kv_or(KvType::f16));
  const PerplexityResult result = measure_perplexity(options, loaded, text);
  if (options.json) {
    const nlohmann::ordered_json json = {{"ppl", result.ppl},
                                         {"nll", result.nll},
                                         {"tokens", result.tokens},
                                         {"windows", result.windows},
                                         {"bits_per_weight", loaded.bits_per_weight}};
    print(json.dump() + "\n");
  } else {
    print(
        fmt::format("perplexity {:.4f} (nll {:.6f}) over {} tokens in {} windows; {:.2f} bits "
                    "per weight\n",
                    result.ppl, result.nll, result.tokens, result.windows, loaded.bits_per_weight));
  }
  return kExitOk;
}

}  // namespace

Command add_eval(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* sub = app.add_subcommand("eval", "Measure a model's perplexity on a text");
  add_common_options(*sub, options->common, ModelArgument::option);
  sub->add_option("--ppl", options->text_file, "text file; - is standard input")
      ->type_name("FILE")
      ->required();
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
  sub->add_flag("--json", options->json, "print one JSON object");
  sub->footer("Example:\n  tenfold eval -m MODEL --ppl wiki.test.raw --window 512 --score half");
  return {sub, [options] { return run(*options); }};
}

}  // namespace tenfold
