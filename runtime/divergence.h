#pragma once
// How far a model's predictions are from a reference's on the same text: the Kullback-Leibler
// divergence KL(reference || model) of each next-token distribution, in nats.

#include "runtime/score.h"

namespace tenfold {

struct DivergenceResult {
  double mean = 0;
  double median = 0, p90 = 0, p99 = 0, max = 0;
  double same_top = 0;      // share of positions where both find the same token most likely
  std::int64_t tokens = 0;  // positions compared
  std::int64_t windows = 0;
};

struct Evaluated {
  const Model* model;
  Workspace* ws;
};

// KL(p || q) of softmax(logits_p) and softmax(logits_q), in double; never below 0.
double kl_divergence(std::span<const float> logits_p, std::span<const float> logits_q);

// Windows and scored positions as in perplexity(). Throws bad_request where the vocabularies differ
// in size. progress(done, total, mean so far); false cancels.
DivergenceResult divergence(
    const Evaluated& reference, const Evaluated& model, std::span<const TokenId> tokens,
    const PerplexityOptions& options,
    const std::function<bool(std::int64_t done, std::int64_t total, double mean)>& progress);

}  // namespace tenfold
