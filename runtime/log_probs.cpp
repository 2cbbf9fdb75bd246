#include "runtime/log_probs.h"

#include <algorithm>
#include <cmath>

namespace tenfold {

TokenLogprob log_probability(std::span<const float> logits, TokenId token, int top) {
  const double best = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit) - best);
  const double log_sum = best + std::log(sum);
  const auto logprob = [&](float logit) {
    return static_cast<float>(static_cast<double>(logit) - log_sum);
  };
  TokenLogprob found{token, logprob(logits[static_cast<std::size_t>(token)]), {}};
  const auto n = std::min(logits.size(), static_cast<std::size_t>(std::max(top, 0)));
  if (n == 0) return found;
  std::vector<std::pair<TokenId, float>>& list = found.top;  // of logits, until all are seen
  for (std::size_t id = 0; id < logits.size(); ++id) {
    if (list.size() == n && !(logits[id] > list.back().second)) continue;
    if (list.size() == n) list.pop_back();
    const auto after = std::find_if(list.begin(), list.end(),
                                    [&](const auto& other) { return other.second < logits[id]; });
    list.emplace(after, static_cast<TokenId>(id), logits[id]);
  }
  for (auto& [id, logit] : list) logit = logprob(logit);
  return found;
}

}  // namespace tenfold
