// Continuous batching on real (small) models: what each generation says is what it says alone.

#include "runtime/scheduler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "runtime/session.h"
#include "tests/support/expect_error.h"
#include "tests/support/scratch_folder.h"
#include "tests/support/step.h"
#include "tests/support/tiny_model.h"

namespace tenfold {
namespace {

using testing::expect_error;

struct Heard {
  std::string text;
  std::vector<TokenLogprob> tokens, prompt_tokens;
  std::vector<float> embedding;
  std::optional<FinishReason> finish;
  std::string error;
  GenerationUsage usage;
  int events = 0;
};

GenerationClient listen(Heard& heard) {
  GenerationClient client;
  client.on_event = [&heard](const GenerationEvent& event) {
    ++heard.events;
    heard.text += event.text;
    heard.tokens.insert(heard.tokens.end(), event.tokens.begin(), event.tokens.end());
    heard.prompt_tokens.insert(heard.prompt_tokens.end(), event.prompt_tokens.begin(),
                               event.prompt_tokens.end());
    if (!event.embedding.empty()) heard.embedding = event.embedding;
    if (event.finish) heard.finish = event.finish;
    if (event.error) heard.error = event.error->message;
    heard.usage = event.usage;
  };
  return client;
}

class SchedulerTest : public ::testing::TestWithParam<const char*> {
 protected:
  SchedulerTest()
      : loaded_(testing::tiny_model(folder_, GetParam())),
        tokenizer_(load_tokenizer(ModelSource(folder_ / "tiny"))) {}

  Scheduler scheduler(SchedulerOptions options) {
    return {*loaded_.model, loaded_.ws, *tokenizer_, options};
  }
  static GenerationRequest request(std::vector<TokenId> prompt, std::int64_t n,
                                   float temperature = 0, std::uint64_t seed = 0) {
    GenerationRequest r;
    r.prompt = std::move(prompt);
    r.options.max_tokens = n;
    r.options.sampler.temperature = temperature;
    r.options.sampler.seed = seed;
    r.options.ignore_eos = true;
    return r;
  }
  std::vector<TokenId> prompt(int length, int salt) const {
    std::vector<TokenId> tokens;
    for (int i = 0; i < length; ++i) tokens.push_back(4 + (i * 37 + salt * 11 + i * i) % 256);
    return tokens;
  }
  std::string alone(const GenerationRequest& r) {
    Session session(*loaded_.model, loaded_.ws, 0, KvType::f16);
    return generate(session, tokenizer_.get(), r.prompt, r.options, {}).text;
  }
  static void run(Scheduler& scheduler) {
    while (scheduler.step()) {
    }
  }

  testing::ScratchFolder folder_;
  LoadedModel loaded_;
  std::unique_ptr<Tokenizer> tokenizer_;
};

TEST_P(SchedulerTest, EachSaysWhatItSaysAlone) {
  SchedulerOptions options;
  options.parallel = 3;
  Scheduler s = scheduler(options);
  std::map<int, Heard> heard;
  std::vector<GenerationRequest> requests;
  for (int i = 0; i < 7; ++i) {
    requests.push_back(request(prompt(5 + 23 * i, i), 3 + 5 * i, i % 2 == 0 ? 0.0f : 1.2f,
                               static_cast<std::uint64_t>(i)));
    s.submit(requests.back(), listen(heard[i]));
    if (i % 2 == 1) s.step();  // some come while others run
  }
  run(s);
  for (int i = 0; i < 7; ++i) {
    EXPECT_EQ(heard[i].text, alone(requests[static_cast<std::size_t>(i)])) << i;
    EXPECT_EQ(heard[i].finish, FinishReason::length);
    EXPECT_EQ(heard[i].usage.generated_tokens, 3 + 5 * i);
    EXPECT_EQ(heard[i].usage.prompt_tokens, 5 + 23 * i);
  }
  EXPECT_EQ(s.stats().running, 0);
  EXPECT_EQ(s.stats().waiting, 0);
}

TEST_P(SchedulerTest, PrefixesAreSharedAndChangeNothing) {
  SchedulerOptions options;
  options.parallel = 4;
  Scheduler s = scheduler(options);
  const std::vector<TokenId> base = prompt(100, 1);
  Heard first;
  s.submit(request(base, 8), listen(first));
  run(s);
  EXPECT_EQ(first.usage.cached_tokens, 0);
  // The next turn of a chat: all that ran before, and more.
  std::vector<TokenId> longer = base;
  const std::vector<TokenId> answer = tokenizer_->encode(first.text, {});
  std::vector<TokenId> other = base;
  longer.insert(longer.end(), {30, 31, 32});
  other[70] = other[70] == 9 ? 10 : 9;
  std::map<int, Heard> heard;
  s.submit(request(longer, 8), listen(heard[0]));
  s.submit(request(other, 8), listen(heard[1]));
  s.submit(request(base, 8), listen(heard[2]));
  run(s);
  EXPECT_EQ(heard[0].usage.cached_tokens, 100);
  EXPECT_EQ(heard[1].usage.cached_tokens, 70);
  EXPECT_EQ(heard[2].usage.cached_tokens, 99);  // one is run, for its logits
  EXPECT_EQ(heard[0].text, alone(request(longer, 8)));
  EXPECT_EQ(heard[1].text, alone(request(other, 8)));
  EXPECT_EQ(heard[2].text, first.text);
}

// Four answers to one prompt: it is run once, though all came together.
TEST_P(SchedulerTest, OnePromptIsRunOnceForManyAnswers) {
  SchedulerOptions options;
  options.parallel = 4;
  Scheduler s = scheduler(options);
  std::map<int, Heard> heard;
  for (int i = 0; i < 4; ++i) {
    s.submit(request(prompt(150, 3), 6, 1.0f, static_cast<std::uint64_t>(i)), listen(heard[i]));
  }
  run(s);
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(heard[i].usage.cached_tokens, i == 0 ? 0 : 149) << i;
    EXPECT_EQ(heard[i].text,
              alone(request(prompt(150, 3), 6, 1.0f, static_cast<std::uint64_t>(i))));
  }
  EXPECT_EQ(s.stats().prompt_tokens, 153u);
}

// Three long answers in a cache for one context and a bit: some give way and are run again.
TEST_P(SchedulerTest, AFullCacheDelaysButChangesNothing) {
  SchedulerOptions options;
  options.parallel = 3;
  options.context = 192;
  options.cache_tokens = 256;
  Scheduler s = scheduler(options);
  std::map<int, Heard> heard;
  for (int i = 0; i < 3; ++i) {
    s.submit(request(prompt(20 + 10 * i, i), 120, 0.7f, 5), listen(heard[i]));
  }
  run(s);
  EXPECT_GT(s.stats().preempted, 0u);
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(heard[i].text, alone(request(prompt(20 + 10 * i, i), 120, 0.7f, 5))) << i;
  }
}

TEST_P(SchedulerTest, CancelledOnesLeaveWithinAStep) {
  Scheduler s = scheduler({});
  Heard heard, waiting, other;
  bool cancelled = false;
  GenerationClient client = listen(heard);
  client.is_cancelled = [&] { return cancelled; };
  s.submit(request(prompt(10, 0), 200), client);
  s.submit(request(prompt(12, 5), 9), listen(other));
  s.step();
  s.step();
  EXPECT_EQ(s.stats().running, 2);
  cancelled = true;
  s.step();
  EXPECT_EQ(heard.finish, FinishReason::cancelled);
  EXPECT_EQ(s.stats().running, 1);
  run(s);
  EXPECT_EQ(other.text, alone(request(prompt(12, 5), 9)));
}

TEST_P(SchedulerTest, StopStringsAndRecordsOfTokens) {
  Scheduler s = scheduler({});
  GenerationRequest r = request(prompt(30, 2), 20);
  r.top_logprobs = 3;
  Heard whole;
  s.submit(r, listen(whole));
  run(s);
  ASSERT_EQ(whole.tokens.size(), 20u);
  for (const TokenLogprob& token : whole.tokens) {
    ASSERT_EQ(token.top.size(), 3u);
    EXPECT_EQ(token.top[0].first, token.token);  // greedy
    EXPECT_GE(token.top[0].second, token.top[1].second);
    EXPECT_EQ(token.top[0].second, token.logprob);
    EXPECT_LE(token.logprob, 0);
  }
  // Ends before a text in the middle, with the records of what is shown.
  r.options.stops = {whole.text.substr(whole.text.size() / 2, 3)};
  Heard cut;
  s.submit(r, listen(cut));
  run(s);
  EXPECT_EQ(cut.finish, FinishReason::stop);
  EXPECT_EQ(cut.text, whole.text.substr(0, whole.text.find(r.options.stops[0])));
  EXPECT_LT(cut.tokens.size(), whole.tokens.size());
}

TEST_P(SchedulerTest, ScoresThePrompt) {
  Scheduler s = scheduler({});
  GenerationRequest r = request(prompt(150, 4), 1);
  r.top_logprobs = 1;
  r.prompt_logprobs = true;
  Heard first, again, other;
  s.submit(r, listen(first));
  s.submit(request(prompt(20, 1), 30), listen(other));
  run(s);
  s.submit(r, listen(again));  // though all of it is cached
  run(s);
  ASSERT_EQ(first.prompt_tokens.size(), 149u);
  ASSERT_EQ(again.prompt_tokens.size(), 149u);
  const auto logits = run_prompts(loaded_, {r.prompt}, 0, KvType::f16).front();
  const auto vocab = static_cast<std::size_t>(loaded_.model->info().vocab);
  for (std::size_t i = 0; i < 149; ++i) {
    EXPECT_EQ(first.prompt_tokens[i].token, r.prompt[i + 1]);
    EXPECT_EQ(first.prompt_tokens[i].logprob, again.prompt_tokens[i].logprob);
    const TokenLogprob expected =
        log_probability({logits.data() + i * vocab, vocab}, r.prompt[i + 1], 1);
    EXPECT_EQ(first.prompt_tokens[i].logprob, expected.logprob);
    EXPECT_EQ(first.prompt_tokens[i].top, expected.top);
  }
  EXPECT_EQ(first.tokens.size(), 1u);
}

TEST_P(SchedulerTest, EmbeddingsDoNotDependOnTheirCompany) {
  Scheduler s = scheduler({});
  Heard alone_one, one, two, text;
  s.embed(prompt(90, 1), listen(alone_one));
  run(s);
  s.submit(request(prompt(20, 1), 10), listen(text));
  s.embed(prompt(90, 1), listen(one));
  s.embed(prompt(40, 2), listen(two));
  run(s);
  EXPECT_EQ(one.embedding, alone_one.embedding);
  EXPECT_NE(one.embedding, two.embedding);
  EXPECT_FALSE(one.embedding.empty());
  EXPECT_EQ(one.finish, FinishReason::stop);
  EXPECT_EQ(text.text, alone(request(prompt(20, 1), 10)));
}

// Texts that are only read leave nothing behind: no pages, and what is talked about stays cached.
TEST_P(SchedulerTest, WhatIsOnlyReadIsNotKept) {
  Scheduler s = scheduler({});
  Heard chat, vector, scored;
  s.submit(request(prompt(70, 1), 4), listen(chat));
  run(s);
  const std::int64_t used = s.stats().used_pages;
  EXPECT_EQ(used, 2);
  EXPECT_EQ(s.stats().cached, 1);
  s.embed(prompt(90, 2), listen(vector));
  GenerationRequest scoring = request(prompt(100, 3), 1);
  scoring.prompt_logprobs = true;
  s.submit(scoring, listen(scored));
  run(s);
  EXPECT_EQ(scored.prompt_tokens.size(), 99u);
  EXPECT_EQ(s.stats().used_pages, used);
  EXPECT_EQ(s.stats().cached, 1);
}

// The only room for the new prompt is where the old one lies that it begins like.
TEST_P(SchedulerTest, ACachedDonorGivesWay) {
  SchedulerOptions options;
  options.parallel = 1;
  options.context = 192;
  options.cache_tokens = 192;
  Scheduler s = scheduler(options);
  const std::vector<TokenId> old = prompt(150, 1);
  Heard first, second;
  s.submit(request(old, 2), listen(first));
  run(s);
  std::vector<TokenId> next(old.begin(), old.begin() + 100);
  for (int i = 0; i < 80; ++i) next.push_back(50 + i);
  s.submit(request(next, 5), listen(second));
  run(s);
  EXPECT_EQ(second.text, alone(request(next, 5)));
  EXPECT_EQ(second.usage.cached_tokens, 0);
}

// A grammar that allows nothing the model has a token for ends that answer alone.
TEST_P(SchedulerTest, WhatAnAnswerCannotDoEndsItAlone) {
  Scheduler s = scheduler({});
  GenerationRequest impossible = request(prompt(20, 1), 10);
  for (std::int32_t id = 0; id < 384; ++id) {
    impossible.options.sampler.logit_bias.emplace_back(id, -100.0f);
  }
  Heard failed, other;
  s.submit(impossible, listen(failed));
  s.submit(request(prompt(30, 2), 6), listen(other));
  run(s);
  EXPECT_FALSE(failed.error.empty());
  EXPECT_FALSE(failed.finish.has_value());
  EXPECT_EQ(other.text, alone(request(prompt(30, 2), 6)));
}

TEST_P(SchedulerTest, RefusesWhatCannotRun) {
  SchedulerOptions options;
  options.context = 64;
  Scheduler s = scheduler(options);
  expect_error(ErrorCode::bad_request, [&] { s.submit(request({}, 1), {}); });
  expect_error(ErrorCode::bad_request, [&] { s.submit(request(prompt(65, 0), 1), {}); });
  expect_error(ErrorCode::bad_request, [&] { s.submit(request({1 << 20}, 1), {}); });
  expect_error(ErrorCode::bad_request, [&] { s.submit(request({5}, 1, -1.0f), {}); });
  options.cache_tokens = 32;
  expect_error(ErrorCode::bad_request, [&] { scheduler(options); });
  EXPECT_FALSE(s.step());
}

TEST_P(SchedulerTest, EndsAllOnRequest) {
  SchedulerOptions options;
  options.parallel = 1;
  Scheduler s = scheduler(options);
  Heard running, waiting;
  s.submit(request(prompt(20, 1), 100), listen(running));
  s.submit(request(prompt(20, 2), 100), listen(waiting));
  s.step();
  s.end_all(FinishReason::cancelled);
  EXPECT_EQ(running.finish, FinishReason::cancelled);
  EXPECT_EQ(waiting.finish, FinishReason::cancelled);
  EXPECT_FALSE(s.step());
}

INSTANTIATE_TEST_SUITE_P(Models, SchedulerTest,
                         ::testing::Values("opt-pre-ln", "llama-gqa-rope3-tied"),
                         [](const auto& tested) {
                           std::string name = tested.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace tenfold
