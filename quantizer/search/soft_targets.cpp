#include "quantizer/search/soft_targets.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace tenfold {
namespace {

constexpr std::int64_t kKept = 64;
constexpr double kLeast = 1e-12;  // of what a model leaves to the rest

}  // namespace

SoftTargets::SoftTargets(std::int64_t vocab)
    : vocab_(vocab),
      kept_(static_cast<std::size_t>(std::min(kKept, vocab))),
      order_(static_cast<std::size_t>(vocab)) {}

void SoftTargets::add(const float* logits, double log_sum) {
  std::iota(order_.begin(), order_.end(), 0);
  const auto end = order_.begin() + static_cast<std::ptrdiff_t>(kept_);
  // Ties by number, so that the choice is the same everywhere.
  const auto likelier = [&](std::int32_t a, std::int32_t b) {
    return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
  };
  if (end != order_.end()) std::nth_element(order_.begin(), end, order_.end(), likelier);
  std::sort(order_.begin(), end, likelier);
  for (auto id = order_.begin(); id != end; ++id) {
    ids_.push_back(*id);
    p_.push_back(static_cast<float>(std::exp(static_cast<double>(logits[*id]) - log_sum)));
  }
}

double SoftTargets::cross_entropy(std::size_t row, const float* logits, double log_sum) const {
  double sum = 0;
  for (std::size_t i = row * kept_; i < (row + 1) * kept_; ++i) {
    sum -= static_cast<double>(p_[i]) * (static_cast<double>(logits[ids_[i]]) - log_sum);
  }
  if (keeps_all()) return sum;
  const Rest rest = rest_of(row, logits, log_sum);
  return sum - rest.teacher * std::log(rest.model);
}

SoftTargets::Rest SoftTargets::rest_of(std::size_t row, const float* logits, double log_sum) const {
  double kept = 0, kept_by_model = 0;
  for (std::size_t i = row * kept_; i < (row + 1) * kept_; ++i) {
    kept += static_cast<double>(p_[i]);
    kept_by_model += std::exp(static_cast<double>(logits[ids_[i]]) - log_sum);
  }
  return {std::max(0.0, 1 - kept), std::max(kLeast, 1 - kept_by_model)};
}

// With q the model's softmax and R, Q what teacher and model leave to the rest: q - p of a token
// that is kept, q (1 - R / Q) of another.
void SoftTargets::gradient(std::size_t row, const float* logits, double log_sum, float* d) const {
  const Rest rest = rest_of(row, logits, log_sum);
  const auto by = static_cast<float>(keeps_all() ? 1 : 1 - rest.teacher / rest.model);
  const auto log = static_cast<float>(log_sum);
  for (std::int64_t j = 0; j < vocab_; ++j) d[j] = by * std::exp(logits[j] - log);
  for (std::size_t i = row * kept_; i < (row + 1) * kept_; ++i) {
    d[ids_[i]] = std::exp(logits[ids_[i]] - log) - p_[i];
  }
}

}  // namespace tenfold
