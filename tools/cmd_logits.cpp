#include <nlohmann/json.hpp>

#include "runtime/files/output_file.h"
#include "tools/args.h"
#include "tools/io.h"
#include "tools/load.h"
#include "tools/progress.h"
#include "tools/signals.h"

namespace tenfold {
namespace {

constexpr std::int64_t kHeadRows = 64;  // rows of logits in memory at a time

struct Options {
  CommonOptions common;
  std::string ids_file, output;
  std::string mode = "whole";
  bool force = false;
};

using IdBatch = std::vector<std::vector<TokenId>>;

// Writes logits as they are computed, in the order of the output: sequence by sequence.
class LogitsFile {
 public:
  LogitsFile(const Options& options, const IdBatch& ids, std::int64_t vocab)
      : file_(options.output, options.force) {
    const std::uint64_t bytes =
        std::uint64_t{4} * ids.size() * ids.front().size() * static_cast<std::uint64_t>(vocab);
    const nlohmann::json header = {{"logits",
                                    {{"dtype", "F32"},
                                     {"shape", {ids.size(), ids.front().size(), vocab}},
                                     {"data_offsets", {0, bytes}}}}};
    std::string text = header.dump();
    text.resize((text.size() + 7) / 8 * 8, ' ');
    const std::uint64_t length = text.size();
    file_.write(std::as_bytes(std::span(&length, 1)));
    file_.write(text);
  }
  void write(std::span<const float> logits) { file_.write(std::as_bytes(logits)); }
  void commit() { file_.commit(); }

 private:
  OutputFile file_;
};

// Runs the step and writes the logits of all its tokens.
void run_step(const LoadedModel& loaded, Batch& batch, KvCache& kv, LogitsFile& out) {
  if (stop_requested()) throw_error(ErrorCode::cancelled, "interrupted");
  const Model& model = *loaded.model;
  const auto vocab = static_cast<std::size_t>(model.info().vocab);
  forward(model, batch, kv, *loaded.ws);
  for (std::int64_t begin = 0; begin < batch.size(); begin += kHeadRows) {
    const std::int64_t end = std::min(batch.size(), begin + kHeadRows);
    batch.logit_rows.clear();
    for (std::int64_t row = begin; row < end; ++row) {
      batch.logit_rows.push_back(static_cast<std::int32_t>(row));
    }
    run_head(model, batch, *loaded.ws);
    out.write(loaded.ws->logits_on_host(batch.logit_rows.size() * vocab));
  }
  batch.clear();
}

void run_batch(const LoadedModel& loaded, const IdBatch& ids, KvType type, LogitsFile& out) {
  const auto pages =
      static_cast<std::int64_t>((ids.front().size() + kPageTokens - 1) / kPageTokens);
  const auto n_sequences = static_cast<std::int32_t>(ids.size());
  KvCache kv(kv_shape(loaded.model->info(), type), n_sequences * pages * kPageTokens, n_sequences,
             *loaded.ws->backend);
  Batch batch;
  for (std::int32_t s = 0; s < n_sequences; ++s) {
    std::int32_t position = 0;
    for (const TokenId id : ids[static_cast<std::size_t>(s)]) batch.add(id, position++, s);
  }
  run_step(loaded, batch, kv, out);
}

void run_sequences(const LoadedModel& loaded, const IdBatch& ids, KvType type, bool by_token,
                   bool quiet, LogitsFile& out) {
  KvCache kv(kv_shape(loaded.model->info(), type), static_cast<std::int64_t>(ids.front().size()), 1,
             *loaded.ws->backend);
  Batch batch;
  Progress progress("logits", quiet);
  for (std::size_t s = 0; s < ids.size(); ++s) {
    kv.resize(0, 0);
    std::int32_t position = 0;
    for (const TokenId id : ids[s]) {
      batch.add(id, position++, 0);
      if (by_token) run_step(loaded, batch, kv, out);
    }
    if (!by_token) run_step(loaded, batch, kv, out);
    progress.update(s + 1, ids.size());
  }
}

int run(const Options& options) {
  const IdBatch ids = read_id_batch(options.ids_file);
  const KvType kv = options.common.kv_or(KvType::f32);
  const auto length = static_cast<std::int64_t>(ids.front().size());
  const LoadedModel loaded = load(options.common, length, kv);
  const ModelInfo& info = loaded.model->info();
  if (length > info.max_context) {
    throw_error(ErrorCode::bad_request,
                "{}: the rows have {} tokens, but the model's context is {}", options.ids_file,
                length, info.max_context);
  }
  catch_interrupts();
  catch_termination();
  LogitsFile out(options, ids, info.vocab);
  if (options.mode == "batch") {
    run_batch(loaded, ids, kv, out);
  } else {
    run_sequences(loaded, ids, kv, options.mode == "token", options.common.quiet, out);
  }
  out.commit();
  return kExitOk;
}

}  // namespace

Command add_logits(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* sub = app.add_subcommand("logits", "Write the logits of given token ids to a file");
  add_common_options(*sub, options->common, ModelArgument::option);
  sub->add_option("--ids", options->ids_file, "JSON: an array of equally long arrays of token ids")
      ->type_name("FILE")
      ->required();
  sub->add_option("-o,--output", options->output, "safetensors: logits F32 [batch, time, vocab]")
      ->type_name("OUT")
      ->required();
  sub->add_option("--mode", options->mode,
                  "feed each row whole, token by token, or all rows in one batch; the result is "
                  "the same")
      ->check(one_of({"whole", "token", "batch"}))
      ->type_name("MODE")
      ->capture_default_str();
  sub->add_flag("--force", options->force, "replace OUT if it exists");
  sub->footer(
      "The KV cache is f32 here unless --kv says otherwise.\n"
      "Example:\n  tenfold logits -m MODEL --ids ids.json -o logits.safetensors");
  return {sub, [options] { return run(*options); }};
}

}  // namespace tenfold
