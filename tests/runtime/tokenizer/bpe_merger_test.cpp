#include "runtime/tokenizer/bpe_merger.h"

#include <gtest/gtest.h>

#include <map>

namespace tenfold {
namespace {

using Rules = std::map<std::pair<TokenId, TokenId>, std::pair<std::size_t, TokenId>>;

// The definition: the best pair, leftmost, until none is left.
std::vector<TokenId> merge_naively(std::vector<TokenId> ids, const Rules& rules) {
  for (;;) {
    std::size_t best = rules.size(), at = 0;
    TokenId merged = -1;
    for (std::size_t i = 0; i + 1 < ids.size(); ++i) {
      const auto rule = rules.find({ids[i], ids[i + 1]});
      if (rule == rules.end() || rule->second.first >= best) continue;
      best = rule->second.first;
      merged = rule->second.second;
      at = i;
    }
    if (merged < 0) return ids;
    ids[at] = merged;
    ids.erase(ids.begin() + static_cast<std::ptrdiff_t>(at) + 1);
  }
}

TEST(BpeMerger, AgreesWithTheDefinitionOnRandomRulesAndWords) {
  std::uint32_t state = 7;
  const auto draw = [&](std::uint32_t n) {
    state = state * 1664525 + 1013904223;
    return static_cast<TokenId>((state >> 8) % n);
  };
  for (int round = 0; round < 200; ++round) {
    BpeMerger merger;
    Rules rules;
    for (TokenId merged = 4; merged < 30; ++merged) {
      const TokenId left = draw(static_cast<std::uint32_t>(merged));
      const TokenId right = draw(static_cast<std::uint32_t>(merged));
      if (rules.try_emplace({left, right}, rules.size(), merged).second) {
        merger.add(left, right, merged);
      }
    }
    BpeMerger::Workspace workspace;
    for (std::uint32_t length : {0u, 1u, 2u, 3u, 40u}) {
      std::vector<TokenId> word;
      for (std::uint32_t i = 0; i < length; ++i) word.push_back(draw(5) - (draw(20) == 0));
      const std::vector<TokenId> expected = merge_naively(word, rules);
      merger.merge(word, workspace);
      ASSERT_EQ(word, expected) << "round " << round;
    }
  }
}

TEST(BpeMerger, FirstRuleForAPairStays) {
  BpeMerger merger;
  merger.add(0, 1, 2);
  merger.add(0, 1, 3);
  BpeMerger::Workspace workspace;
  std::vector<TokenId> word = {0, 1};
  merger.merge(word, workspace);
  EXPECT_EQ(word, std::vector<TokenId>{2});
}

}  // namespace
}  // namespace tenfold
