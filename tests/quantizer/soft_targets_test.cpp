#include "quantizer/search/soft_targets.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/random.h"

namespace tenfold {
namespace {

double log_sum(const std::vector<float>& logits) {
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit));
  return std::log(sum);
}

std::vector<float> logits_of(std::size_t vocab, std::uint32_t seed) {
  std::vector<float> logits = random_floats(vocab, seed);
  for (float& logit : logits) logit *= 8;
  return logits;
}

double exact(const std::vector<float>& teacher, const std::vector<float>& model) {
  double sum = 0;
  for (std::size_t i = 0; i < teacher.size(); ++i) {
    sum -= std::exp(static_cast<double>(teacher[i]) - log_sum(teacher)) *
           (static_cast<double>(model[i]) - log_sum(model));
  }
  return sum;
}

TEST(SoftTargets, AreTheWholeDistributionOfASmallVocabulary) {
  SoftTargets targets(50);
  for (const std::uint32_t seed : {1u, 2u}) {
    const std::vector<float> teacher = logits_of(50, seed);
    targets.add(teacher.data(), log_sum(teacher));
  }
  const std::vector<float> model = logits_of(50, 3);
  EXPECT_NEAR(targets.cross_entropy(0, model.data(), log_sum(model)),
              exact(logits_of(50, 1), model), 1e-5);
  EXPECT_NEAR(targets.cross_entropy(1, model.data(), log_sum(model)),
              exact(logits_of(50, 2), model), 1e-5);
}

// The rest is one: by the log sum inequality that is never more than the whole, and the model that
// is least is the teacher still.
TEST(SoftTargets, CountTheUnlikelyTogether) {
  const std::vector<float> teacher = logits_of(1000, 1);
  SoftTargets targets(1000);
  targets.add(teacher.data(), log_sum(teacher));
  const double own = targets.cross_entropy(0, teacher.data(), log_sum(teacher));
  EXPECT_LE(own, exact(teacher, teacher));
  for (const std::uint32_t seed : {2u, 3u, 4u}) {
    std::vector<float> model = logits_of(1000, seed);
    for (std::size_t i = 0; i < model.size(); ++i) model[i] = 0.1f * model[i] + teacher[i];
    EXPECT_GT(targets.cross_entropy(0, model.data(), log_sum(model)), own) << seed;
    EXPECT_LT(targets.cross_entropy(0, model.data(), log_sum(model)), exact(teacher, model))
        << seed;
  }
}

// A model that leaves nothing to the rest is bad, but its loss is a number.
TEST(SoftTargets, ForgiveNoCertainty) {
  const std::vector<float> teacher(1000, 0.0f);
  SoftTargets targets(1000);
  targets.add(teacher.data(), log_sum(teacher));
  std::vector<float> model(1000, -1000.0f);
  for (std::size_t i = 0; i < 64; ++i) model[i] = 0;
  const double loss = targets.cross_entropy(0, model.data(), log_sum(model));
  EXPECT_TRUE(std::isfinite(loss));
  EXPECT_GT(loss, 20);
}

TEST(SoftTargets, HaveTheGradientThatDifferencesSay) {
  for (const std::size_t vocab : {50u, 300u}) {
    const std::vector<float> teacher = logits_of(vocab, 1);
    SoftTargets targets(static_cast<std::int64_t>(vocab));
    targets.add(teacher.data(), log_sum(teacher));
    const std::vector<float> model = logits_of(vocab, 2);
    std::vector<float> gradient(vocab);
    targets.gradient(0, model.data(), log_sum(model), gradient.data());
    for (std::size_t i = 0; i < vocab; ++i) {
      const auto loss_at = [&](float change) {
        std::vector<float> logits = model;
        logits[i] += change;
        return targets.cross_entropy(0, logits.data(), log_sum(logits));
      };
      const float step = 0.0625f;
      const double slope = (loss_at(step) - loss_at(-step)) / (2 * static_cast<double>(step));
      EXPECT_NEAR(gradient[i], slope, 2e-4) << vocab << ' ' << i;
    }
  }
}

}  // namespace
}  // namespace tenfold
