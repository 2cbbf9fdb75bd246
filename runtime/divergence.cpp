#include "runtime/divergence.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/error.h"
#include "kernels/thread_pool.h"
#include "runtime/session.h"

namespace tenfold {
namespace {

constexpr std::size_t kHeadRows = 64;  // rows of logits held at a time

struct LogSum {
  double max, log_sum;  // log sum exp(x) = max + log_sum
};

LogSum log_sum_exp(std::span<const float> logits) {
  const float max = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float x : logits) sum += static_cast<double>(std::exp(x - max));
  return {static_cast<double>(max), std::log(sum)};
}

std::size_t top(std::span<const float> logits) {
  return static_cast<std::size_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

// One model on its way through a window.
struct Runner {
  Evaluated of;
  KvCache kv;
  Batch batch;

  void step(std::span<const TokenId> ids, std::int64_t position) {
    batch.clear();
    for (const TokenId id : ids) batch.add(id, static_cast<std::int32_t>(position++), 0);
    forward(*of.model, batch, kv, *of.ws);
  }
  std::span<const float> logits(std::span<const std::int32_t> rows) {
    batch.logit_rows.assign(rows.begin(), rows.end());
    run_head(*of.model, batch, *of.ws);
    const std::size_t n = rows.size() * static_cast<std::size_t>(of.model->info().vocab);
    return of.ws->logits_on_host(n);
  }
};

struct Scores {
  std::vector<double> kl;
  std::int64_t same_top = 0;
};

// Positions [first, ids.size() - 1) of one window.
void compare_window(Runner& reference, Runner& model, std::span<const TokenId> ids,
                    std::int64_t first, ThreadPool& pool, Scores& scores) {
  const auto n = static_cast<std::int64_t>(ids.size()) - 1;
  const auto vocab = static_cast<std::size_t>(model.of.model->info().vocab);
  reference.kv.resize(0, 0);
  model.kv.resize(0, 0);
  for (std::int64_t begin = 0; begin < n; begin += kPrefillChunk) {
    const std::int64_t end = std::min(n, begin + kPrefillChunk);
    const auto part =
        ids.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(end - begin));
    reference.step(part, begin);
    model.step(part, begin);
    const std::int64_t skipped = std::clamp<std::int64_t>(first - begin, 0, end - begin);
    std::vector<std::int32_t> rows(static_cast<std::size_t>(end - begin - skipped));
    std::iota(rows.begin(), rows.end(), static_cast<std::int32_t>(skipped));
    for (std::size_t r = 0; r < rows.size(); r += kHeadRows) {
      const auto some = std::span(rows).subspan(r, std::min(kHeadRows, rows.size() - r));
      const std::span<const float> p = reference.logits(some);
      const std::span<const float> q = model.logits(some);
      std::vector<double> kl(some.size());
      std::vector<char> same(some.size());
      pool.run(static_cast<int>(some.size()), [&](int i, int) {
        const auto at = static_cast<std::size_t>(i);
        const auto a = p.subspan(at * vocab, vocab);
        const auto b = q.subspan(at * vocab, vocab);
        kl[at] = kl_divergence(a, b);
        same[at] = top(a) == top(b) ? 1 : 0;
      });
      if (!std::all_of(kl.begin(), kl.end(), [](double x) { return std::isfinite(x); })) {
        throw_error(ErrorCode::bad_request, "a logit of one of the models is not a finite number");
      }
      scores.kl.insert(scores.kl.end(), kl.begin(), kl.end());
      scores.same_top += std::count(same.begin(), same.end(), 1);
    }
  }
}

double mean_of(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

// Nearest rank; sorted is not empty.
double quantile(const std::vector<double>& sorted, double share) {
  const double rank = share * static_cast<double>(sorted.size() - 1);
  return sorted[static_cast<std::size_t>(std::lround(rank))];
}

}  // namespace

double kl_divergence(std::span<const float> logits_p, std::span<const float> logits_q) {
  const LogSum p = log_sum_exp(logits_p);
  const LogSum q = log_sum_exp(logits_q);
  double sum = 0;
  for (std::size_t i = 0; i < logits_p.size(); ++i) {
    const double log_p = static_cast<double>(logits_p[i]) - p.max - p.log_sum;
    const double log_q = static_cast<double>(logits_q[i]) - q.max - q.log_sum;
    sum += static_cast<double>(std::exp(static_cast<float>(log_p))) * (log_p - log_q);
  }
  return sum < 0 ? 0.0 : sum;  // NaN stays
}

DivergenceResult divergence(
    const Evaluated& reference, const Evaluated& model, std::span<const TokenId> tokens,
    const PerplexityOptions& options,
    const std::function<bool(std::int64_t, std::int64_t, double)>& progress) {
  const ModelInfo& info = model.model->info();
  const ModelInfo& reference_info = reference.model->info();
  if (info.vocab != reference_info.vocab) {
    throw_error(ErrorCode::bad_request,
                "the models cannot be compared: one has a vocabulary of {}, the reference of {}",
                info.vocab, reference_info.vocab);
  }
  const std::vector<std::vector<TokenId>> windows =
      cut_windows(tokens, options, std::min(info.max_context, reference_info.max_context));
  const std::int64_t first = options.half ? options.window / 2 : 0;
  Runner p{reference,
           KvCache(kv_shape(reference_info, options.kv), options.window, 1, *reference.ws->backend),
           {}};
  Runner q{model, KvCache(kv_shape(info, options.kv), options.window, 1, *model.ws->backend), {}};
  ThreadPool pool(default_thread_count());
  Scores scores;
  DivergenceResult result;
  for (const std::vector<TokenId>& ids : windows) {
    compare_window(p, q, ids, first, pool, scores);
    ++result.windows;
    if (progress &&
        !progress(result.windows, static_cast<std::int64_t>(windows.size()), mean_of(scores.kl))) {
      throw_error(ErrorCode::cancelled, "interrupted");
    }
  }
  result.tokens = static_cast<std::int64_t>(scores.kl.size());
  result.mean = mean_of(scores.kl);
  result.same_top = static_cast<double>(scores.same_top) / static_cast<double>(result.tokens);
  std::sort(scores.kl.begin(), scores.kl.end());
  result.median = quantile(scores.kl, 0.5);
  result.p90 = quantile(scores.kl, 0.9);
  result.p99 = quantile(scores.kl, 0.99);
  result.max = scores.kl.back();
  return result;
}

}  // namespace tenfold
