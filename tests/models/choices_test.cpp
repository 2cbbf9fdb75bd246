// Multiple choice on a small model: batches of choices score as sequences one by one do.

#include "runtime/choices.h"

#include <gtest/gtest.h>

#include <numeric>

#include "runtime/score.h"
#include "tests/support/expect_error.h"
#include "tests/support/step.h"
#include "tests/support/tiny_model.h"

namespace tenfold {
namespace {

using testing::ScratchFolder;

constexpr const char* kTask =
    "{\"query\": \"Question: what? \\n\", \"choices\": [\"this\", \"that one\", \"\\u00fcber\"], "
    "\"gold\": 2}\n"
    "\n"
    "{\"context_options\": [\"A cat\", \"A very long dog\"], \"continuation\": \"sat.\", "
    "\"gold\": 0}\n";

TEST(Choices, ReadsBothKindsOfItems) {
  const ScratchFolder folder;
  const auto items = read_choice_items(folder.write("task.jsonl", kTask));
  ASSERT_EQ(items.size(), 2u);
  ASSERT_EQ(items[0].choices.size(), 3u);
  EXPECT_EQ(items[0].choices[1].context, "Question: what?\nAnswer:");
  EXPECT_EQ(items[0].choices[1].scored, " that one");
  EXPECT_EQ(items[0].choices[1].characters, 8);
  EXPECT_EQ(items[0].choices[2].characters, 4);
  EXPECT_EQ(items[0].shot, "Question: what?\nAnswer: \u00fcber");
  ASSERT_EQ(items[1].choices.size(), 2u);
  EXPECT_EQ(items[1].choices[1].context, "A very long dog");
  EXPECT_EQ(items[1].choices[1].scored, " sat.");
  EXPECT_EQ(items[1].gold, 0u);
}

TEST(Choices, NamesTheLineAndFieldThatIsWrong) {
  const ScratchFolder folder;
  const auto message = [&](const std::string& line) {
    const auto path = folder.write("bad.jsonl", "\n" + line);
    return testing::expect_error(ErrorCode::bad_file, [&] { read_choice_items(path); });
  };
  const auto expect = [&](const std::string& line, const std::string& part) {
    const std::string text = message(line);
    EXPECT_NE(text.find("bad.jsonl"), std::string::npos) << text;
    EXPECT_NE(text.find(part), std::string::npos) << text;
  };
  expect("{", "line 2");
  expect("[]", "line 2: is not a JSON object");
  expect("{\"choices\": [\"a\", \"b\"], \"gold\": 0}", "line 2: has no field \"query\"");
  expect("{\"query\": \"q\", \"choices\": [\"a\"], \"gold\": 0}", "\"choices\"");
  expect("{\"query\": \"q\", \"choices\": [\"a\", 3], \"gold\": 0}", "\"choices\"");
  expect("{\"query\": \"q\", \"choices\": [\"a\", \"b\"], \"gold\": 2}", "\"gold\" that is");
  expect("{\"query\": \"q\", \"choices\": [\"a\", \"b\"], \"gold\": -1}", "\"gold\" that is");
  expect("{\"context_options\": [\"a\", \"b\"], \"gold\": 1}", "\"continuation\"");
  expect("  ", "holds no items");
}

TEST(Choices, ShotsComeBeforeEveryContext) {
  const ScratchFolder folder;
  auto items = read_choice_items(folder.write("task.jsonl", kTask));
  const auto examples = items;
  add_shots(items, examples, 2);
  EXPECT_EQ(items[0].choices[0].context,
            "Question: what?\nAnswer: \u00fcber\n\nA cat sat.\n\nQuestion: what?\nAnswer:");
  EXPECT_EQ(items[0].choices[0].scored, " this");
  testing::expect_error(ErrorCode::bad_request, [&] { add_shots(items, examples, 3); });
}

// The best choice by scoring every choice alone; items of many sizes, so that several batches and
// contexts that are cut occur.
TEST(Choices, PicksTheLikeliest) {
  const ScratchFolder folder;
  const auto path = tiny_model(folder);
  const ModelSource source(path);
  const auto tokenizer = load_tokenizer(source);
  LoadedModel m(path);
  std::vector<ChoiceItem> items;
  for (std::size_t i = 0; i < 12; ++i) {
    ChoiceItem item;
    for (std::size_t c = 0; c < 2 + i % 3; ++c) {
      // Some items begin alike, some choices share a context, some contexts are cut.
      std::string context(5 + 31 * i, static_cast<char>('a' + i / 2 + (i == 5 ? c : 0)));
      if (i % 4 == 1) context += "ab"[c % 2];
      const std::string scored = " " + std::string(1 + (i + c) % 4, static_cast<char>('k' + c));
      item.choices.push_back({context, scored, static_cast<std::int64_t>(scored.size()) - 1});
    }
    items.push_back(item);
  }
  std::int64_t picked = 0;
  for (const bool norm : {false, true}) {
    for (ChoiceItem& item : items) {
      std::vector<double> scores;
      for (const Choice& choice : item.choices) {
        std::vector<TokenId> ids = tokenizer->encode(choice.context + choice.scored, {});
        std::size_t first = tokenizer->encode(choice.context, {}).size();
        const auto most = static_cast<std::size_t>(m.model->info().max_context) + 1;
        if (ids.size() > most) {
          first -= ids.size() - most;
          ids.erase(ids.begin(), ids.end() - static_cast<std::ptrdiff_t>(most));
        }
        KvCache kv(kv_shape(m.model->info(), KvType::f16), static_cast<std::int64_t>(most), 1,
                   *m.ws.backend);
        const auto nll =
            sequence_nll(*m.model, m.ws, kv, ids, static_cast<std::int64_t>(first) - 1);
        const double sum = -std::accumulate(nll.begin(), nll.end(), 0.0);
        scores.push_back(norm ? sum / static_cast<double>(choice.characters) : sum);
      }
      item.gold =
          static_cast<std::size_t>(std::max_element(scores.begin(), scores.end()) - scores.begin());
      picked += item.gold == 0 ? 0 : 1;
    }
    const ChoiceResult result = choose(*m.model, m.ws, *tokenizer, items, KvType::f16, {});
    EXPECT_EQ(result.items, 12);
    EXPECT_EQ(norm ? result.acc_norm : result.acc, 1.0);
  }
  EXPECT_GT(picked, 0);  // not always the first
}

}  // namespace
}  // namespace tenfold
