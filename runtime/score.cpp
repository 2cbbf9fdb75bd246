#include "runtime/score.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/error.h"
#include "runtime/session.h"

namespace tenfold {
namespace {

constexpr std::int64_t kHeadRows = 64;  // rows of logits held at a time

}  // namespace

void score_rows(const Model& model, Batch& batch, Workspace& ws, std::span<const std::int32_t> rows,
                std::span<const std::int32_t> targets, double* nll, const LogitsTap& see) {
  const std::int64_t vocab = model.info().vocab;
  const auto n = static_cast<std::int64_t>(rows.size());
  for (std::int64_t begin = 0; begin < n; begin += kHeadRows) {
    const auto count = static_cast<std::size_t>(std::min(kHeadRows, n - begin));
    const auto part = rows.subspan(static_cast<std::size_t>(begin), count);
    batch.logit_rows.assign(part.begin(), part.end());
    run_head(model, batch, ws);
    const std::size_t floats = count * static_cast<std::size_t>(vocab);
    ws.backend->nll(ws.get<float>(ws.logits, floats), vocab,
                    targets.subspan(static_cast<std::size_t>(begin), count), nll + begin);
    if (see) see(static_cast<std::size_t>(begin), ws.logits_on_host(floats));
  }
}

std::vector<double> sequence_nll(const Model& model, Workspace& ws, KvCache& kv,
                                 std::span<const TokenId> tokens, std::int64_t first) {
  const auto n = static_cast<std::int64_t>(tokens.size());
  std::vector<double> nll(static_cast<std::size_t>(std::max<std::int64_t>(0, n - 1 - first)));
  Batch batch;
  kv.resize(0, 0);
  for (std::int64_t begin = 0; begin < n - 1; begin += kPrefillChunk) {
    const std::int64_t end = std::min(n - 1, begin + kPrefillChunk);
    batch.clear();
    std::vector<std::int32_t> rows;
    std::vector<std::int32_t> targets;
    for (std::int64_t i = begin; i < end; ++i) {
      batch.add(tokens[static_cast<std::size_t>(i)], static_cast<std::int32_t>(i), 0);
      if (i < first) continue;
      rows.push_back(static_cast<std::int32_t>(i - begin));
      targets.push_back(tokens[static_cast<std::size_t>(i + 1)]);
    }
    forward(model, batch, kv, ws);
    score_rows(model, batch, ws, rows, targets, nll.data() + std::max(begin, first) - first);
  }
  return nll;
}

std::vector<std::vector<TokenId>> cut_windows(std::span<const TokenId> tokens,
                                              const PerplexityOptions& options,
                                              std::int64_t max_context) {
  if (options.window < 4 || options.window > max_context) {
    throw_error(ErrorCode::bad_request, "--window {} is out of range: 4 ... {} for this model",
                options.window, max_context);
  }
  const auto window = static_cast<std::size_t>(options.window);
  std::size_t count = tokens.size() / window;
  if (count == 0) {
    throw_error(ErrorCode::bad_request, "the text has {} tokens, fewer than one window of {}",
                tokens.size(), window);
  }
  if (options.max_windows > 0) {
    count = std::min(count, static_cast<std::size_t>(options.max_windows));
  }
  std::vector<std::vector<TokenId>> windows;
  for (std::size_t w = 0; w < count; ++w) {
    const auto part = tokens.subspan(w * window, window);
    windows.emplace_back(part.begin(), part.end());
    if (options.window_bos) windows.back().front() = *options.window_bos;
  }
  return windows;
}

PerplexityResult perplexity(
    const Model& model, Workspace& ws, std::span<const TokenId> tokens,
    const PerplexityOptions& options,
    const std::function<bool(std::int64_t, std::int64_t, const PerplexityResult&)>& progress) {
  const std::vector<std::vector<TokenId>> windows =
      cut_windows(tokens, options, model.info().max_context);
  const auto n_windows = static_cast<std::int64_t>(windows.size());
  const std::int64_t first = options.half ? options.window / 2 : 0;
  KvCache kv(kv_shape(model.info(), options.kv), options.window, 1, *ws.backend);
  PerplexityResult result;
  double total = 0;
  for (const std::vector<TokenId>& ids : windows) {
    const std::vector<double> nll = sequence_nll(model, ws, kv, ids, first);
    const double sum = std::accumulate(nll.begin(), nll.end(), 0.0);
    total += sum;
    result.window_nll.push_back(sum / static_cast<double>(nll.size()));
    result.tokens += static_cast<std::int64_t>(nll.size());
    ++result.windows;
    result.nll = total / static_cast<double>(result.tokens);
    result.ppl = std::exp(result.nll);
    if (progress && !progress(result.windows, n_windows, result)) {
      throw_error(ErrorCode::cancelled, "interrupted");
    }
  }
  return result;
}

}  // namespace tenfold
