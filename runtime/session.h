#pragma once
// One conversation on one KV cache sequence: append tokens, get the logits of the last one, go back
// to any earlier point. And the loop that turns logits into streamed text.

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "runtime/generation.h"
#include "runtime/model.h"
#include "runtime/tokenizer.h"

namespace tenfold {

inline constexpr std::int64_t kPrefillChunk = 512;  // tokens a step processes at once

class Session {
 public:
  // The model, cache and workspace outlive the session. context: 0 means the model's own.
  Session(const Model& model, Workspace& ws, std::int64_t context, KvType kv);

  // Runs the tokens and returns the logits [vocab] of the last one, valid until the next call.
  // Throws bad_request, naming both lengths, where they do not fit in the context; cancelled where
  // should_stop() turns true between chunks (what was run stays).
  std::span<const float> append(std::span<const TokenId> tokens,
                                const std::function<bool()>& should_stop = {});
  // Makes the session hold exactly `tokens`, reusing the longest common prefix already run; at
  // least the last token is run, so logits are always returned.
  std::span<const float> set(std::span<const TokenId> tokens,
                             const std::function<bool()>& should_stop = {});

  // Likewise, but the logits stay where they are.
  void run(std::span<const TokenId> tokens, const std::function<bool()>& should_stop = {});
  void run_to(std::span<const TokenId> tokens, const std::function<bool()>& should_stop = {});
  // Of the last token that was run, until another is: all [vocab], or the k best, as
  // Workspace::top_logits() has them.
  std::span<const float> logits();
  std::span<const TopLogit> top_logits(int k);

  // How many of `tokens` set() would not run again: the common prefix, less than all of them.
  std::int64_t shared_prefix(std::span<const TokenId> tokens) const noexcept;

  const std::vector<TokenId>& tokens() const noexcept { return tokens_; }
  std::int64_t context() const noexcept { return context_; }
  std::int64_t vocab() const noexcept { return model_->info().vocab; }
  std::int64_t room() const noexcept {
    return context_ - static_cast<std::int64_t>(tokens_.size());
  }

 private:
  const Model* model_;
  Workspace* ws_;
  std::int64_t context_;
  KvCache kv_;
  Batch batch_;
  std::vector<TokenId> tokens_;
};

struct GenerateResult {
  std::string text;             // empty without a tokenizer
  std::vector<TokenId> tokens;  // the end-of-generation token not included
  FinishReason finish = FinishReason::stop;
  std::int64_t prompt_tokens = 0, reused_tokens = 0;
  double prompt_seconds = 0, generate_seconds = 0;
};

struct GenerateCallbacks {
  std::function<void(std::string_view text)> on_text;  // whole UTF-8 characters
  std::function<bool()> should_stop;                   // true: finish as cancelled
};

// prompt: everything the session shall hold before the first new token. tokenizer may be null
// (ids only, no grammar). Ends at an end-of-generation token, a stop string, where the grammar's
// text is complete and cannot go on (all of these are FinishReason::stop), at max_tokens or a full
// context; after the latter two a text may be an incomplete one of the grammar.
GenerateResult generate(Session& session, const Tokenizer* tokenizer,
                        std::span<const TokenId> prompt, const GenerateOptions& options,
                        const GenerateCallbacks& callbacks);

}  // namespace tenfold
