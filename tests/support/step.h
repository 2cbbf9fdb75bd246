#pragma once
// Running a model in tests without sessions: whole prompts, token by token, or batches.

#include <algorithm>
#include <memory>
#include <vector>

#include "models/decoder.h"

namespace tenfold {

struct LoadedModel {
  std::unique_ptr<Model> model;
  Workspace ws;

  explicit LoadedModel(const std::filesystem::path& path, int threads = 2, std::string isa = "")
      : model(load_model(std::make_shared<const ModelSource>(path))),
        ws(make_cpu_backend({threads, std::move(isa)})) {}
};

inline std::vector<float> wanted_logits(LoadedModel& m, const Batch& batch) {
  const std::size_t n = batch.logit_rows.size() * static_cast<std::size_t>(m.model->info().vocab);
  const std::span<const float> logits = m.ws.logits_on_host(n);
  return {logits.begin(), logits.end()};
}

// The most likely next token, n times over.
inline std::vector<std::int32_t> greedy_ids(LoadedModel& m, const std::vector<std::int32_t>& prompt,
                                            std::size_t n, KvType kv_type = KvType::f16) {
  KvCache kv(kv_shape(m.model->info(), kv_type), 128, 1, *m.ws.backend);
  std::vector<std::int32_t> produced;
  std::vector<std::int32_t> input = prompt;
  std::int32_t position = 0;
  while (produced.size() < n) {
    Batch batch;
    for (const std::int32_t id : input) batch.add(id, position++, 0);
    batch.logit_rows.push_back(static_cast<std::int32_t>(input.size()) - 1);
    forward(*m.model, batch, kv, m.ws);
    const std::vector<float> logits = wanted_logits(m, batch);
    const auto best = std::max_element(logits.begin(), logits.end()) - logits.begin();
    produced.push_back(static_cast<std::int32_t>(best));
    input = {produced.back()};
  }
  return produced;
}

// Logits [tokens, vocab] of every position, prompts of one sequence each, fed `chunk` tokens at a
// time (0: everything in one step).
inline std::vector<std::vector<float>> run_prompts(
    LoadedModel& m, const std::vector<std::vector<std::int32_t>>& prompts, std::size_t chunk,
    KvType kv_type) {
  std::size_t longest = 0;
  for (const auto& prompt : prompts) longest = std::max(longest, prompt.size());
  const auto n = static_cast<std::int32_t>(prompts.size());
  KvCache kv(kv_shape(m.model->info(), kv_type), n * static_cast<std::int64_t>(longest + 64), n,
             *m.ws.backend);
  std::vector<std::vector<float>> logits(prompts.size());
  if (chunk == 0) chunk = longest;
  for (std::size_t begin = 0; begin < longest; begin += chunk) {
    Batch batch;
    for (std::int32_t s = 0; s < n; ++s) {
      const auto& prompt = prompts[static_cast<std::size_t>(s)];
      for (std::size_t i = begin; i < std::min(prompt.size(), begin + chunk); ++i) {
        batch.logit_rows.push_back(static_cast<std::int32_t>(batch.tokens.size()));
        batch.add(prompt[i], static_cast<std::int32_t>(i), s);
      }
    }
    forward(*m.model, batch, kv, m.ws);
    const std::vector<float> step = wanted_logits(m, batch);
    const auto vocab = static_cast<std::size_t>(m.model->info().vocab);
    for (std::size_t t = 0; t < batch.tokens.size(); ++t) {
      auto& out = logits[static_cast<std::size_t>(batch.sequences[t])];
      out.insert(out.end(), step.begin() + static_cast<std::ptrdiff_t>(t * vocab),
                 step.begin() + static_cast<std::ptrdiff_t>((t + 1) * vocab));
    }
  }
  return logits;
}

}  // namespace tenfold
