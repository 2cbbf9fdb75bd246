#pragma once
// Logits -> one token. Order: logit bias, repeat/presence/frequency penalties over the last
// `penalty_last` tokens, then temperature 0 = argmax (lowest id wins a tie), else top-k, top-p,
// min-p, temperature, draw. Same seed and logits -> same token on every machine: no
// std::*_distribution (their output is not specified).

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kernels/backend.h"

namespace tenfold {

class TokenConstraint;

struct SamplerOptions {
  float temperature = 0.8f;  // >= 0; 0 is greedy
  int top_k = 40;            // 0: off
  float top_p = 0.95f;       // (0, 1]; 1: off
  float min_p = 0.05f;       // [0, 1); 0: off
  float repeat_penalty =
      1.0f;  // > 0; 1: off. As llama.cpp: divides positive, multiplies negative logits
  float presence_penalty = 0.0f;   // [-2, 2]
  float frequency_penalty = 0.0f;  // [-2, 2]
  int penalty_last = 64;
  std::vector<std::pair<std::int32_t, float>> logit_bias;
  std::uint64_t seed = 0;
};

// Throws bad_request naming the option, its range and the value.
void validate(const SamplerOptions& options, std::int64_t vocab_size);

class Sampler {
 public:
  explicit Sampler(SamplerOptions options);
  // logits: [vocab]; -infinity marks a banned token. NaN logits are an Error (device): the model is
  // broken, not the sampler.
  //
  // With a constraint, only a token it allows: the draw is made as without one, and where it is not
  // allowed, made again from the allowed tokens alone (two numbers of the generator instead of
  // one). Greedily that is the best allowed token. With top-k, top-p and min-p off it is exactly
  // the distribution of the allowed tokens (a refused draw shares its probability out among them);
  // with them, allowed tokens that are among the likeliest of all keep the probability they have
  // there, and what refused ones had goes to the likeliest of the allowed. Throws bad_request where
  // none is left.
  std::int32_t sample(std::span<const float> logits, const TokenConstraint* constraint = nullptr);
  // How many of the best logits are all that a draw without a constraint looks at; 0: the others
  // matter, too, or there are more than kMostTopLogits. And that draw.
  int top_logits(std::int64_t vocab) const;
  std::int32_t sample_top(std::span<const TopLogit> best);
  void accept(std::int32_t token);  // prompt and generated tokens, for the penalties
  void reset_history();

 private:
  bool penalizes() const;
  void apply_bias_and_penalties();
  void select_candidates();
  void keep_probable(double sum);
  std::int32_t choose();
  std::int32_t choose_candidate();
  std::int32_t draw();
  std::uint64_t next_random();

  SamplerOptions options_;
  std::array<std::uint64_t, 4> rng_;
  std::vector<std::int32_t> history_;  // the last penalty_last tokens
  std::vector<float> logits_;          // with bias and penalties
  std::vector<std::pair<float, std::int32_t>> candidates_;
  std::vector<double> weights_;
};

// Finds stop strings in streamed text: text that could begin a stop string is held back.
class StopMatcher {
 public:
  // Empty stop strings are ignored.
  explicit StopMatcher(std::vector<std::string> stops);
  struct Result {
    std::string text;  // safe to show now
    bool stopped;      // a stop string was completed; text ends before it
  };
  Result push(std::string_view piece);
  std::string finish();  // what was held back

 private:
  std::vector<std::string> stops_;
  std::string held_;
};

}  // namespace tenfold
