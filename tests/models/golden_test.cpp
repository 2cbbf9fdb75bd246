// The five checkpoints against transformers' float32 logits, hidden states and greedy ids.

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "kernels/cpu/isa.h"
#include "runtime/files/safetensors.h"
#include "tests/support/step.h"

namespace tenfold {
namespace {

constexpr float kTolerance = 2e-3f;

template <typename T>
std::vector<T> values(const SafetensorsFile& file, const char* name) {
  const TensorSource* tensor = file.find(name);
  EXPECT_NE(tensor, nullptr) << name;
  std::vector<T> out(static_cast<std::size_t>(tensor->elements()));
  std::memcpy(out.data(), tensor->data.data(), tensor->data.size());
  return out;
}

struct Golden {
  SafetensorsFile file;
  std::vector<std::vector<std::int32_t>> prompts;

  explicit Golden(const std::filesystem::path& folder) : file(folder / "expected.safetensors") {
    const auto ids = values<std::int32_t>(file, "input_ids");
    const auto& shape = file.find("input_ids")->shape;
    for (std::int64_t b = 0; b < shape[0]; ++b) {
      prompts.emplace_back(ids.begin() + b * shape[1], ids.begin() + (b + 1) * shape[1]);
    }
  }
};

std::filesystem::path folder_of(const std::string& name) {
  return std::filesystem::path(TENFOLD_TEST_DATA) / "models" / name;
}

class GoldenTest : public ::testing::TestWithParam<const char*> {};

TEST_P(GoldenTest, LogitsAgreeAndIgnoreBatching) {
  const Golden golden(folder_of(GetParam()));
  const auto expected = values<float>(golden.file, "logits");
  for (const KernelTable* table : runnable_kernels()) {
    LoadedModel m(folder_of(GetParam()), 2, table->isa);
    const auto batch = run_prompts(m, golden.prompts, 0, KvType::f32);
    std::size_t at = 0;
    float worst = 0;
    for (const auto& sequence : batch) {
      for (const float logit : sequence)
        worst = std::max(worst, std::fabs(logit - expected.at(at++)));
    }
    EXPECT_EQ(at, expected.size());
    EXPECT_LT(worst, kTolerance) << table->isa;
    const auto token_by_token = run_prompts(m, golden.prompts, 1, KvType::f32);
    const auto chunked = run_prompts(m, golden.prompts, 7, KvType::f32);
    for (std::size_t s = 0; s < golden.prompts.size(); ++s) {
      const auto alone = run_prompts(m, {golden.prompts[s]}, 0, KvType::f32);
      ASSERT_EQ(alone.front().size(), batch[s].size());
      const std::size_t bytes = batch[s].size() * sizeof(float);
      EXPECT_EQ(0, std::memcmp(alone.front().data(), batch[s].data(), bytes)) << table->isa;
      EXPECT_EQ(0, std::memcmp(token_by_token[s].data(), batch[s].data(), bytes)) << table->isa;
      EXPECT_EQ(0, std::memcmp(chunked[s].data(), batch[s].data(), bytes)) << table->isa;
    }
  }
}

TEST_P(GoldenTest, EightBitCacheIgnoresBatching) {
  const Golden golden(folder_of(GetParam()));
  for (const KernelTable* table : runnable_kernels()) {
    LoadedModel m(folder_of(GetParam()), 2, table->isa);
    const auto batch = run_prompts(m, golden.prompts, 0, KvType::q8);
    const auto token_by_token = run_prompts(m, golden.prompts, 1, KvType::q8);
    const auto chunked = run_prompts(m, golden.prompts, 7, KvType::q8);
    EXPECT_EQ(token_by_token, batch) << table->isa;
    EXPECT_EQ(chunked, batch) << table->isa;
  }
}

TEST_P(GoldenTest, FirstLayerOutputAgrees) {
  const Golden golden(folder_of(GetParam()));
  const auto expected = values<float>(golden.file, "hidden_after_layer_1");
  LoadedModel m(folder_of(GetParam()));
  std::size_t at = 0;
  for (const auto& prompt : golden.prompts) {
    KvCache kv(kv_shape(m.model->info(), KvType::f32), static_cast<std::int64_t>(prompt.size()), 1,
               *m.ws.backend);
    Batch batch;
    for (const std::int32_t id : prompt) batch.add(id, static_cast<std::int32_t>(batch.size()), 0);
    forward(*m.model, batch, kv, m.ws, 0, [&](std::int64_t layer, std::span<const float> x) {
      if (layer != 0) return;
      for (const float value : x) EXPECT_NEAR(value, expected.at(at++), kTolerance);
    });
  }
  EXPECT_EQ(at, expected.size());
}

TEST_P(GoldenTest, GreedyIdsAgree) {
  const Golden golden(folder_of(GetParam()));
  const auto ids = values<std::int32_t>(golden.file, "greedy_prompt");
  auto expected = values<std::int32_t>(golden.file, "greedy_ids");
  if (expected.size() > 24 - ids.size() && std::equal(ids.begin(), ids.end(), expected.begin())) {
    expected.erase(expected.begin(), expected.begin() + static_cast<std::ptrdiff_t>(ids.size()));
  }
  LoadedModel m(folder_of(GetParam()));
  EXPECT_EQ(greedy_ids(m, ids, expected.size(), KvType::f32), expected);
}

TEST_P(GoldenTest, HalfPrecisionCacheStaysClose) {
  const Golden golden(folder_of(GetParam()));
  LoadedModel m(folder_of(GetParam()));
  const auto exact = run_prompts(m, golden.prompts, 0, KvType::f32);
  const auto half = run_prompts(m, golden.prompts, 0, KvType::f16);
  float worst = 0;
  for (std::size_t s = 0; s < exact.size(); ++s) {
    for (std::size_t i = 0; i < exact[s].size(); ++i) {
      worst = std::max(worst, std::fabs(exact[s][i] - half[s][i]));
    }
  }
  EXPECT_LT(worst, 0.02f);
  EXPECT_GT(worst, 0.0f);  // the option does something
}

// An element is off by at most 1/254 of its vector's largest, by 1/(254 sqrt(3)) of it in the mean.
// The largest is at most some 4 times the root mean square, so keys and values are off by 0.9 %,
// and the sum of three layers' independent errors by 1.6 %, 2^-6.
TEST_P(GoldenTest, EightBitCacheStaysClose) {
  const Golden golden(folder_of(GetParam()));
  LoadedModel m(folder_of(GetParam()));
  const auto exact = run_prompts(m, golden.prompts, 0, KvType::f32);
  const auto eight = run_prompts(m, golden.prompts, 0, KvType::q8);
  double error = 0;
  double size = 0;
  for (std::size_t s = 0; s < exact.size(); ++s) {
    for (std::size_t i = 0; i < exact[s].size(); ++i) {
      const double d = double{exact[s][i]} - double{eight[s][i]};
      error += d * d;
      size += double{exact[s][i]} * double{exact[s][i]};
    }
  }
  std::printf("%s: relative error of the logits %g\n", GetParam(), std::sqrt(error / size));
  EXPECT_LT(std::sqrt(error / size), 0x1p-6);
  EXPECT_GT(error, 0.0);
}

INSTANTIATE_TEST_SUITE_P(Checkpoints, GoldenTest,
                         ::testing::Values("llama-mha", "llama-gqa-rope3-tied",
                                           "llama-headdim-bias", "opt-pre-ln", "opt-post-ln-proj"),
                         [](const auto& test) {
                           std::string name = test.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace tenfold
