#include <fmt/format.h>

#include <charconv>
#include <nlohmann/json.hpp>

#include "tools/args.h"
#include "tools/io.h"
#include "tools/load.h"

namespace tenfold {
namespace {

struct Options {
  CommonOptions common;
  std::string text, file, ids;
  bool json = false;
  bool no_special = false;
};

// "1 2 3", "1,2,3" or "[1, 2, 3]".
std::vector<TokenId> parse_ids(const std::string& text) {
  std::vector<TokenId> ids;
  const char* at = text.data();
  const char* end = at + text.size();
  while (at != end) {
    if (std::string_view(" ,[]\t\n").find(*at) != std::string_view::npos) {
      ++at;
      continue;
    }
    TokenId id = 0;
    const auto [next, error] = std::from_chars(at, end, id);
    if (error != std::errc{} || id < 0) {
      throw_error(ErrorCode::bad_request, "--decode expects token ids such as 1,2,3, found {}",
                  std::string_view(at, static_cast<std::size_t>(end - at)).substr(0, 40));
    }
    ids.push_back(id);
    at = next;
  }
  return ids;
}

void check_ids(std::span<const TokenId> ids, const Tokenizer& tokenizer) {
  for (const TokenId id : ids) {
    if (id < tokenizer.vocab_size) continue;
    throw_error(ErrorCode::bad_request, "token id {} is outside the vocabulary of {}", id,
                tokenizer.vocab_size);
  }
}

int run(const Options& options, bool has_text, bool has_ids) {
  const bool has_file = !options.file.empty();
  if (has_text + has_ids + has_file != 1) {
    throw_error(ErrorCode::bad_request, "tokenize takes one of TEXT, -f FILE and --decode IDS");
  }
  const ModelSource source(options.common.model, false);
  const std::unique_ptr<Tokenizer> tokenizer = load_tokenizer(source);
  if (tokenizer == nullptr) {
    throw_file_error(options.common.model, "the model has no tokenizer files");
  }
  if (has_ids) {
    const std::vector<TokenId> ids = parse_ids(options.ids);
    check_ids(ids, *tokenizer);
    const std::string text = tokenizer->decode(ids, true);
    if (!options.json) {
      print_model_text(text + "\n");
      return kExitOk;
    }
    const nlohmann::json json = text;
    print(json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
    return kExitOk;
  }
  if (has_text) check_utf8(options.text, "TEXT", ErrorCode::bad_request);
  EncodeOptions encode;
  encode.add_bos = tokenizer->adds_bos && !options.no_special;
  const std::vector<TokenId> ids =
      tokenizer->encode(has_file ? read_text(options.file) : options.text, encode);
  print(fmt::format(
      "{}\n", options.json ? nlohmann::json(ids).dump() : fmt::format("{}", fmt::join(ids, " "))));
  return kExitOk;
}

}  // namespace

Command add_tokenize(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* sub = app.add_subcommand("tokenize", "Text to token ids and back");
  add_common_options(*sub, options->common, ModelArgument::option);
  CLI::Option* text = sub->add_option("TEXT", options->text, "the text");
  sub->add_option("-f,--file", options->file, "a file with the text; - is standard input")
      ->type_name("FILE");
  CLI::Option* ids =
      sub->add_option("--decode", options->ids, "token ids to turn into text")->type_name("IDS");
  sub->add_flag("--no-special", options->no_special, "add no BOS token");
  sub->add_flag("--json", options->json, "print JSON: an array of ids, or a string");
  sub->footer(
      "Only config.json and the tokenizer files are needed, no weights. The text of special\n"
      "tokens (\"<|im_end|>\") becomes their ids.\n"
      "Examples:\n  tenfold tokenize -m MODEL --json 'Hello, world'\n"
      "  tenfold tokenize -m MODEL --decode 1,2,3");
  return {sub, [options, text, ids] { return run(*options, text->count() > 0, ids->count() > 0); }};
}

}  // namespace tenfold
