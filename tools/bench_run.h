#pragma once
// Tokens per second of a loaded model, measured as llama-bench does: no tokenizer, no sampler, a
// warm-up before each kind of run, and an empty KV cache at the start of each run. Tokens are fixed
// and spread over the vocabulary.

#include <cstdint>
#include <functional>
#include <span>

#include "runtime/kv_cache.h"
#include "runtime/model.h"

namespace tenfold {

struct Speed {
  double mean = 0, sd = 0;  // tokens/s over the runs; sd of a sample, 0 for one run
};
Speed summarize(std::span<const double> speeds);

struct BenchHooks {
  // Before each step, with the steps done and to do; it may throw.
  std::function<void(std::int64_t done, std::int64_t total)> before_step;
  // Before each run after the warm-up, and after the last.
  std::function<void()> between_runs;
};

// One sequence of `tokens` tokens, in chunks of kPrefillChunk, the logits of the last one wanted.
Speed bench_prefill(const Model& model, Workspace& ws, KvType kv, std::int64_t tokens,
                    std::int64_t runs, const BenchHooks& hooks);

// `steps` steps of `batch` sequences, one token and one row of logits each. Tokens of all sequences
// count.
Speed bench_decode(const Model& model, Workspace& ws, KvType kv, std::int32_t batch,
                   std::int64_t steps, std::int64_t runs, const BenchHooks& hooks);

}  // namespace tenfold
