#pragma once
// Continuous batching: many generations share one model, one KV cache and each step. Prompts are
// run in chunks between the others' tokens; generations come and go at token boundaries. What a
// generation says does not depend on the others: each token's result is the same bits in any batch.
//
// Prefixes are shared: a prompt takes over the pages of the longest beginning, token by token the
// same, of anything that runs or ran. What ran is kept until its pages are needed. Where even
// running sequences exhaust the cache, the youngest gives its pages back and is run again later.
//
// One thread at a time.

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "runtime/generation.h"
#include "runtime/kv_cache.h"
#include "runtime/model.h"

namespace tenfold {

// Called by step(), not to call the scheduler. is_cancelled is asked once a step.
struct GenerationClient {
  std::function<void(GenerationEvent)> on_event;
  std::function<bool()> is_cancelled;
};

struct SchedulerOptions {
  std::int64_t context = 0;       // tokens of one sequence at most; 0: the model's own
  std::int64_t cache_tokens = 0;  // over all sequences; 0: context * parallel
  std::int32_t parallel = 8;      // sequences that run at once
  KvType kv = KvType::f16;
  // Tokens of prompts in a step are chosen so that it takes about so long while others wait.
  std::chrono::duration<double> step_time{0.15};
};

struct SchedulerStats {
  std::int64_t running = 0, waiting = 0, cached = 0, used_pages = 0, pages = 0;
  std::uint64_t steps = 0, prompt_tokens = 0, reused_tokens = 0, generated_tokens = 0;
  std::uint64_t batch_tokens = 0, preempted = 0;
  double busy_seconds = 0;
};

class Scheduler {
 public:
  // The model, workspace and tokenizer outlive the scheduler. Throws bad_request for options out of
  // range.
  Scheduler(const Model& model, Workspace& ws, const Tokenizer& tokenizer,
            const SchedulerOptions& options);
  ~Scheduler();

  // Throws bad_request where the prompt is empty or does not fit in the context, or a token is
  // outside the vocabulary; may be called from any thread.
  void check(const GenerationRequest& request) const;
  // Waits its turn. Throws as check() does.
  void submit(GenerationRequest request, GenerationClient client);
  // Asks for the mean over the prompt's tokens of what the head reads [dim].
  void embed(std::vector<TokenId> prompt, GenerationClient client);
  // One forward pass and what follows from it; false where there is nothing to do. Failures end the
  // generations of the step with an error event.
  bool step();
  // Ends all generations with the reason, or with an error.
  void end_all(FinishReason reason);
  void fail_all(const GenerationFailure& failure);

  SchedulerStats stats() const;
  std::int64_t context() const noexcept { return context_; }
  const VocabularyPieces& pieces() const noexcept { return *pieces_; }

 private:
  struct Sequence;
  struct Cached;
  struct Donor;

  void add(std::unique_ptr<Sequence> sequence);
  void drop_cancelled();
  void sweep();
  void admit();
  Donor best_donor(const Sequence& sequence) const;
  bool soon_shared(const Sequence& sequence, std::int64_t common) const;
  bool start(Sequence& sequence, Donor donor);
  std::int64_t reachable_pages(std::int32_t keep) const;
  void touch_cached(const Donor& donor);
  void release(std::int32_t slot);
  void drop_cached(std::int32_t slot);
  bool drop_oldest_cached(std::int32_t keep);
  std::int64_t prompt_budget() const;
  void plan_step();
  bool make_room();
  void run_step();
  int top_logits() const;
  void look_at_logits();
  std::span<const float> logits_row(std::int64_t row) const;
  std::span<const TopLogit> top_row(const Generation& generation, std::int64_t row) const;
  void take_rows(Sequence& sequence, std::int64_t row);
  void send(Sequence& sequence, GenerationEvent event);
  void finish(Sequence& sequence, GenerationEvent event);
  void fail(Sequence& sequence, const GenerationFailure& failure);
  template <typename End>
  void for_all(const End& end);
  void retain(Sequence& sequence);
  bool run_embedding();
  void finish_embedding(Sequence& sequence);

  const Model& model_;
  Workspace& ws_;
  const Tokenizer& tokenizer_;
  SchedulerOptions options_;
  std::int64_t context_;
  std::shared_ptr<const VocabularyPieces> pieces_;
  KvCache kv_;
  std::vector<std::int32_t> slots_;  // free sequences of the cache
  std::deque<std::unique_ptr<Sequence>> waiting_;
  std::vector<std::unique_ptr<Sequence>> running_;  // oldest first
  std::vector<Cached> cached_;
  Batch batch_;
  // Of the step: the top_ best of each row, where that is all that anyone looks at, or all.
  std::span<const TopLogit> best_;
  std::span<const float> logits_;
  int top_ = 0;
  double tokens_per_second_ = 0;  // of steps that run prompts
  SchedulerStats stats_;
};

}  // namespace tenfold
