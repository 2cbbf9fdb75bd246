#pragma once
// Records of tokens in the two shapes of OpenAI's API.

#include <span>

#include "runtime/log_probs.h"
#include "runtime/tokenizer.h"
#include "server/openai/fields.h"

namespace tenfold {

// Chat: {"token","logprob","bytes","top_logprobs":[{"token","logprob","bytes"}]}.
Json chat_logprob(const TokenLogprob& record, const Tokenizer& tokenizer);

// Text completions: {"tokens","token_logprobs","top_logprobs","text_offset"}, grown token by token.
class LegacyLogprobs {
 public:
  // top: whether top_logprobs has entries.
  LegacyLogprobs(const Tokenizer& tokenizer, bool top) : tokenizer_(&tokenizer), top_(top) {}
  void add_first(TokenId token);  // of a prompt: nothing comes before it, so it has no logprob
  void add(const TokenLogprob& record);
  Json take();  // those added since the last time

 private:
  std::string append(TokenId token);

  const Tokenizer* tokenizer_;
  bool top_;
  std::int64_t offset_ = 0;  // in characters
  Json tokens_ = Json::array(), logprobs_ = Json::array(), tops_ = Json::array(),
       offsets_ = Json::array();
};

}  // namespace tenfold
