#pragma once
// What chat and text completions have in common: how tokens are drawn, how many answers there are
// and how they come.

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "runtime/session.h"
#include "server/openai/fields.h"

namespace tenfold {

// What a server lets a request ask for, and what it gives where a request does not say.
struct RequestLimits {
  GenerateOptions defaults;  // sampling; max_tokens: none but the context
  std::int64_t vocab = 0;
  std::int64_t most_choices = 16;   // n
  std::int64_t most_prompts = 128;  // of one request, times n
  std::size_t most_stops = 16;
  std::size_t most_stop_bytes = 256;
  int most_top_logprobs = 20;
  std::size_t most_text_bytes = std::size_t{1} << 20;  // longer texts cannot fit in the context
  std::int64_t most_logprobs = std::int64_t{1} << 18;  // of the prompts of one request
};

struct AnswerOptions {
  GenerateOptions generate;
  std::int64_t choices = 1;
  bool stream = false;
  bool include_usage = false;
  std::optional<std::string> model;
};

// Reads temperature, top_p, top_k, min_p, penalties, seed, stop, logit_bias, max_tokens, n, stream,
// stream_options, ignore_eos, model and fields that change nothing; throws ApiError (400).
AnswerOptions read_common(Fields& fields, const RequestLimits& limits);

// Refuses a text that cannot fit in the context, before it is encoded.
void check_text(std::size_t bytes, std::size_t most, const std::string& param);

// response_format (or, of the Responses API, text.format), llama.cpp's json_schema and grammar: the
// grammar of the answer; null where it is free. At most one may be given.
std::shared_ptr<const Grammar> read_grammar(Fields& fields);
std::shared_ptr<const Grammar> read_format(const Json& format, const std::string& where);

}  // namespace tenfold
