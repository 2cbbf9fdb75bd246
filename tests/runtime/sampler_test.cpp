#include "runtime/sampler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>

#include "kernels/error.h"
#include "runtime/utf8.h"

namespace tenfold {
namespace {

using testing::HasSubstr;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Everything off, so that a test turns on what it is about.
SamplerOptions neutral() {
  SamplerOptions o;
  o.temperature = 1;
  o.top_k = 0;
  o.top_p = 1;
  o.min_p = 0;
  o.seed = 42;
  return o;
}

std::vector<float> logs(std::initializer_list<double> probabilities) {
  std::vector<float> logits;
  for (const double p : probabilities) logits.push_back(static_cast<float>(std::log(p)));
  return logits;
}

std::map<std::int32_t, double> frequencies(const SamplerOptions& options,
                                           const std::vector<float>& logits, int draws = 20000) {
  Sampler sampler(options);
  std::map<std::int32_t, double> result;
  for (int i = 0; i < draws; ++i) result[sampler.sample(logits)] += 1.0 / draws;
  return result;
}

// Five standard deviations of a binomial share.
double tolerance(double p, int draws = 20000) { return 5 * std::sqrt(p * (1 - p) / draws); }

std::string complaint(const SamplerOptions& options) {
  try {
    validate(options, 10);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::bad_request);
    return error.what();
  }
  return "";
}

TEST(Sampler, ValidateNamesOptionRangeAndValue) {
  EXPECT_EQ(complaint(SamplerOptions{}), "");
  const auto with = [](auto set) {
    SamplerOptions o;
    set(o);
    return complaint(o);
  };
  EXPECT_EQ(with([](auto& o) { o.temperature = -1; }), "temperature must be at least 0, found -1");
  EXPECT_THAT(with([](auto& o) { o.temperature = NAN; }), HasSubstr("temperature"));
  EXPECT_THAT(with([](auto& o) { o.top_k = -2; }), HasSubstr("found -2"));
  EXPECT_THAT(with([](auto& o) { o.top_p = 0; }), HasSubstr("top_p"));
  EXPECT_THAT(with([](auto& o) { o.top_p = 1.5f; }), HasSubstr("found 1.5"));
  EXPECT_THAT(with([](auto& o) { o.min_p = 1; }), HasSubstr("min_p"));
  EXPECT_THAT(with([](auto& o) { o.repeat_penalty = 0; }), HasSubstr("repeat_penalty"));
  EXPECT_THAT(with([](auto& o) { o.presence_penalty = 2.5f; }), HasSubstr("presence_penalty"));
  EXPECT_THAT(with([](auto& o) { o.frequency_penalty = -3; }), HasSubstr("frequency_penalty"));
  EXPECT_THAT(with([](auto& o) { o.penalty_last = -1; }), HasSubstr("penalty_last"));
  EXPECT_THAT(with([](auto& o) { o.logit_bias = {{10, 1.0f}}; }), HasSubstr("token 10"));
  EXPECT_THAT(with([](auto& o) { o.logit_bias = {{-1, 1.0f}}; }), HasSubstr("token -1"));
  EXPECT_THAT(with([](auto& o) { o.logit_bias = {{1, NAN}}; }), HasSubstr("logit_bias"));
  EXPECT_EQ(with([](auto& o) { o.logit_bias = {{9, -kInfinity}}; }), "");
}

TEST(Sampler, GreedyTakesTheLowestIdOfEqualLogits) {
  SamplerOptions o = neutral();
  o.temperature = 0;
  Sampler sampler(o);
  EXPECT_EQ(sampler.sample(std::vector<float>{1, 3, 2, 3}), 1);
  EXPECT_EQ(sampler.sample(std::vector<float>(500, -7.5f)), 0);
}

TEST(Sampler, DrawsFollowTheProbabilities) {
  const std::vector<double> p = {0.5, 0.25, 0.15, 0.07, 0.03};
  const auto found = frequencies(neutral(), logs({0.5, 0.25, 0.15, 0.07, 0.03}));
  for (std::size_t i = 0; i < p.size(); ++i)
    EXPECT_NEAR(found.at(static_cast<std::int32_t>(i)), p[i], tolerance(p[i])) << i;
}

TEST(Sampler, TemperatureSharpens) {
  SamplerOptions o = neutral();
  o.temperature = 0.5f;  // squares the probabilities
  const auto found = frequencies(o, logs({0.6, 0.3, 0.1}));
  const double sum = 0.36 + 0.09 + 0.01;
  EXPECT_NEAR(found.at(0), 0.36 / sum, tolerance(0.36 / sum));
  EXPECT_NEAR(found.at(2), 0.01 / sum, tolerance(0.01 / sum));
}

TEST(Sampler, TopKKeepsTheKBest) {
  SamplerOptions o = neutral();
  o.top_k = 2;
  const auto found = frequencies(o, logs({0.1, 0.4, 0.2, 0.3}));
  EXPECT_EQ(found.size(), 2u);
  EXPECT_NEAR(found.at(1), 4.0 / 7, tolerance(4.0 / 7));
  EXPECT_NEAR(found.at(3), 3.0 / 7, tolerance(3.0 / 7));
}

// As a device finds them.
std::vector<TopLogit> best_of(const std::vector<float>& logits, int k) {
  std::vector<TopLogit> best;
  for (const float logit : logits) best.push_back({logit, static_cast<std::int32_t>(best.size())});
  std::ranges::stable_sort(best,
                           [](const TopLogit& a, const TopLogit& b) { return a.logit > b.logit; });
  best.resize(static_cast<std::size_t>(k));
  return best;
}

TEST(Sampler, DrawsFromTheBestWhatItDrawsFromAll) {
  std::vector<float> logits;
  for (int i = 0; i < 500; ++i) logits.push_back(static_cast<float>(i * 7919 % 83) * 0.1f);
  logits[400] = logits[7] = 20;
  std::vector<float> banned(500, -kInfinity);
  banned[3] = banned[90] = 1;
  for (const float temperature : {0.0f, 0.5f, 3.0f}) {
    for (const int top_k : {1, 5, kMostTopLogits}) {
      for (const float top_p : {0.7f, 1.0f}) {
        for (const float min_p : {0.0f, 0.2f}) {
          SamplerOptions o = neutral();
          o.temperature = temperature, o.top_k = top_k, o.top_p = top_p, o.min_p = min_p;
          Sampler all(o), best(o);
          const int k = best.top_logits(500);
          ASSERT_EQ(k, temperature == 0 ? 1 : top_k);
          for (int i = 0; i < 40; ++i) {
            const std::vector<float>& from = i % 2 == 0 ? logits : banned;
            ASSERT_EQ(best.sample_top(best_of(from, k)), all.sample(from));
          }
        }
      }
    }
  }
}

TEST(Sampler, NeedsAllLogitsWhereOthersMatter) {
  SamplerOptions o = neutral();
  o.top_k = 40;
  EXPECT_EQ(Sampler(o).top_logits(500), 40);
  EXPECT_EQ(Sampler(o).top_logits(40), 0);
  o.presence_penalty = 0.5f;
  EXPECT_EQ(Sampler(o).top_logits(500), 0);
  o.presence_penalty = 0;
  o.logit_bias = {{3, 1.0f}};
  EXPECT_EQ(Sampler(o).top_logits(500), 0);
  o.logit_bias.clear();
  for (const int top_k : {0, kMostTopLogits + 1}) {
    o.top_k = top_k;
    EXPECT_EQ(Sampler(o).top_logits(500), 0);
  }
  o.temperature = 0;
  EXPECT_EQ(Sampler(o).top_logits(500), 1);
}

TEST(Sampler, BestLogitsThatAreNotNumbers) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const float bad : {nan, kInfinity}) {
    EXPECT_THROW(Sampler(neutral()).sample_top(std::vector<TopLogit>{{bad, 3}, {1, 2}}), Error);
  }
  EXPECT_THROW(Sampler(neutral()).sample_top(std::vector<TopLogit>{{-kInfinity, 3}}), Error);
  EXPECT_THROW(Sampler(neutral()).sample_top({}), Error);
}

TEST(Sampler, TopKBreaksTiesByLowestId) {
  SamplerOptions o = neutral();
  o.top_k = 3;
  const auto found = frequencies(o, std::vector<float>(1000, 1.0f));
  ASSERT_EQ(found.size(), 3u);
  EXPECT_EQ(found.rbegin()->first, 2);
}

TEST(Sampler, TopKFindsTheSameSetAsSorting) {
  std::vector<float> logits;
  std::uint32_t state = 1;
  for (int i = 0; i < 5000; ++i) {
    state = state * 1664525u + 1013904223u;
    logits.push_back(static_cast<float>(state >> 20));  // with many ties
  }
  std::vector<std::pair<float, int>> order;
  for (int i = 0; i < 5000; ++i) order.emplace_back(-logits[static_cast<std::size_t>(i)], i);
  std::sort(order.begin(), order.end());
  for (const int k : {1, 2, 40, 100, 1000}) {
    SamplerOptions o = neutral();
    o.top_k = k;
    o.temperature = 1e9f;  // all kept tokens are equally likely
    std::vector<bool> allowed(5000, false);
    for (int i = 0; i < k; ++i)
      allowed[static_cast<std::size_t>(order[static_cast<std::size_t>(i)].second)] = true;
    for (const auto& [id, share] : frequencies(o, logits, 500))
      EXPECT_TRUE(allowed[static_cast<std::size_t>(id)]) << "k " << k << " id " << id;
  }
}

TEST(Sampler, TopPKeepsTheShortestPrefix) {
  SamplerOptions o = neutral();
  o.top_p = 0.75f;
  EXPECT_EQ(frequencies(o, logs({0.1, 0.5, 0.3, 0.1})).size(), 2u);
  o.top_p = 0.85f;
  EXPECT_EQ(frequencies(o, logs({0.1, 0.5, 0.3, 0.1})).size(), 3u);
  o.top_p = 1e-6f;
  EXPECT_EQ(frequencies(o, logs({0.1, 0.5, 0.3, 0.1})).size(), 1u);
  o.top_p = 0.75f;
  o.top_k = 3;  // 0.5/0.9 + 0.3/0.9 covers it; the share is of what top-k left
  EXPECT_EQ(frequencies(o, logs({0.1, 0.5, 0.3, 0.1})).size(), 2u);
}

TEST(Sampler, MinPIsRelativeToTheBest) {
  SamplerOptions o = neutral();
  o.min_p = 0.25f;
  for (const int k : {0, 3}) {
    o.top_k = k;
    const auto found = frequencies(o, logs({0.1, 0.5, 0.3, 0.1}));
    EXPECT_EQ(found.size(), 2u);
    EXPECT_NEAR(found.at(1), 0.625, tolerance(0.625));
  }
}

TEST(Sampler, OneCandidateAlwaysStays) {
  SamplerOptions o = neutral();
  o.top_k = 1;
  o.top_p = 1e-9f;
  o.min_p = 0.999f;
  EXPECT_EQ(Sampler(o).sample(std::vector<float>{0, 5, 1}), 1);
  EXPECT_EQ(Sampler(o).sample(std::vector<float>{-kInfinity, -3e38f, -kInfinity}), 1);
}

TEST(Sampler, SameSeedSameTokens) {
  std::vector<float> logits;
  for (int i = 0; i < 1000; ++i) logits.push_back(static_cast<float>((i * 37) % 101) * 0.05f);
  SamplerOptions o;
  o.seed = 7;
  Sampler a(o), b(o);
  o.seed = 8;
  Sampler c(o);
  int different = 0;
  for (int i = 0; i < 200; ++i) {
    const std::int32_t token = a.sample(logits);
    EXPECT_EQ(token, b.sample(logits));
    different += token != c.sample(logits) ? 1 : 0;
  }
  EXPECT_GT(different, 100);
}

// Two equal logits make a draw the top bit of the generator. Reference: splitmix64 and
// xoshiro256** in Python.
TEST(Sampler, DrawsComeFromXoshiro) {
  SamplerOptions o = neutral();
  o.seed = 1;
  Sampler sampler(o);
  std::string bits;
  for (int i = 0; i < 32; ++i) bits += sampler.sample(std::vector<float>{0, 0}) ? '1' : '0';
  EXPECT_EQ(bits, "11101000111111110000001000011101");
}

TEST(Sampler, PenaltiesFollowLlamaCpp) {
  SamplerOptions o = neutral();
  o.temperature = 0;
  o.repeat_penalty = 2;
  Sampler repeat(o);
  repeat.accept(0);
  repeat.accept(1);
  EXPECT_EQ(repeat.sample(std::vector<float>{4, -1, 1.9f}), 0);     // 2, -2, 1.9
  EXPECT_EQ(repeat.sample(std::vector<float>{3.7f, -1, 1.9f}), 2);  // 1.85
  EXPECT_EQ(repeat.sample(std::vector<float>{-9, -1, -1.9f}), 2);   // -18, -2, -1.9
  o.repeat_penalty = 1;
  o.presence_penalty = 1;
  o.frequency_penalty = 0.5f;
  Sampler counts(o);
  for (const std::int32_t token : {0, 0, 0, 1}) counts.accept(token);
  EXPECT_EQ(counts.sample(std::vector<float>{5, 3.9f, 2.3f}), 0);      // 2.5, 2.4, 2.3
  EXPECT_EQ(counts.sample(std::vector<float>{4.8f, 3.9f, 2.35f}), 1);  // 2.3, 2.4, 2.35
  counts.reset_history();
  EXPECT_EQ(counts.sample(std::vector<float>{4.8f, 3.9f, 2.35f}), 0);
}

TEST(Sampler, PenaltiesForgetOldTokens) {
  SamplerOptions o = neutral();
  o.temperature = 0;
  o.presence_penalty = 2;
  o.penalty_last = 2;
  Sampler sampler(o);
  const std::vector<float> logits = {1, 0, 0};
  sampler.accept(0);
  EXPECT_NE(sampler.sample(logits), 0);
  sampler.accept(1);
  sampler.accept(2);
  EXPECT_EQ(sampler.sample(logits), 0);
  sampler.accept(99);  // an id without a logit
  EXPECT_EQ(sampler.sample(logits), 0);
}

TEST(Sampler, BiasMovesAndBans) {
  SamplerOptions o = neutral();
  o.logit_bias = {{0, -100.0f}, {1, -kInfinity}, {2, 1.0f}};
  const auto found = frequencies(o, std::vector<float>{50, 50, 0, 0});
  EXPECT_EQ(found.size(), 2u);
  const double p = std::exp(1.0) / (1 + std::exp(1.0));
  EXPECT_NEAR(found.at(2), p, tolerance(p));
  o.logit_bias = {{0, -100.0f}, {1, -100.0f}};
  EXPECT_THROW(Sampler(o).sample(std::vector<float>{1, 2}), Error);
  o.logit_bias = {{0, 3e38f}};
  o.repeat_penalty = 1e-30f;
  Sampler extreme(o);
  extreme.accept(0);
  EXPECT_EQ(extreme.sample(std::vector<float>{3e38f, 1}), 0);
}

TEST(Sampler, RefusesBrokenLogits) {
  for (const float bad : {NAN, -NAN, kInfinity}) {
    try {
      Sampler(SamplerOptions{}).sample(std::vector<float>{1, bad, 2});
      ADD_FAILURE() << bad;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::device);
    }
  }
  EXPECT_THROW(Sampler(SamplerOptions{}).sample({}), Error);
}

// All text shown for the pieces, and where it stopped ("|").
std::string run(std::vector<std::string> stops, const std::vector<std::string>& pieces) {
  StopMatcher matcher(std::move(stops));
  std::string shown;
  for (const std::string& piece : pieces) {
    const auto result = matcher.push(piece);
    shown += result.text;
    if (result.stopped) return shown + "|" + matcher.finish();
  }
  return shown + matcher.finish();
}

TEST(StopMatcher, FindsStopsWithinAndAcrossPieces) {
  EXPECT_EQ(run({"END"}, {"hello END rest"}), "hello |");
  EXPECT_EQ(run({"END"}, {"hello E", "N", "D"}), "hello |");
  EXPECT_EQ(run({"END"}, {"hello E", "N", "X"}), "hello ENX");
  EXPECT_EQ(run({"END"}, {"hello EN"}), "hello EN");
  EXPECT_EQ(run({"END"}, {"EENEND"}), "EEN|");
  EXPECT_EQ(run({}, {"a", "b"}), "ab");
  EXPECT_EQ(run({""}, {"a", "b"}), "ab");
  EXPECT_EQ(run({"\n\n"}, {"a\n", "b\n", "\nc"}), "a\nb|");
}

TEST(StopMatcher, HandlesOverlappingStops) {
  EXPECT_EQ(run({"aab"}, {"a", "a", "a", "b"}), "a|");
  EXPECT_EQ(run({"abcd", "bc"}, {"xabcd"}), "xa|");  // "bc" ends first
  EXPECT_EQ(run({"abc", "bc"}, {"xabc"}), "x|");     // end together: the longer
  EXPECT_EQ(run({"ab", "abc"}, {"xa", "bc"}), "x|");
  EXPECT_EQ(run({"abab", "c"}, {"aba", "c"}), "aba|");
  EXPECT_EQ(run({"<|im_end|>", "<|"}, {"a<", "|b"}), "a|");
}

TEST(StopMatcher, HoldsBackOnlyWhatCouldBegin) {
  StopMatcher matcher({"STOP"});
  EXPECT_EQ(matcher.push("abcST").text, "abc");
  EXPECT_EQ(matcher.push("x").text, "STx");
  EXPECT_EQ(matcher.push("S").text, "");
  EXPECT_EQ(matcher.push("S").text, "S");
  EXPECT_EQ(matcher.finish(), "S");
  EXPECT_EQ(matcher.finish(), "");
}

TEST(StopMatcher, AnySplitGivesTheSameText) {
  const std::string text = "日本 aaaab é🙂STé🙂STOP tail";
  const std::vector<std::string> stops = {"aab!", "🙂STOP", "本 b"};
  for (std::size_t i = 0; i <= text.size(); ++i) {
    for (std::size_t j = i; j <= text.size(); ++j)
      ASSERT_EQ(run(stops, {text.substr(0, i), text.substr(i, j - i), text.substr(j)}),
                "日本 aaaab é🙂STé|");
  }
}

TEST(StopMatcher, WholePiecesStayWholeCharacters) {
  StopMatcher matcher({"🙂🙂"});
  for (const char* piece : {"é", "🙂", "日本", "🙂", "a", "é🙂"})
    EXPECT_TRUE(is_valid_utf8(matcher.push(piece).text));
}

}  // namespace
}  // namespace tenfold
