#include "runtime/sampler.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <map>

#include "kernels/error.h"
#include "runtime/grammar/token_constraint.h"

namespace tenfold {
namespace {

using Candidate = std::pair<float, std::int32_t>;

// Keeps sums and quotients of extreme options below infinity, which softmax could not take.
float finite(float logit) { return std::min(logit, std::numeric_limits<float>::max()); }

bool better(const Candidate& a, const Candidate& b) {
  return a.first > b.first || (a.first == b.first && a.second < b.second);
}

template <typename T>
void require(bool valid, const char* name, const char* range, T value) {
  if (!valid) throw_error(ErrorCode::bad_request, "{} must be {}, found {}", name, range, value);
}

// Seeds xoshiro256** as its authors advise: four splitmix64 outputs.
std::array<std::uint64_t, 4> seeded(std::uint64_t seed) {
  std::array<std::uint64_t, 4> state;
  for (std::uint64_t& word : state) {
    seed += 0x9E3779B97F4A7C15u;
    std::uint64_t z = seed;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    word = z ^ (z >> 31);
  }
  return state;
}

bool any_above(std::span<const float> logits, float threshold) {
  unsigned any = 0;  // no early exit: compilers turn this into vector code
  for (const float logit : logits) any |= static_cast<unsigned>(logit > threshold);
  return any != 0;
}

// The k best, best first. One pass over the vocabulary, in which nearly every block is dismissed by
// the threshold, the k-th best so far.
void keep_top_k(std::span<const float> logits, std::size_t k, std::vector<Candidate>& out) {
  constexpr std::size_t kBlock = 64;
  out.clear();
  const std::size_t room = std::max<std::size_t>(2 * k, 64);
  out.reserve(room);
  float threshold = -std::numeric_limits<float>::infinity();
  for (std::size_t begin = 0; begin < logits.size(); begin += kBlock) {
    const std::size_t end = std::min(begin + kBlock, logits.size());
    if (!any_above(logits.subspan(begin, end - begin), threshold)) continue;
    for (std::size_t id = begin; id < end; ++id) {
      // Equal logits with higher ids lose the tie, so a full set takes only what is greater.
      if (!(logits[id] > threshold)) continue;
      out.emplace_back(logits[id], static_cast<std::int32_t>(id));
      if (out.size() < room) continue;
      std::nth_element(out.begin(), out.begin() + static_cast<std::ptrdiff_t>(k - 1), out.end(),
                       better);
      out.resize(k);
      threshold = out.back().first;
    }
  }
  std::sort(out.begin(), out.end(), better);
  if (out.size() > k) out.resize(k);
}

// NaN or +infinity.
unsigned is_broken(float logit) {
  const auto bits = std::bit_cast<std::uint32_t>(logit);
  return static_cast<unsigned>(bits << 1 > 0xFF000000u) |
         static_cast<unsigned>(bits == 0x7F800000u);
}

// Of all logits, or of the best, which NaN and +infinity are.
template <typename Logits, typename Logit>
void check_logits(const Logits& logits, Logit logit) {
  if (logits.empty()) throw_error(ErrorCode::device, "the model produced no logits");
  unsigned broken = 0;
  for (const auto& each : logits) broken |= is_broken(logit(each));
  if (broken == 0) return;
  throw_error(ErrorCode::device, "the model produced logits that are not numbers");
}

// All whose probability is at least min_p times the best one, best first. Returns the sum of
// exp(logit - best) over all tokens, so nothing else needs sorting for top-p.
double keep_likely(std::span<const float> logits, double min_p, std::vector<Candidate>& out) {
  out.clear();
  const double best = *std::max_element(logits.begin(), logits.end());
  if (best == -std::numeric_limits<double>::infinity()) return 0;
  double sum = 0;
  for (std::size_t id = 0; id < logits.size(); ++id) {
    const double weight = std::exp(static_cast<double>(logits[id]) - best);
    sum += weight;
    if (weight > 0 && weight >= min_p) out.emplace_back(logits[id], static_cast<std::int32_t>(id));
  }
  std::sort(out.begin(), out.end(), better);
  return sum;
}

// weights[i] = exp((logit - best) / temperature), best first; returns their sum.
double softmax_weights(const std::vector<Candidate>& candidates, double temperature,
                       std::vector<double>& weights) {
  weights.clear();
  double sum = 0;
  const double best = candidates[0].first;
  for (const Candidate& candidate : candidates) {
    weights.push_back(std::exp((static_cast<double>(candidate.first) - best) / temperature));
    sum += weights.back();
  }
  return sum;
}

// The shortest prefix whose probability reaches top_p.
std::size_t nucleus(const std::vector<double>& weights, double sum, double top_p) {
  double covered = 0;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    covered += weights[i];
    if (covered >= top_p * sum) return i + 1;
  }
  return weights.size();
}

}  // namespace

void validate(const SamplerOptions& o, std::int64_t vocab_size) {
  const float infinity = std::numeric_limits<float>::infinity();
  require(o.temperature >= 0 && o.temperature < infinity, "temperature", "at least 0",
          o.temperature);
  require(o.top_k >= 0, "top_k", "at least 0", o.top_k);
  require(o.top_p > 0 && o.top_p <= 1, "top_p", "above 0 and at most 1", o.top_p);
  require(o.min_p >= 0 && o.min_p < 1, "min_p", "at least 0 and below 1", o.min_p);
  require(o.repeat_penalty > 0 && o.repeat_penalty < infinity, "repeat_penalty", "above 0",
          o.repeat_penalty);
  require(std::fabs(o.presence_penalty) <= 2, "presence_penalty", "between -2 and 2",
          o.presence_penalty);
  require(std::fabs(o.frequency_penalty) <= 2, "frequency_penalty", "between -2 and 2",
          o.frequency_penalty);
  require(o.penalty_last >= 0, "penalty_last", "at least 0", o.penalty_last);
  for (const auto& [id, bias] : o.logit_bias) {
    if (id < 0 || id >= vocab_size)
      throw_error(ErrorCode::bad_request,
                  "logit_bias names token {}, but the vocabulary has ids 0 to {}", id,
                  vocab_size - 1);
    require(bias < infinity, "logit_bias", "a number or -infinity", bias);
  }
}

Sampler::Sampler(SamplerOptions options)
    : options_(std::move(options)), rng_(seeded(options_.seed)) {}

void Sampler::accept(std::int32_t token) {
  const auto limit = static_cast<std::size_t>(std::max(options_.penalty_last, 0));
  history_.push_back(token);
  if (history_.size() > limit)
    history_.erase(history_.begin(), history_.end() - static_cast<std::ptrdiff_t>(limit));
}

void Sampler::reset_history() { history_.clear(); }

bool Sampler::penalizes() const {
  return options_.repeat_penalty != 1 || options_.presence_penalty != 0 ||
         options_.frequency_penalty != 0;
}

void Sampler::apply_bias_and_penalties() {
  const auto known = [this](std::int32_t id) {
    return id >= 0 && static_cast<std::size_t>(id) < logits_.size();
  };
  for (const auto& [id, bias] : options_.logit_bias) {
    if (!known(id)) continue;
    float& logit = logits_[static_cast<std::size_t>(id)];
    // OpenAI's -100 means never.
    logit = bias <= -100 ? -std::numeric_limits<float>::infinity() : finite(logit + bias);
  }
  if (!penalizes()) return;
  std::map<std::int32_t, int> counts;
  for (const std::int32_t id : history_)
    if (known(id)) ++counts[id];
  for (const auto& [id, count] : counts) {
    float& logit = logits_[static_cast<std::size_t>(id)];
    const float penalty = options_.repeat_penalty;
    logit = finite(logit > 0 ? logit / penalty : logit * penalty);
    logit -= options_.presence_penalty + options_.frequency_penalty * static_cast<float>(count);
  }
}

std::uint64_t Sampler::next_random() {  // xoshiro256**
  auto& s = rng_;
  const std::uint64_t result = std::rotl(s[1] * 5, 7) * 9;
  const std::uint64_t t = s[1] << 17;
  s[2] ^= s[0];
  s[3] ^= s[1];
  s[1] ^= s[2];
  s[0] ^= s[3];
  s[2] ^= t;
  s[3] = std::rotl(s[3], 45);
  return result;
}

// candidates_: what top-k, top-p and min-p leave, best first; at least one unless all are banned.
void Sampler::select_candidates() {
  if (options_.temperature == 0) return keep_top_k(logits_, 1, candidates_);
  const auto k = static_cast<std::size_t>(std::max(options_.top_k, 0));
  if (k > 0 && k < logits_.size()) {
    keep_top_k(logits_, k, candidates_);
    if (!candidates_.empty()) keep_probable(softmax_weights(candidates_, 1, weights_));
    return;
  }
  const double sum = keep_likely(logits_, static_cast<double>(options_.min_p), candidates_);
  if (candidates_.empty()) return;
  softmax_weights(candidates_, 1, weights_);
  keep_probable(sum);
}

// Of candidates_ those that top-p and min-p leave. weights_ belong to them; sum: of all that top-p
// counts.
void Sampler::keep_probable(double sum) {
  const auto min_p = static_cast<double>(options_.min_p);
  std::size_t kept = options_.top_p < 1 ? nucleus(weights_, sum, options_.top_p) : weights_.size();
  // weights_[0] is 1, so the weights are the probabilities relative to the best.
  while (kept > 1 && weights_[kept - 1] < min_p) --kept;
  candidates_.resize(kept);
}

// candidates_ are sorted and weights_ belong to them.
std::int32_t Sampler::draw() {
  double sum = 0;
  for (const double weight : weights_) sum += weight;
  double left = static_cast<double>(next_random() >> 11) * 0x1p-53 * sum;
  for (std::size_t i = 0; i < weights_.size(); ++i) {
    left -= weights_[i];
    if (left < 0) return candidates_[i].second;
  }
  return candidates_[weights_.size() - 1].second;  // rounding
}

std::int32_t Sampler::sample(std::span<const float> logits, const TokenConstraint* constraint) {
  check_logits(logits, [](float logit) { return logit; });
  logits_.assign(logits.begin(), logits.end());
  apply_bias_and_penalties();
  const std::int32_t token = choose();
  // Most draws of a model that means to follow the grammar are allowed, and asking about one token
  // costs next to nothing.
  if (constraint == nullptr || constraint->allows(token)) return token;
  constraint->mask(logits_);
  return choose();
}

int Sampler::top_logits(std::int64_t vocab) const {
  if (!options_.logit_bias.empty() || penalizes()) return 0;
  if (options_.temperature == 0) return 1;
  return options_.top_k <= kMostTopLogits && options_.top_k < vocab ? options_.top_k : 0;
}

std::int32_t Sampler::sample_top(std::span<const TopLogit> best) {
  check_logits(best, [](const TopLogit& top) { return top.logit; });
  candidates_.clear();
  for (const TopLogit& top : best) {
    if (top.logit > -std::numeric_limits<float>::infinity()) {
      candidates_.emplace_back(top.logit, top.token);
    }
  }
  if (options_.temperature != 0 && !candidates_.empty()) {
    keep_probable(softmax_weights(candidates_, 1, weights_));
  }
  return choose_candidate();
}

std::int32_t Sampler::choose() {
  select_candidates();
  return choose_candidate();
}

std::int32_t Sampler::choose_candidate() {
  if (candidates_.empty())
    throw_error(ErrorCode::bad_request, "every token is banned, none can be drawn");
  if (options_.temperature == 0) return candidates_[0].second;
  softmax_weights(candidates_, options_.temperature, weights_);
  return draw();
}

StopMatcher::StopMatcher(std::vector<std::string> stops) : stops_(std::move(stops)) {
  std::erase(stops_, "");
}

StopMatcher::Result StopMatcher::push(std::string_view piece) {
  held_ += piece;
  // The stop string that ends first wins, as if the text came one byte at a time; of those that
  // end together the longest.
  std::size_t begin = std::string::npos, end = std::string::npos;
  for (const std::string& stop : stops_) {
    const std::size_t at = held_.find(stop);
    if (at == std::string::npos) continue;
    const std::size_t stop_end = at + stop.size();
    if (end != std::string::npos && (stop_end > end || (stop_end == end && at > begin))) continue;
    begin = at;
    end = stop_end;
  }
  if (begin != std::string::npos) {
    Result result{held_.substr(0, begin), true};
    held_.clear();
    return result;
  }
  std::size_t hold = 0;  // the longest end of the text that begins a stop string
  for (const std::string& stop : stops_) {
    for (std::size_t n = std::min(stop.size() - 1, held_.size()); n > hold; --n)
      if (std::string_view(held_).substr(held_.size() - n) == std::string_view(stop).substr(0, n))
        hold = n;
  }
  Result result{held_.substr(0, held_.size() - hold), false};
  held_.erase(0, held_.size() - hold);
  return result;
}

std::string StopMatcher::finish() { return std::exchange(held_, {}); }

}  // namespace tenfold
