#include "runtime/scheduler.h"

#include <algorithm>
#include <iterator>
#include <numeric>
#include <utility>

#include "kernels/error.h"
#include "runtime/context.h"

namespace tenfold {
namespace {

constexpr std::int64_t kMostPromptTokens = 512;  // in a step
constexpr std::int64_t kLeastPromptTokens = 32;
constexpr std::int64_t kScoredTokens = 64;  // whose logits are all kept: 64 rows of the vocabulary
constexpr std::int64_t kWorthSharing = 16;  // tokens of a common beginning
constexpr std::size_t kMostCached = 64;     // sequences that are kept for later prompts

std::int64_t pages_of(std::int64_t tokens) { return (tokens + kPageTokens - 1) / kPageTokens; }

std::int64_t size_of(const std::vector<TokenId>& tokens) {
  return static_cast<std::int64_t>(tokens.size());
}

std::int64_t common_prefix(const std::vector<TokenId>& a, const std::vector<TokenId>& b) {
  const auto ends = std::mismatch(a.begin(), a.end(), b.begin(), b.end());
  return ends.first - a.begin();
}

std::int64_t checked_room(const SchedulerOptions& options, std::int64_t context) {
  if (options.cache_tokens == 0) return context * options.parallel;
  if (options.cache_tokens < context) {
    throw_error(ErrorCode::bad_request,
                "a KV cache of {} tokens is too small: one context has {} tokens",
                options.cache_tokens, context);
  }
  return options.cache_tokens;
}

}  // namespace

struct Scheduler::Sequence {
  Sequence(GenerationRequest request, GenerationClient c, const Tokenizer& tokenizer)
      : generation(std::move(request), &tokenizer), client(std::move(c)) {}

  const std::vector<TokenId>& tokens() const { return generation.tokens(); }
  std::int64_t left() const { return size_of(tokens()) - run; }

  Generation generation;
  GenerationClient client;
  std::int32_t slot = -1;    // sequence of the KV cache
  std::int64_t run = 0;      // tokens that are in it
  std::int64_t planned = 0;  // tokens of this step
  bool started = false;      // before now, where it was preempted
  bool embeds = false;
  bool over = false;
  std::vector<double> sum;  // of what the head reads
};

struct Scheduler::Cached {
  std::int32_t slot;
  std::vector<TokenId> tokens;
  std::uint64_t last_used;  // step
};

struct Scheduler::Donor {
  std::int32_t slot = -1;
  std::int64_t common = 0;
  bool cached = false;  // no longer runs
};

Scheduler::Scheduler(const Model& model, Workspace& ws, const Tokenizer& tokenizer,
                     const SchedulerOptions& options)
    : model_(model),
      ws_(ws),
      tokenizer_(tokenizer),
      options_(options),
      context_(checked_context(model.info(), options.context)),
      pieces_(std::make_shared<const VocabularyPieces>(tokenizer)),
      kv_(kv_shape(model.info(), options.kv), checked_room(options, context_),
          options.parallel + static_cast<std::int32_t>(kMostCached), *ws.backend) {
  slots_.resize(static_cast<std::size_t>(options.parallel) + kMostCached);
  std::iota(slots_.rbegin(), slots_.rend(), 0);
  stats_.pages = kv_.free_pages();
}

Scheduler::~Scheduler() = default;

void Scheduler::check(const GenerationRequest& request) const {
  if (request.prompt.empty()) throw_error(ErrorCode::bad_request, "the prompt is empty");
  if (size_of(request.prompt) > context_) {
    throw_error(ErrorCode::bad_request, "the prompt has {} tokens, but the context is {}",
                request.prompt.size(), context_);
  }
  const std::int64_t vocab = model_.info().vocab;
  for (const TokenId token : request.prompt) {
    if (token < 0 || token >= vocab) {
      throw_error(ErrorCode::bad_request, "token id {} is outside the vocabulary of {}", token,
                  vocab);
    }
  }
  validate(request.options.sampler, vocab);
}

void Scheduler::submit(GenerationRequest request, GenerationClient client) {
  check(request);
  request.options.pieces = pieces_;
  add(std::make_unique<Sequence>(std::move(request), std::move(client), tokenizer_));
}

void Scheduler::embed(std::vector<TokenId> prompt, GenerationClient client) {
  GenerationRequest request;
  request.prompt = std::move(prompt);
  check(request);
  auto sequence = std::make_unique<Sequence>(std::move(request), std::move(client), tokenizer_);
  sequence->embeds = true;
  add(std::move(sequence));
}

void Scheduler::add(std::unique_ptr<Sequence> sequence) { waiting_.push_back(std::move(sequence)); }

bool Scheduler::step() {
  drop_cancelled();
  admit();
  plan_step();
  while (!make_room()) plan_step();
  if (running_.empty()) return !waiting_.empty();
  const auto start = std::chrono::steady_clock::now();
  const bool embedded = run_embedding();
  run_step();
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  if (batch_.size() >= kLeastPromptTokens && !embedded) {
    const double rate = static_cast<double>(batch_.size()) / took.count();
    tokens_per_second_ = tokens_per_second_ == 0 ? rate : 0.5 * (tokens_per_second_ + rate);
  }
  stats_.busy_seconds += took.count();
  ++stats_.steps;
  sweep();
  return true;
}

template <typename End>
void Scheduler::for_all(const End& end) {
  for (const auto& sequence : running_) end(*sequence);
  for (const auto& sequence : waiting_) end(*sequence);
  sweep();
}

void Scheduler::drop_cancelled() {
  const auto cancelled = [](const Sequence& s) {
    return s.client.is_cancelled && s.client.is_cancelled();
  };
  const auto end = [&](Sequence& sequence) {
    if (!cancelled(sequence)) return;
    GenerationEvent event;
    event.finish = FinishReason::cancelled;
    finish(sequence, std::move(event));
  };
  for_all(end);
}

void Scheduler::sweep() {
  const auto over = [](const std::unique_ptr<Sequence>& sequence) { return sequence->over; };
  std::erase_if(running_, over);
  std::erase_if(waiting_, over);
}

// In the order they came. One that shares a beginning with a prompt just being run waits for it;
// those behind it need not.
void Scheduler::admit() {
  for (std::size_t i = 0; i < waiting_.size();) {
    if (running_.size() >= static_cast<std::size_t>(options_.parallel)) return;
    Sequence& sequence = *waiting_[i];
    const Donor donor = best_donor(sequence);
    if (soon_shared(sequence, donor.common)) {
      ++i;
      continue;
    }
    if (!start(sequence, donor)) return;
    running_.push_back(std::move(waiting_[i]));
    waiting_.erase(waiting_.begin() + static_cast<std::ptrdiff_t>(i));
  }
}

Scheduler::Donor Scheduler::best_donor(const Sequence& sequence) const {
  Donor best;
  if (sequence.embeds || sequence.generation.scores_prompt()) return best;
  const std::int64_t most = size_of(sequence.tokens()) - 1;  // one is run, for its logits
  const auto look = [&](const std::vector<TokenId>& tokens, std::int64_t run, Donor donor) {
    donor.common = std::min({common_prefix(sequence.tokens(), tokens), run, most});
    if (donor.common >= kWorthSharing && donor.common > best.common) best = donor;
  };
  for (const Cached& old : cached_) look(old.tokens, size_of(old.tokens), {old.slot, 0, true});
  for (const auto& other : running_) look(other->tokens(), other->run, {other->slot, 0, false});
  return best;
}

// Whether a running prompt is about to have more in common than there is to take.
bool Scheduler::soon_shared(const Sequence& sequence, std::int64_t common) const {
  if (sequence.embeds || sequence.generation.scores_prompt()) return false;
  return std::any_of(running_.begin(), running_.end(), [&](const auto& other) {
    if (other->embeds || other->left() <= 1) return false;
    const std::int64_t to_come =
        std::min(common_prefix(sequence.tokens(), other->tokens()), size_of(sequence.tokens()) - 1);
    return to_come >= common + kWorthSharing;
  });
}

// Gives the sequence its place in the cache and what the donor has of it; false where there is no
// room for its tokens yet.
bool Scheduler::start(Sequence& sequence, Donor donor) {
  const auto needed = [&] {
    return pages_of(size_of(sequence.tokens())) - donor.common / kPageTokens;
  };
  // A donor that is only cached may hold the room itself.
  if (needed() > reachable_pages(donor.slot) && donor.cached) donor = {};
  if (needed() > reachable_pages(donor.slot)) return false;
  while (kv_.free_pages() < needed() || slots_.empty()) drop_oldest_cached(donor.slot);
  sequence.slot = slots_.back();
  slots_.pop_back();
  if (donor.common > 0) {
    kv_.fork(donor.slot, sequence.slot, donor.common);
    sequence.run = donor.common;
    stats_.reused_tokens += static_cast<std::uint64_t>(donor.common);
  }
  if (!sequence.started) sequence.generation.usage().cached_tokens = donor.common;
  sequence.started = true;
  if (donor.cached) touch_cached(donor);
  return true;
}

// Pages that are free once nothing is cached but what is in the slot `keep`.
std::int64_t Scheduler::reachable_pages(std::int32_t keep) const {
  std::vector<std::int32_t> held;
  for (const auto& sequence : running_) held.push_back(sequence->slot);
  if (keep >= 0) held.push_back(keep);
  return stats_.pages - kv_.distinct_pages(held);
}

// The new sequence may hold all that the old one did.
void Scheduler::touch_cached(const Donor& donor) {
  const auto cached = std::find_if(cached_.begin(), cached_.end(),
                                   [&](const Cached& c) { return c.slot == donor.slot; });
  cached->last_used = stats_.steps;
  if (size_of(cached->tokens) == donor.common) drop_cached(donor.slot);
}

void Scheduler::release(std::int32_t slot) {
  kv_.resize(slot, 0);
  slots_.push_back(slot);
}

void Scheduler::drop_cached(std::int32_t slot) {
  std::erase_if(cached_, [&](const Cached& cached) { return cached.slot == slot; });
  release(slot);
}

// False where there is none but that in the slot `keep`.
bool Scheduler::drop_oldest_cached(std::int32_t keep) {
  const Cached* oldest = nullptr;
  for (const Cached& cached : cached_) {
    if (cached.slot == keep) continue;
    if (oldest == nullptr || cached.last_used < oldest->last_used) oldest = &cached;
  }
  if (oldest == nullptr) return false;
  drop_cached(oldest->slot);
  return true;
}

std::int64_t Scheduler::prompt_budget() const {
  if (tokens_per_second_ == 0) return kMostPromptTokens / 4;
  // Nobody waits yet, but may come: longer steps are a little faster.
  const double steps = running_.size() + waiting_.size() <= 1 ? 4 : 1;
  const auto in_time =
      static_cast<std::int64_t>(steps * tokens_per_second_ * options_.step_time.count());
  return std::clamp(in_time, kLeastPromptTokens, kMostPromptTokens);
}

// One token of each sequence that generates; of prompts as much as the budget allows, in equal
// shares, so that a short one does not wait for a long one. One embedding at a time: it takes a
// pass of its own.
void Scheduler::plan_step() {
  std::vector<Sequence*> prompts, embeddings;
  for (const auto& sequence : running_) {
    sequence->planned = 0;
    if (sequence->embeds) {
      embeddings.push_back(sequence.get());
    } else if (sequence->left() == 1) {
      sequence->planned = 1;
    } else {
      prompts.push_back(sequence.get());
    }
  }
  std::stable_sort(prompts.begin(), prompts.end(),
                   [](const Sequence* a, const Sequence* b) { return a->left() < b->left(); });
  std::int64_t budget = prompt_budget();
  if (!embeddings.empty()) {
    embeddings.front()->planned = std::min(embeddings.front()->left(), budget);
  }
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    const auto others = static_cast<std::int64_t>(prompts.size() - i);
    std::int64_t share = std::min(prompts[i]->left(), std::max<std::int64_t>(budget / others, 1));
    if (prompts[i]->generation.scores_prompt()) share = std::min(share, kScoredTokens);
    prompts[i]->planned = share;
    budget -= share;
  }
}

// Pages for all that is planned. Drops what is only cached, and where that does not do, takes the
// youngest sequence back to the waiting ones and returns false: the plan has changed.
bool Scheduler::make_room() {
  const auto lacking = [&] {
    std::int64_t pages = 0;
    for (const auto& s : running_) pages += pages_of(s->run + s->planned) - pages_of(s->run);
    return pages > kv_.free_pages();
  };
  while (lacking()) {
    if (drop_oldest_cached(-1)) continue;
    std::unique_ptr<Sequence> youngest = std::move(running_.back());
    running_.pop_back();
    release(youngest->slot);
    youngest->slot = -1;
    youngest->run = 0;
    youngest->sum.clear();
    ++stats_.preempted;
    waiting_.push_front(std::move(youngest));
    return false;
  }
  return true;
}

void Scheduler::run_step() {
  batch_.clear();
  std::vector<std::int64_t> first_rows;
  for (const auto& sequence : running_) {
    first_rows.push_back(static_cast<std::int64_t>(batch_.logit_rows.size()));
    if (sequence->embeds) continue;
    const bool all_rows = sequence->generation.scores_prompt();
    for (std::int64_t i = sequence->run; i < sequence->run + sequence->planned; ++i) {
      if (all_rows || i + 1 == size_of(sequence->tokens())) {
        batch_.logit_rows.push_back(static_cast<std::int32_t>(batch_.size()));
      }
      batch_.add(sequence->tokens()[static_cast<std::size_t>(i)], static_cast<std::int32_t>(i),
                 sequence->slot);
    }
  }
  if (batch_.size() == 0) return;
  try {
    forward(model_, batch_, kv_, ws_);
    look_at_logits();
  } catch (const std::exception& error) {
    for (const auto& sequence : running_) {
      if (sequence->planned > 0 && !sequence->embeds) fail(*sequence, failure_of(error));
    }
    return;
  }
  for (std::size_t i = 0; i < first_rows.size(); ++i) {
    Sequence& sequence = *running_[i];
    if (sequence.planned > 0 && !sequence.embeds) take_rows(sequence, first_rows[i]);
  }
}

// The most that any sequence of the step needs; 0: all.
int Scheduler::top_logits() const {
  int most = 0;
  for (const auto& sequence : running_) {
    if (sequence->planned == 0 || sequence->embeds) continue;
    const int n = sequence->generation.top_logits(model_.info().vocab);
    if (n == 0) return 0;
    most = std::max(most, n);
  }
  return most;
}

void Scheduler::look_at_logits() {
  const std::size_t rows = batch_.logit_rows.size();
  const std::int64_t vocab = model_.info().vocab;
  top_ = top_logits();
  best_ = ws_.top_logits(static_cast<std::int64_t>(rows), vocab, top_);
  if (best_.empty()) logits_ = ws_.logits_on_host(rows * static_cast<std::size_t>(vocab));
}

std::span<const float> Scheduler::logits_row(std::int64_t row) const {
  const auto vocab = static_cast<std::size_t>(model_.info().vocab);
  return logits_.subspan(static_cast<std::size_t>(row) * vocab, vocab);
}

std::span<const TopLogit> Scheduler::top_row(const Generation& generation, std::int64_t row) const {
  return best_.subspan(static_cast<std::size_t>(row * top_),
                       static_cast<std::size_t>(generation.top_logits(model_.info().vocab)));
}

void Scheduler::take_rows(Sequence& sequence, std::int64_t row) {
  Generation& generation = sequence.generation;
  const std::int64_t begin = sequence.run;
  sequence.run += sequence.planned;
  stats_.batch_tokens += static_cast<std::uint64_t>(sequence.planned);
  if (begin < generation.usage().prompt_tokens) {
    stats_.prompt_tokens += static_cast<std::uint64_t>(sequence.planned);
  }
  try {
    GenerationEvent event;
    if (generation.scores_prompt()) {
      for (std::int64_t i = begin; i < sequence.run; ++i) {
        generation.score_prompt(i, logits_row(row + i - begin), event);
      }
      if (sequence.left() > 0) return send(sequence, std::move(event));
      row += sequence.planned - 1;
    }
    if (sequence.left() > 0) return;
    std::vector<TokenLogprob> prompt_tokens = std::move(event.prompt_tokens);
    const bool room = sequence.run < context_;
    event = best_.empty() ? generation.next(logits_row(row), room)
                          : generation.next(top_row(generation, row), room);
    event.prompt_tokens = std::move(prompt_tokens);
    stats_.generated_tokens += static_cast<std::uint64_t>(sequence.left());  // 0 at an end
    if (event.finish) return finish(sequence, std::move(event));
    send(sequence, std::move(event));
  } catch (const std::exception& error) {
    fail(sequence, failure_of(error));
  }
}

void Scheduler::send(Sequence& sequence, GenerationEvent event) {
  event.usage = sequence.generation.usage();
  if (sequence.client.on_event) sequence.client.on_event(std::move(event));
}

void Scheduler::finish(Sequence& sequence, GenerationEvent event) {
  send(sequence, std::move(event));
  sequence.over = true;
  if (sequence.slot >= 0) retain(sequence);
}

void Scheduler::fail(Sequence& sequence, const GenerationFailure& failure) {
  GenerationEvent event;
  event.error = failure;
  finish(sequence, std::move(event));
}

// Keeps what ran for later prompts.
void Scheduler::retain(Sequence& sequence) {
  const std::int32_t slot = std::exchange(sequence.slot, -1);
  // Texts that were only read would push out those that are talked about.
  if (sequence.embeds || sequence.generation.request().prompt_logprobs) return release(slot);
  std::vector<TokenId> tokens = sequence.tokens();
  tokens.resize(static_cast<std::size_t>(sequence.run));
  const bool held = std::any_of(cached_.begin(), cached_.end(), [&](const Cached& other) {
    return common_prefix(other.tokens, tokens) == size_of(tokens);
  });
  if (held || size_of(tokens) < kWorthSharing) return release(slot);
  kv_.resize(slot, size_of(tokens));
  if (cached_.size() >= kMostCached) drop_oldest_cached(-1);
  cached_.push_back({slot, std::move(tokens), stats_.steps});
}

// A part of the first prompt that waits for its mean, by itself: the tap ends the head before its
// product, for all rows of a step.
bool Scheduler::run_embedding() {
  const auto found = std::find_if(running_.begin(), running_.end(),
                                  [](const auto& sequence) { return sequence->embeds; });
  if (found == running_.end()) return false;
  Sequence& sequence = **found;
  const std::int64_t n = sequence.planned;
  Batch batch;
  for (std::int64_t i = sequence.run; i < sequence.run + n; ++i) {
    batch.logit_rows.push_back(static_cast<std::int32_t>(batch.size()));
    batch.add(sequence.tokens()[static_cast<std::size_t>(i)], static_cast<std::int32_t>(i),
              sequence.slot);
  }
  ws_.input_tap = [&](LinearInput input, const float* x, std::int64_t rows, std::int64_t cols) {
    if (input != LinearInput::head) return true;
    sequence.sum.resize(static_cast<std::size_t>(cols));
    for (std::int64_t i = 0; i < rows * cols; ++i) {
      sequence.sum[static_cast<std::size_t>(i % cols)] += static_cast<double>(x[i]);
    }
    return false;
  };
  std::optional<GenerationFailure> failure;
  try {
    forward(model_, batch, kv_, ws_);
  } catch (const std::exception& error) {
    failure = failure_of(error);
  }
  ws_.input_tap = {};
  sequence.run += n;
  stats_.prompt_tokens += static_cast<std::uint64_t>(n);
  if (failure) {
    fail(sequence, *failure);
  } else if (sequence.left() == 0) {
    finish_embedding(sequence);
  }
  return true;
}

void Scheduler::finish_embedding(Sequence& sequence) {
  GenerationEvent event;
  for (const double sum : sequence.sum) {
    event.embedding.push_back(static_cast<float>(sum / static_cast<double>(sequence.run)));
  }
  event.finish = FinishReason::stop;
  finish(sequence, std::move(event));
}

void Scheduler::end_all(FinishReason reason) {
  for_all([&](Sequence& sequence) {
    GenerationEvent event;
    event.finish = reason;
    finish(sequence, std::move(event));
  });
}

void Scheduler::fail_all(const GenerationFailure& failure) {
  for_all([&](Sequence& sequence) { fail(sequence, failure); });
}

SchedulerStats Scheduler::stats() const {
  SchedulerStats stats = stats_;
  stats.running = static_cast<std::int64_t>(running_.size());
  stats.waiting = static_cast<std::int64_t>(waiting_.size());
  stats.used_pages = stats.pages - kv_.free_pages();
  stats.cached = static_cast<std::int64_t>(cached_.size());
  return stats;
}

}  // namespace tenfold
