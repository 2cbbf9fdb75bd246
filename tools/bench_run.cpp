#include "tools/bench_run.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>
#include <vector>

#include "runtime/session.h"

namespace tenfold {
namespace {

template <typename Run>
Speed timed_runs(std::int64_t runs, std::int64_t tokens, Run&& run, const BenchHooks& hooks) {
  using Clock = std::chrono::steady_clock;
  std::vector<double> speeds;
  hooks.between_runs();
  for (std::int64_t i = 0; i < runs; ++i) {
    const Clock::time_point start = Clock::now();
    run();
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    speeds.push_back(static_cast<double>(tokens) / seconds);
    hooks.between_runs();
  }
  return summarize(speeds);
}

// Two primes: neighbouring positions and sequences get rows of the embedding that lie far apart.
std::int32_t token_at(std::int64_t position, std::int64_t sequence, std::int64_t vocab) {
  return static_cast<std::int32_t>((position * 104729 + sequence * 7919 + 3) % vocab);
}

// As whoever samples from them does: a device may still be at work when forward() returns.
void wait_for_logits(const Model& model, const Batch& batch, Workspace& ws) {
  ws.logits_on_host(batch.logit_rows.size() * static_cast<std::size_t>(model.info().vocab));
}

}  // namespace

Speed summarize(std::span<const double> speeds) {
  Speed result;
  const auto n = static_cast<double>(speeds.size());
  if (speeds.empty()) return result;
  result.mean = std::accumulate(speeds.begin(), speeds.end(), 0.0) / n;
  double squares = 0;
  for (const double speed : speeds) squares += (speed - result.mean) * (speed - result.mean);
  if (speeds.size() > 1) result.sd = std::sqrt(squares / (n - 1));
  return result;
}

Speed bench_prefill(const Model& model, Workspace& ws, KvType kv, std::int64_t tokens,
                    std::int64_t runs, const BenchHooks& hooks) {
  const ModelInfo& info = model.info();
  KvCache cache(kv_shape(info, kv), tokens, 1, *ws.backend);
  const std::int64_t chunks = (tokens + kPrefillChunk - 1) / kPrefillChunk;
  std::int64_t done = 0;
  Batch batch;
  const auto run = [&] {
    cache.resize(0, 0);
    for (std::int64_t begin = 0; begin < tokens; begin += kPrefillChunk) {
      hooks.before_step(done++, chunks * (runs + 1));
      const std::int64_t end = std::min(tokens, begin + kPrefillChunk);
      batch.clear();
      for (std::int64_t i = begin; i < end; ++i) {
        batch.add(token_at(i, 0, info.vocab), static_cast<std::int32_t>(i), 0);
      }
      if (end == tokens) batch.logit_rows.push_back(static_cast<std::int32_t>(end - begin - 1));
      forward(model, batch, cache, ws);
    }
    wait_for_logits(model, batch, ws);
  };
  run();  // pages in the weights and grows the workspace
  return timed_runs(runs, tokens, run, hooks);
}

Speed bench_decode(const Model& model, Workspace& ws, KvType kv, std::int32_t batch,
                   std::int64_t steps, std::int64_t runs, const BenchHooks& hooks) {
  const ModelInfo& info = model.info();
  const std::int64_t pages = (steps + kPageTokens - 1) / kPageTokens;
  KvCache cache(kv_shape(info, kv), batch * pages * kPageTokens, batch, *ws.backend);
  std::int64_t done = 0;
  Batch rows;
  const auto run = [&](std::int64_t n_steps) {
    for (std::int32_t s = 0; s < batch; ++s) cache.resize(s, 0);
    for (std::int64_t i = 0; i < n_steps; ++i) {
      hooks.before_step(done++, steps * runs + 1);
      rows.clear();
      for (std::int32_t s = 0; s < batch; ++s) {
        rows.add(token_at(i, s, info.vocab), static_cast<std::int32_t>(i), s);
        rows.logit_rows.push_back(s);
      }
      forward(model, rows, cache, ws);
      wait_for_logits(model, rows, ws);
    }
  };
  run(1);
  return timed_runs(
      runs, batch * steps, [&] { run(steps); }, hooks);
}

}  // namespace tenfold
