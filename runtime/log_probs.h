#pragma once
// What a model thought of a token: logarithms of softmax(logits), before any bias, penalty or
// temperature.

#include <span>
#include <utility>
#include <vector>

#include "runtime/tokenizer.h"

namespace tenfold {

struct TokenLogprob {
  TokenId token = 0;
  float logprob = 0;
  std::vector<std::pair<TokenId, float>> top;  // the likeliest, best first; lower ids win ties
};

// logits: [vocab]; token in [0, vocab). top: how many of the likeliest to list.
TokenLogprob log_probability(std::span<const float> logits, TokenId token, int top);

}  // namespace tenfold
