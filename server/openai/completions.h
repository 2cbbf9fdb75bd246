#pragma once
// POST /v1/completions: text, or token ids, continued.

#include <vector>

#include "server/openai/answer_head.h"
#include "server/openai/options.h"
#include "server/openai/writer.h"

namespace tenfold {

struct CompletionRequest {
  AnswerOptions common;
  std::vector<std::vector<TokenId>> prompts;
  std::optional<int> top_logprobs;
  bool echo = false;
  std::shared_ptr<const Grammar> grammar;
};

// Texts are encoded by the tokenizer, with BOS by the model's rule. Throws ApiError (400).
CompletionRequest read_completion(const Json& body, const RequestLimits& limits,
                                  const Tokenizer& tokenizer);

// prompt, a string, a list of strings, a list of ids or a list of such lists, at most so many.
std::vector<std::vector<TokenId>> read_prompts(const Json& prompt, const std::string& where,
                                               std::size_t most, const RequestLimits& limits,
                                               const Tokenizer& tokenizer);

std::unique_ptr<Writer> completion_writer(const CompletionRequest& request, AnswerHead head,
                                          const Tokenizer& tokenizer);

}  // namespace tenfold
