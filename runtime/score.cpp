#include "runtime/score.h"

#include <algorithm>
#include <cmath>

#include "kernels/error.h"
#include "runtime/session.h"

namespace tenfold {
namespace {

constexpr std::int64_t kHeadRows = 64;  // rows of logits held at a time

// NLL of targets[i] under row rows[i] of the step just run.
void score_rows(const Model& model, Batch& batch, Workspace& ws, std::span<const std::int32_t> rows,
                std::span<const std::int32_t> targets, double* nll) {
  const std::int64_t vocab = model.info().vocab;
  const auto n = static_cast<std::int64_t>(rows.size());
  for (std::int64_t begin = 0; begin < n; begin += kHeadRows) {
    const auto count = static_cast<std::size_t>(std::min(kHeadRows, n - begin));
    const auto part = rows.subspan(static_cast<std::size_t>(begin), count);
    batch.logit_rows.assign(part.begin(), part.end());
    model.head(batch, ws);
    ws.backend->nll(ws.logits.get<float>(count * static_cast<std::size_t>(vocab)), vocab,
                    targets.subspan(static_cast<std::size_t>(begin), count), nll + begin);
  }
}

}  // namespace

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

PerplexityResult perplexity(
    const Model& model, Workspace& ws, std::span<const TokenId> tokens,
    const PerplexityOptions& options,
    const std::function<bool(std::int64_t, std::int64_t, const PerplexityResult&)>& progress) {
  const std::int64_t window = options.window;
  if (window < 4 || window > model.info().max_context) {
    throw_error(ErrorCode::bad_request, "--window {} is out of range: 4 ... {} for this model",
                window, model.info().max_context);
  }
  std::int64_t windows = static_cast<std::int64_t>(tokens.size()) / window;
  if (windows == 0) {
    throw_error(ErrorCode::bad_request, "the text has {} tokens, fewer than one window of {}",
                tokens.size(), window);
  }
  if (options.max_windows > 0) windows = std::min(windows, options.max_windows);
  KvCache kv(kv_shape(model.info(), options.kv), window);
  PerplexityResult result;
  double total = 0;
  for (std::int64_t w = 0; w < windows; ++w) {
    const auto part =
        tokens.subspan(static_cast<std::size_t>(w * window), static_cast<std::size_t>(window));
    std::vector<TokenId> ids(part.begin(), part.end());
    if (options.window_bos) ids.front() = *options.window_bos;
    const std::vector<double> nll = sequence_nll(model, ws, kv, ids, options.half ? window / 2 : 0);
    for (const double value : nll) total += value;
    result.tokens += static_cast<std::int64_t>(nll.size());
    result.windows = w + 1;
    result.nll = total / static_cast<double>(result.tokens);
    result.ppl = std::exp(result.nll);
    if (progress && !progress(w + 1, windows, result)) {
      throw_error(ErrorCode::cancelled, "interrupted");
    }
  }
  return result;
}

}  // namespace tenfold
