#pragma once
// One generation: what is asked, what has been said so far, and how logits become the next thing
// said. Who runs the model, alone or among others, is not its concern.

#include <cstdint>
#include <exception>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "runtime/answer.h"
#include "runtime/grammar/grammar.h"
#include "runtime/grammar/token_constraint.h"
#include "runtime/grammar/vocabulary_pieces.h"
#include "runtime/log_probs.h"
#include "runtime/sampler.h"
#include "runtime/tokenizer.h"

namespace tenfold {

struct GenerateOptions {
  SamplerOptions sampler;
  std::int64_t max_tokens = 128;
  std::vector<std::string> stops;
  bool ignore_eos = false;
  // The text must be one of the grammar's (null: any), and beats ignore_eos. `pieces` are those of
  // the tokenizer, for callers that generate often; null: made anew.
  std::shared_ptr<const Grammar> grammar;
  std::shared_ptr<const VocabularyPieces> pieces;
};

enum class FinishReason { stop, length, context, cancelled };
const char* to_string(FinishReason reason) noexcept;

struct GenerationRequest {
  std::vector<TokenId> prompt;  // not empty
  GenerateOptions options;
  std::optional<int> top_logprobs;  // with records of the tokens, and so many of the likeliest
  bool prompt_logprobs = false;     // records of the prompt's tokens too; they are all run then
};

struct GenerationUsage {
  std::int64_t prompt_tokens = 0, cached_tokens = 0, generated_tokens = 0;
};

// An answer that failed: by what was asked (a grammar beyond its limits, no token left to draw) or
// by the machine or model.
struct GenerationFailure {
  std::string message;
  bool by_request = false;
};

struct GenerationEvent {
  std::string text;                         // whole UTF-8 characters, may be empty
  std::vector<TokenLogprob> tokens;         // see Answer
  std::vector<TokenLogprob> prompt_tokens;  // in order, in pieces; the first token has none
  std::vector<float> embedding;             // with the end
  std::optional<FinishReason> finish;       // the last event
  std::optional<GenerationFailure> error;   // the last event
  GenerationUsage usage;                    // so far
};

GenerationFailure failure_of(const std::exception& error);

class Generation {
 public:
  // The tokenizer outlives it; null: ids only, no text, no grammar (bad_request).
  Generation(GenerationRequest request, const Tokenizer* tokenizer);

  const GenerationRequest& request() const noexcept { return request_; }
  const std::vector<TokenId>& tokens() const noexcept { return tokens_; }  // prompt and answer
  GenerationUsage& usage() noexcept { return usage_; }

  // Whether logits of the prompt's tokens are still wanted, and taking those [vocab] after token i.
  bool scores_prompt() const noexcept;
  void score_prompt(std::int64_t i, std::span<const float> logits, GenerationEvent& event);

  // How many of the best logits are all that next() looks at; 0: it wants them all.
  int top_logits(std::int64_t vocab) const;

  // The token after the last one. room: whether the token itself can be run. Ends at an
  // end-of-generation token, a stop string, where the grammar's text is complete and cannot go on
  // (all of these are FinishReason::stop), at max_tokens or without room; after the latter two a
  // text may be an incomplete one of the grammar. Throws as Sampler::sample() does.
  GenerationEvent next(std::span<const float> logits, bool room);
  // Of the top_logits() best.
  GenerationEvent next(std::span<const TopLogit> best, bool room);
  // Ends it here, with the text that was held back.
  GenerationEvent end(FinishReason reason) { return ended({}, reason); }

 private:
  struct Choice {
    TokenId token;
    std::optional<TokenLogprob> record;
  };
  template <typename Choose>
  GenerationEvent next_of(const Choose& choose, bool room);
  GenerationEvent ended(GenerationEvent event, FinishReason reason);
  bool ends(TokenId token) const;

  GenerationRequest request_;
  const Tokenizer* tokenizer_;
  std::vector<TokenId> tokens_;
  Sampler sampler_;
  std::optional<Answer> answer_;
  std::optional<TokenConstraint> constraint_;
  GenerationUsage usage_;
  std::int64_t scored_ = 0;  // tokens of the prompt whose followers have their records
};

}  // namespace tenfold
