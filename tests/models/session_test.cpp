// Sessions, generation and perplexity on real (small) models.

#include "runtime/session.h"

#include <gtest/gtest.h>

#include <cmath>

#include "runtime/score.h"
#include "tests/support/expect_error.h"
#include "tests/support/step.h"

namespace tenfold {
namespace {

using testing::expect_error;

std::filesystem::path folder_of(const char* name) {
  return std::filesystem::path(TENFOLD_TEST_DATA) / "models" / name;
}

std::vector<float> copy(std::span<const float> values) { return {values.begin(), values.end()}; }

GenerateOptions greedy(std::int64_t n) {
  GenerateOptions options;
  options.sampler.temperature = 0;
  options.max_tokens = n;
  return options;
}

TEST(Session, ReusingAPrefixChangesNothing) {
  LoadedModel m(folder_of("llama-mha"));
  const std::vector<TokenId> first = {1, 2, 3, 4, 5, 6, 7, 8};
  const std::vector<TokenId> second = {1, 2, 3, 9, 10};
  Session fresh(*m.model, m.ws, 64, KvType::f16);
  const std::vector<float> expected = copy(fresh.set(second));
  Session reused(*m.model, m.ws, 64, KvType::f16);
  reused.set(first);
  EXPECT_EQ(copy(reused.set(second)), expected);
  EXPECT_EQ(copy(reused.set(second)), expected);  // the same prompt again
  EXPECT_EQ(reused.tokens(), second);
  EXPECT_EQ(reused.room(), 59);
}

TEST(Session, ReusingAnEightBitPrefixChangesNothing) {
  LoadedModel m(folder_of("llama-gqa-rope3-tied"));
  const std::vector<TokenId> first = {1, 2, 3, 4, 5, 6, 7, 8};
  const std::vector<TokenId> second = {1, 2, 3, 9, 10};
  Session fresh(*m.model, m.ws, 64, KvType::q8);
  const std::vector<float> expected = copy(fresh.set(second));
  Session reused(*m.model, m.ws, 64, KvType::q8);
  reused.set(first);
  EXPECT_EQ(copy(reused.set(second)), expected);
  Session by_token(*m.model, m.ws, 64, KvType::q8);
  std::vector<float> last;
  for (const TokenId token : second) last = copy(by_token.append({&token, 1}));
  EXPECT_EQ(last, expected);
}

TEST(Session, ContextIsALimitNotAnAccident) {
  LoadedModel m(folder_of("llama-mha"));
  Session session(*m.model, m.ws, 8, KvType::f16);
  const std::vector<TokenId> nine(9, 1);
  const std::string message = expect_error(ErrorCode::bad_request, [&] { session.set(nine); });
  EXPECT_NE(message.find("9"), std::string::npos);
  EXPECT_NE(message.find("8"), std::string::npos);
  const std::vector<TokenId> five(5, 1);
  const GenerateResult result = generate(session, nullptr, five, greedy(100), {});
  EXPECT_EQ(result.finish, FinishReason::context);
  EXPECT_EQ(result.tokens.size(), 4u);  // the last one is known, but could not be run
  expect_error(ErrorCode::bad_request,
               [&] { Session(*m.model, m.ws, 257, KvType::f16); });  // more than the model has
}

TEST(Generate, StopsAtTheLimitAndOnRequest) {
  LoadedModel m(folder_of("opt-pre-ln"));
  Session session(*m.model, m.ws, 0, KvType::f16);
  const std::vector<TokenId> prompt = {2, 10, 20};
  const GenerateResult result = generate(session, nullptr, prompt, greedy(5), {});
  EXPECT_EQ(result.finish, FinishReason::length);
  EXPECT_EQ(result.tokens.size(), 5u);
  EXPECT_EQ(generate(session, nullptr, prompt, greedy(5), {}).tokens, result.tokens);
  int calls = 0;
  GenerateCallbacks stop;
  stop.should_stop = [&] { return ++calls > 3; };
  EXPECT_EQ(generate(session, nullptr, prompt, greedy(50), stop).finish, FinishReason::cancelled);
  EXPECT_TRUE(generate(session, nullptr, prompt, greedy(0), {}).tokens.empty());
}

// Both protocols, from logits in double.
double reference_nll(LoadedModel& m, const std::vector<TokenId>& window, std::size_t first) {
  const auto logits = run_prompts(m, {window}, 0, KvType::f32).front();
  const auto vocab = static_cast<std::size_t>(m.model->info().vocab);
  double total = 0;
  for (std::size_t i = first; i + 1 < window.size(); ++i) {
    double sum = 0;
    for (std::size_t v = 0; v < vocab; ++v) sum += std::exp(double{logits[i * vocab + v]});
    total += std::log(sum) - logits[i * vocab + static_cast<std::size_t>(window[i + 1])];
  }
  return total;
}

TEST(Perplexity, MatchesItsDefinition) {
  LoadedModel m(folder_of("llama-mha"));
  std::vector<TokenId> tokens;
  for (int i = 0; i < 75; ++i) tokens.push_back((i * 37 + 5) % 384);
  for (const bool half : {false, true}) {
    PerplexityOptions options;
    options.window = 32;
    options.half = half;
    options.kv = KvType::f32;
    options.window_bos = 1;
    const PerplexityResult result = perplexity(*m.model, m.ws, tokens, options, {});
    EXPECT_EQ(result.windows, 2);
    EXPECT_EQ(result.tokens, half ? 2 * 15 : 2 * 31);
    double expected = 0;
    for (std::size_t w = 0; w < 2; ++w) {
      std::vector<TokenId> window(tokens.begin() + static_cast<std::ptrdiff_t>(32 * w),
                                  tokens.begin() + static_cast<std::ptrdiff_t>(32 * w + 32));
      window[0] = 1;
      expected += reference_nll(m, window, half ? 16 : 0);
    }
    EXPECT_NEAR(result.nll, expected / static_cast<double>(result.tokens), 1e-5);
    EXPECT_NEAR(result.ppl, std::exp(result.nll), 1e-9);
    options.kv = KvType::q8;
    EXPECT_NEAR(perplexity(*m.model, m.ws, tokens, options, {}).nll, result.nll, 0.01);
  }
}

TEST(Perplexity, RefusesWhatItCannotScore) {
  LoadedModel m(folder_of("llama-mha"));
  const std::vector<TokenId> tokens(20, 3);
  PerplexityOptions options;
  options.window = 32;
  expect_error(ErrorCode::bad_request, [&] { perplexity(*m.model, m.ws, tokens, options, {}); });
  options.window = 257;
  expect_error(ErrorCode::bad_request, [&] { perplexity(*m.model, m.ws, tokens, options, {}); });
}

}  // namespace
}  // namespace tenfold
