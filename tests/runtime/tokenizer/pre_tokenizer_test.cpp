#include "runtime/tokenizer/pre_tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "kernels/error.h"

namespace tenfold {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

std::vector<std::string> split(std::string_view name, std::string_view text) {
  const PreTokenizer pre_tokenizer(name);
  std::vector<std::string> pieces;
  for (const std::string_view piece : pre_tokenizer.split(text)) pieces.emplace_back(piece);
  return pieces;
}

TEST(PreTokenizer, Gpt2SplitsContractionsWordsNumbersAndSpaces) {
  EXPECT_THAT(split("gpt-2", "I'll pay  $12345, OK'LL?"),
              ElementsAre("I", "'ll", " pay", " ", " $", "12345", ",", " OK", "'", "LL", "?"));
  EXPECT_THAT(split("gpt-2", "a\n\n b \n"), ElementsAre("a", "\n\n", " b", " \n"));
  EXPECT_THAT(split("gpt-2", ""), IsEmpty());
}

TEST(PreTokenizer, LlamaTakesThreeDigitsAndNewlinesWithPunctuation) {
  EXPECT_THAT(split("llama-bpe", "OK'LL 12345!\n\n x"),
              ElementsAre("OK", "'LL", " ", "123", "45", "!\n\n", " x"));
  EXPECT_THAT(split("llama-bpe", "(word  \n\n y"), ElementsAre("(word", "  \n\n", " y"));
}

TEST(PreTokenizer, SmollmTakesDigitsSingly) {
  EXPECT_THAT(split("smollm", "a 12b"), ElementsAre("a", " ", "1", "2", "b"));
  EXPECT_THAT(split("smollm", "\u00B2\u2167"), ElementsAre("\u00B2", "\u2167"));
}

TEST(PreTokenizer, DefaultSplitsPunctuationAndDigitTriples) {
  EXPECT_THAT(split("default", "a.b 12345"), ElementsAre("a", ".", "b", " ", "123", "45"));
}

TEST(PreTokenizer, NoneKeepsTheText) { EXPECT_THAT(split("none", "a b 1"), ElementsAre("a b 1")); }

// U+180E is \s to PCRE2 but not White_Space; U+0085 and U+2003 are.
TEST(PreTokenizer, SpaceIsUnicodeWhiteSpace) {
  EXPECT_THAT(split("gpt-2", "a\u180E"), ElementsAre("a", "\u180E"));
  EXPECT_THAT(split("gpt-2", "!\u180E!"), ElementsAre("!\u180E!"));
  EXPECT_THAT(split("gpt-2", "!\u0085\u2003!"), ElementsAre("!", "\u0085", "\u2003", "!"));
}

TEST(PreTokenizer, CaselessContractionFollowsUnicode) {
  EXPECT_THAT(split("llama-bpe", "it'\u017F"), ElementsAre("it", "'\u017F"));
}

TEST(PreTokenizer, InvalidUtf8MakesPiecesOfItsOwn) {
  EXPECT_THAT(split("gpt-2",
                    "ab\xFF\xFE"
                    "cd \xE2\x82"),
              ElementsAre("ab", "\xFF", "\xFE", "cd", " ", "\xE2\x82"));
}

TEST(PreTokenizer, LosesNoByteOfAnyText) {
  constexpr std::string_view kBytes = "aZ \n\r\t09'sS.!\xC3\xA9\xE6\x97\xA5\xF0\x9F\xFF\xC2\x85";
  std::string text;
  std::uint32_t state = 1;
  for (int i = 0; i < 20000; ++i) {
    state = state * 1664525 + 1013904223;
    text += kBytes[(state >> 8) % kBytes.size()];
  }
  for (const char* name : {"gpt-2", "llama-bpe", "smollm", "default", "none"}) {
    std::string joined;
    for (const std::string& piece : split(name, text)) joined += piece;
    EXPECT_EQ(joined, text) << name;
  }
}

TEST(PreTokenizer, LongRunsTakeLinearTime) {
  for (const char* name : {"gpt-2", "llama-bpe", "smollm", "default"}) {
    for (const char* tail : {"", "x", "\n"}) {
      for (const char c : {' ', '\n', 'a', '1', '!'}) {
        const std::string text = std::string(200000, c) + tail;
        std::size_t bytes = 0;
        for (const std::string& piece : split(name, text)) bytes += piece.size();
        EXPECT_EQ(bytes, text.size());
      }
    }
  }
}

TEST(PreTokenizer, RefusesUnknownNames) {
  try {
    const PreTokenizer pre_tokenizer("viking");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::unsupported);
    EXPECT_THAT(error.what(), testing::HasSubstr("viking"));
  }
}

TEST(PreTokenizer, RecognisesHuggingFaceRegexes) {
  EXPECT_EQ(pre_tokenizer_for_regex(
                R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)"),
            "gpt-2");
  EXPECT_EQ(pre_tokenizer_for_regex(""), "");
  EXPECT_EQ(pre_tokenizer_for_regex("\\w+"), "");
}

}  // namespace
}  // namespace tenfold
