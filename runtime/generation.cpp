#include "runtime/generation.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "kernels/error.h"

namespace tenfold {
namespace {

void append(GenerationEvent& event, Answer::Part part) {
  event.text += part.text;
  std::move(part.tokens.begin(), part.tokens.end(), std::back_inserter(event.tokens));
}

std::optional<TokenConstraint> constraint_of(const GenerateOptions& options,
                                             const Tokenizer* tokenizer) {
  if (options.grammar == nullptr) return std::nullopt;
  if (tokenizer == nullptr) {
    throw_error(ErrorCode::bad_request, "a grammar needs a tokenizer, but the model has none");
  }
  auto pieces = options.pieces != nullptr ? options.pieces
                                          : std::make_shared<const VocabularyPieces>(*tokenizer);
  return TokenConstraint(options.grammar, std::move(pieces));
}

}  // namespace

const char* to_string(FinishReason reason) noexcept {
  switch (reason) {
    case FinishReason::stop:
      return "stop";
    case FinishReason::length:
      return "length";
    case FinishReason::context:
      return "context";
    case FinishReason::cancelled:
      return "cancelled";
  }
  return "";
}

GenerationFailure failure_of(const std::exception& error) {
  const auto* ours = dynamic_cast<const Error*>(&error);
  return {error.what(), ours != nullptr && ours->code() == ErrorCode::bad_request};
}

Generation::Generation(GenerationRequest request, const Tokenizer* tokenizer)
    : request_(std::move(request)),
      tokenizer_(tokenizer),
      tokens_(request_.prompt),
      sampler_(request_.options.sampler),
      constraint_(constraint_of(request_.options, tokenizer)) {
  for (const TokenId token : tokens_) sampler_.accept(token);
  if (tokenizer != nullptr) answer_.emplace(*tokenizer, request_.options.stops);
  usage_.prompt_tokens = static_cast<std::int64_t>(tokens_.size());
}

bool Generation::scores_prompt() const noexcept {
  return request_.prompt_logprobs && scored_ + 1 < usage_.prompt_tokens;
}

void Generation::score_prompt(std::int64_t i, std::span<const float> logits,
                              GenerationEvent& event) {
  if (i < scored_ || i + 1 >= usage_.prompt_tokens) return;
  const TokenId next = tokens_[static_cast<std::size_t>(i + 1)];
  event.prompt_tokens.push_back(log_probability(logits, next, request_.top_logprobs.value_or(0)));
  scored_ = i + 1;
}

GenerationEvent Generation::ended(GenerationEvent event, FinishReason reason) {
  if (answer_) append(event, answer_->finish());
  event.finish = reason;
  return event;
}

bool Generation::ends(TokenId token) const {
  return tokenizer_ != nullptr && (constraint_ || !request_.options.ignore_eos) &&
         std::ranges::count(tokenizer_->end_of_generation, token) != 0;
}

int Generation::top_logits(std::int64_t vocab) const {
  const bool all = constraint_ || request_.top_logprobs || scores_prompt();
  return all ? 0 : sampler_.top_logits(vocab);
}

GenerationEvent Generation::next(std::span<const float> logits, bool room) {
  const auto choose = [&] {
    Choice choice{sampler_.sample(logits, constraint_ ? &*constraint_ : nullptr), {}};
    const auto& top = request_.top_logprobs;
    if (top) choice.record = log_probability(logits, choice.token, *top);
    return choice;
  };
  return next_of(choose, room);
}

GenerationEvent Generation::next(std::span<const TopLogit> best, bool room) {
  return next_of([&] { return Choice{sampler_.sample_top(best), {}}; }, room);
}

template <typename Choose>
GenerationEvent Generation::next_of(const Choose& choose, bool room) {
  GenerationEvent event;
  const auto complete = [&] { return constraint_ && constraint_->finished(); };
  const auto full = [&] { return usage_.generated_tokens >= request_.options.max_tokens; };
  if (complete()) return ended(std::move(event), FinishReason::stop);
  if (full()) return ended(std::move(event), FinishReason::length);
  auto [token, record] = choose();
  if (ends(token)) {
    event = ended(std::move(event), FinishReason::stop);
    if (record) event.tokens.push_back(std::move(*record));
    return event;
  }
  sampler_.accept(token);
  if (constraint_) constraint_->accept(token);
  tokens_.push_back(token);
  ++usage_.generated_tokens;
  if (answer_) {
    Answer::Part part = answer_->push(token, record ? &*record : nullptr);
    const bool stopped = part.stopped;
    append(event, std::move(part));
    if (stopped) {
      event.finish = FinishReason::stop;
      return event;
    }
  }
  if (complete()) return ended(std::move(event), FinishReason::stop);
  if (full()) return ended(std::move(event), FinishReason::length);
  if (!room) return ended(std::move(event), FinishReason::context);
  return event;
}

}  // namespace tenfold
