#pragma once
// From the command line to a model that runs, saying on standard error what was loaded.

#include <memory>

#include "models/decoder.h"
#include "runtime/model_source.h"
#include "runtime/tokenizer.h"
#include "tools/args.h"

namespace tenfold {

struct LoadedModel {
  std::unique_ptr<Workspace> ws;
  std::unique_ptr<Tokenizer> tokenizer;  // null: the model comes without one
  std::unique_ptr<Model> model;
  double bits_per_weight = 0;  // as in the file
  std::uint64_t file_bytes = 0;
};

// context: tokens the KV cache shall hold, for the report of memory; 0: the model's own.
LoadedModel load(const CommonOptions& options, std::int64_t context, KvType kv);

// Throws bad_request where the model has no tokenizer.
const Tokenizer& require_tokenizer(const LoadedModel& loaded, const CommonOptions& options);

// The prompt as ids, BOS by the model's rule.
std::vector<TokenId> encode_prompt(const Tokenizer& tokenizer, std::string_view text);

}  // namespace tenfold
