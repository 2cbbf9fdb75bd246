// What a step reads and multiplies, against sums over the shapes in each config.json.

#include <gtest/gtest.h>

#include "tests/support/step.h"

namespace tenfold {
namespace {

WeightWork work_of(const char* name) {
  const LoadedModel m(std::filesystem::path(TENFOLD_TEST_DATA) / "models" / name);
  return m.model->info().work;
}

TEST(WeightWork, AHeadOfItsOwnLeavesTheEmbeddingOut) {
  const WeightWork work = work_of("llama-mha");  // F16
  const std::int64_t layer = 4 * 128 * 128 + 3 * 352 * 128;
  EXPECT_EQ(work.token_macs, 2 * layer);
  EXPECT_EQ(work.logit_macs, 384 * 128);
  const std::int64_t norms = 5 * 128;
  EXPECT_EQ(work.step_bytes,
            static_cast<std::uint64_t>(2 * (work.token_macs + work.logit_macs) + 4 * norms));
  EXPECT_FALSE(work.int8);
}

TEST(WeightWork, ATiedEmbeddingIsReadAsTheHead) {
  const WeightWork work = work_of("llama-gqa-rope3-tied");  // BF16
  const std::int64_t layer = 2 * 192 * 192 + 2 * 64 * 192 + 3 * 512 * 192;
  EXPECT_EQ(work.token_macs, 2 * layer);
  EXPECT_EQ(work.logit_macs, 384 * 192);
  const std::int64_t norms = 5 * 192;
  EXPECT_EQ(work.step_bytes,
            static_cast<std::uint64_t>(2 * (work.token_macs + work.logit_macs) + 4 * norms));
}

TEST(WeightWork, ProjectionsBelongToTheTokenAndToTheLogits) {
  const WeightWork work = work_of("opt-post-ln-proj");  // F32, learned positions, no final norm
  const std::int64_t layer = 4 * 128 * 128 + 2 * 384 * 128;
  EXPECT_EQ(work.token_macs, 2 * layer + 128 * 64);
  EXPECT_EQ(work.logit_macs, 384 * 64 + 64 * 128);
  const std::int64_t vectors = 2 * (4 * 128 + 4 * 128 + 384 + 128);  // norms, biases
  EXPECT_EQ(work.step_bytes,
            static_cast<std::uint64_t>(4 * (work.token_macs + work.logit_macs + vectors)));
}

}  // namespace
}  // namespace tenfold
