#pragma once
// Perplexity by the two protocols of docs/cli.md.

#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "runtime/model.h"
#include "runtime/tokenizer.h"

namespace tenfold {

struct PerplexityOptions {
  std::int64_t window = 2048;
  bool half = false;             // score positions W/2 ... W-2 (llama.cpp), else all W-1 (papers)
  std::int64_t max_windows = 0;  // 0: all
  std::optional<TokenId> window_bos;  // replaces the first token of each window
  KvType kv = KvType::f16;
};

struct PerplexityResult {
  double nll = 0;           // mean, in nats
  double ppl = 0;           // exp(nll)
  std::int64_t tokens = 0;  // scored
  std::int64_t windows = 0;
  std::vector<double> window_nll;  // the mean of each
};

// Non-overlapping windows; what is left at the end is dropped. Throws bad_request where the text is
// shorter than one window or the window longer than the model's context.
std::vector<std::vector<TokenId>> cut_windows(std::span<const TokenId> tokens,
                                              const PerplexityOptions& options,
                                              std::int64_t max_context);

// Over those windows. progress(done, total, so_far) after each; false cancels.
PerplexityResult perplexity(const Model& model, Workspace& ws, std::span<const TokenId> tokens,
                            const PerplexityOptions& options,
                            const std::function<bool(std::int64_t done, std::int64_t total,
                                                     const PerplexityResult& so_far)>& progress);

// nll[i] = -log p(targets[i]) by row rows[i] of the step just run, whose batch this is. see(first,
// logits) is called once nll is known of rows[first] and those after it whose logits these are.
using LogitsTap = std::function<void(std::size_t first, std::span<const float> logits)>;
void score_rows(const Model& model, Batch& batch, Workspace& ws, std::span<const std::int32_t> rows,
                std::span<const std::int32_t> targets, double* nll, const LogitsTap& see = {});

// -log p(tokens[i + 1] | tokens[0 ... i]) for i in [first, tokens.size() - 1), from an empty cache.
std::vector<double> sequence_nll(const Model& model, Workspace& ws, KvCache& kv,
                                 std::span<const TokenId> tokens, std::int64_t first);

}  // namespace tenfold
