#include "runtime/session.h"

#include <algorithm>
#include <chrono>

#include "kernels/error.h"
#include "runtime/context.h"

namespace tenfold {
namespace {

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

Session::Session(const Model& model, Workspace& ws, std::int64_t context, KvType kv)
    : model_(&model),
      ws_(&ws),
      context_(checked_context(model.info(), context)),
      kv_(kv_shape(model.info(), kv), context_, 1, *ws.backend) {}

std::span<const float> Session::append(std::span<const TokenId> tokens,
                                       const std::function<bool()>& should_stop) {
  run(tokens, should_stop);
  return logits();
}

std::span<const float> Session::set(std::span<const TokenId> tokens,
                                    const std::function<bool()>& should_stop) {
  run_to(tokens, should_stop);
  return logits();
}

std::span<const float> Session::logits() {
  return ws_->logits_on_host(static_cast<std::size_t>(vocab()));
}

std::span<const TopLogit> Session::top_logits(int k) { return ws_->top_logits(1, vocab(), k); }

void Session::run(std::span<const TokenId> tokens, const std::function<bool()>& should_stop) {
  const auto n = static_cast<std::int64_t>(tokens.size());
  if (n == 0) throw_error(ErrorCode::bad_request, "there are no tokens to run");
  if (n > room()) {
    throw_error(ErrorCode::bad_request, "{} tokens do not fit in the context of {} ({} are in use)",
                n, context_, tokens_.size());
  }
  for (std::int64_t begin = 0; begin < n; begin += kPrefillChunk) {
    if (should_stop && should_stop()) throw_error(ErrorCode::cancelled, "interrupted");
    const std::int64_t end = std::min(n, begin + kPrefillChunk);
    batch_.clear();
    for (std::int64_t i = begin; i < end; ++i) {
      const auto position =
          static_cast<std::int32_t>(tokens_.size()) + static_cast<std::int32_t>(i - begin);
      batch_.add(tokens[static_cast<std::size_t>(i)], position, 0);
    }
    if (end == n) batch_.logit_rows.push_back(static_cast<std::int32_t>(end - begin - 1));
    forward(*model_, batch_, kv_, *ws_);
    tokens_.insert(tokens_.end(), batch_.tokens.begin(), batch_.tokens.end());
  }
}

void Session::run_to(std::span<const TokenId> tokens, const std::function<bool()>& should_stop) {
  if (static_cast<std::int64_t>(tokens.size()) > context_) {
    throw_error(ErrorCode::bad_request, "the prompt has {} tokens, but the context is {}",
                tokens.size(), context_);
  }
  const auto common = static_cast<std::size_t>(shared_prefix(tokens));
  tokens_.resize(common);
  kv_.resize(0, static_cast<std::int64_t>(common));
  run(tokens.subspan(common), should_stop);
}

std::int64_t Session::shared_prefix(std::span<const TokenId> tokens) const noexcept {
  const std::size_t limit = std::min(tokens.size(), tokens_.size());
  std::size_t common = 0;
  while (common < limit && tokens[common] == tokens_[common]) ++common;
  if (common == tokens.size() && common > 0) --common;
  return static_cast<std::int64_t>(common);
}

GenerateResult generate(Session& session, const Tokenizer* tokenizer,
                        std::span<const TokenId> prompt, const GenerateOptions& options,
                        const GenerateCallbacks& callbacks) {
  GenerateResult result;
  Generation generation({{prompt.begin(), prompt.end()}, options, {}, false}, tokenizer);
  const auto start = std::chrono::steady_clock::now();
  result.reused_tokens = session.shared_prefix(prompt);
  std::span<const TopLogit> best;
  std::span<const float> logits;
  const auto look = [&] {
    best = session.top_logits(generation.top_logits(session.vocab()));
    if (best.empty()) logits = session.logits();
  };
  const auto next = [&] {
    const bool room = session.room() > 0;
    return best.empty() ? generation.next(logits, room) : generation.next(best, room);
  };
  session.run_to(prompt, callbacks.should_stop);
  look();
  result.prompt_tokens = static_cast<std::int64_t>(prompt.size());
  result.prompt_seconds = seconds_since(start);
  const auto generate_start = std::chrono::steady_clock::now();
  const auto take = [&](const GenerationEvent& event) {
    result.text += event.text;
    if (!event.text.empty() && callbacks.on_text) callbacks.on_text(event.text);
    if (event.finish) result.finish = *event.finish;
    return event.finish.has_value();
  };
  while (!take(next())) {
    if (callbacks.should_stop && callbacks.should_stop()) {
      take(generation.end(FinishReason::cancelled));
      break;
    }
    session.run({&generation.tokens().back(), 1});
    look();
  }
  result.tokens.assign(generation.tokens().begin() + static_cast<std::ptrdiff_t>(prompt.size()),
                       generation.tokens().end());
  result.generate_seconds = seconds_since(generate_start);
  return result;
}

}  // namespace tenfold
