#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "tools/args.h"
#include "tools/io.h"
#include "tools/load.h"
#include "tools/signals.h"

namespace tenfold {
namespace {

struct Options {
  CommonOptions common;
  SamplingOptions sampling;
  std::string prompt, prompt_file, ids_file;
  bool has_prompt = false;
  std::int64_t context = 0;
  bool json = false;
};

std::vector<TokenId> prompt_ids(const Options& options, const LoadedModel& loaded,
                                const std::string& text) {
  std::vector<TokenId> ids = options.ids_file.empty()
                                 ? encode_prompt(require_tokenizer(loaded, options.common), text)
                                 : read_ids(options.ids_file);
  if (ids.empty()) throw_error(ErrorCode::bad_request, "the prompt is empty");
  return ids;
}

std::string ids_text(std::span<const TokenId> ids) {
  return fmt::format("{}", fmt::join(ids, " "));
}

nlohmann::ordered_json report(const GenerateResult& result) {
  const auto generated = static_cast<std::int64_t>(result.tokens.size());
  nlohmann::ordered_json json;
  json["text"] = result.text;
  json["tokens"] = result.tokens;
  json["finish_reason"] = to_string(result.finish);
  json["timings"] = {{"prompt_tokens", result.prompt_tokens},
                     {"prompt_tok_s", per_second(result.prompt_tokens, result.prompt_seconds)},
                     {"generated_tokens", generated},
                     {"generate_tok_s", per_second(generated, result.generate_seconds)}};
  return json;
}

void note_speed(const GenerateResult& result) {
  const auto generated = static_cast<std::int64_t>(result.tokens.size());
  note(fmt::format(
      "Prompt: {} tokens, {:.1f} tokens/s. Generated: {} tokens, {:.1f} tokens/s. "
      "Ended: {}.",
      result.prompt_tokens, per_second(result.prompt_tokens, result.prompt_seconds), generated,
      per_second(generated, result.generate_seconds), to_string(result.finish)));
}

int run(const Options& options) {
  if (options.has_prompt + !options.prompt_file.empty() + !options.ids_file.empty() != 1) {
    throw_error(ErrorCode::bad_request, "generate takes one of --prompt, --file and --ids");
  }
  GenerateOptions generation = options.sampling.resolve();
  std::string text;
  if (!options.prompt_file.empty()) text = read_text(options.prompt_file);
  if (options.has_prompt) {
    check_utf8(options.prompt, "the prompt (-p)", ErrorCode::bad_request);
    text = options.prompt;
  }
  const KvType kv = options.common.kv_or(KvType::f16);
  const LoadedModel loaded = load(options.common, options.context, kv);
  validate(generation.sampler, loaded.model->info().vocab);
  const std::vector<TokenId> prompt = prompt_ids(options, loaded, text);
  Session session(*loaded.model, *loaded.ws, options.context, kv);
  if (!options.common.quiet && options.common.verbose) {
    note(fmt::format("Seed: {}.", generation.sampler.seed));
  }
  catch_interrupts();
  GenerateCallbacks callbacks;
  callbacks.should_stop = [] { return stop_requested(); };
  if (!options.json) callbacks.on_text = print_model_text;
  const GenerateResult result =
      generate(session, loaded.tokenizer.get(), prompt, generation, callbacks);
  if (options.json) {
    print(report(result).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
  } else {
    print(loaded.tokenizer == nullptr ? ids_text(result.tokens) + "\n" : "\n");
    if (!options.common.quiet) note_speed(result);
  }
  return result.finish == FinishReason::cancelled ? kExitInterrupted : kExitOk;
}

}  // namespace

Command add_generate(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* sub = app.add_subcommand("generate", "Continue a text");
  add_common_options(*sub, options->common, ModelArgument::option);
  constexpr const char* kSource = "Prompt (one of these)";
  CLI::Option* prompt = sub->add_option("-p,--prompt", options->prompt, "the text to continue")
                            ->type_name("TEXT")
                            ->group(kSource);
  sub->add_option("-f,--file", options->prompt_file, "a file with the text; - is standard input")
      ->type_name("FILE")
      ->group(kSource);
  sub->add_option("--ids", options->ids_file, "a JSON array of token ids")
      ->type_name("FILE")
      ->group(kSource);
  sub->add_option("-n,--n-predict", options->sampling.generate.max_tokens,
                  "tokens to generate at most")
      ->check(in_range(1, kMaxCount))
      ->type_name("N")
      ->capture_default_str();
  sub->add_option("-c,--ctx-size", options->context, "context in tokens; default: the model's")
      ->check(in_range(1, kMaxCount))
      ->type_name("CTX");
  sub->add_flag("--json", options->json, "print one JSON object instead of the text");
  add_sampling_options(*sub, options->sampling);
  sub->footer("Example:\n  tenfold generate -m MODEL -p 'Once upon a time' -n 64 --temp 0");
  return {sub, [options, prompt] {
            options->has_prompt = prompt->count() > 0;
            return run(*options);
          }};
}

}  // namespace tenfold
