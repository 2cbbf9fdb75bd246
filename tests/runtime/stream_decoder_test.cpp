#include <gtest/gtest.h>

#include "runtime/tokenizer.h"
#include "runtime/utf8.h"
#include "tests/support/tokenizer_cases.h"

namespace tenfold {
namespace {

std::string stream(const Tokenizer& tokenizer, const std::vector<TokenId>& ids, bool special) {
  StreamDecoder decoder(tokenizer, special);
  std::string text;
  for (const TokenId id : ids) {
    const std::string piece = decoder.push(id);
    EXPECT_TRUE(is_valid_utf8(piece));
    text += piece;
  }
  return text + decoder.finish();
}

class StreamDecoderTest : public testing::TestWithParam<const char*> {
 protected:
  std::unique_ptr<Tokenizer> tokenizer() const {
    if (std::string_view(GetParam()) == "bpe") return make_bpe_tokenizer(tiny_bpe(), "tiny");
    return load_sentencepiece(tokenizer_data() / GetParam());
  }
};

TEST_P(StreamDecoderTest, EqualsTheWholeDecodeMadeValid) {
  const auto model = tokenizer();
  std::uint32_t state = 3;
  for (int round = 0; round < 300; ++round) {
    std::vector<TokenId> ids;
    for (int i = 0; i < 30; ++i) {
      state = state * 1664525 + 1013904223;
      ids.push_back(
          static_cast<TokenId>((state >> 8) % static_cast<std::uint32_t>(model->vocab_size + 2)) -
          1);
    }
    for (const bool special : {false, true}) {
      ASSERT_EQ(stream(*model, ids, special), sanitize_utf8(model->decode(ids, special)));
    }
  }
}

TEST_P(StreamDecoderTest, HoldsBackAnUnfinishedCharacter) {
  const auto model = tokenizer();
  const std::vector<TokenId> ids = model->encode("\U0001F642", {});
  ASSERT_GE(ids.size(), 4u);  // no such token: four bytes
  StreamDecoder decoder(*model);
  for (std::size_t i = 0; i + 1 < ids.size(); ++i) EXPECT_EQ(decoder.push(ids[i]), "");
  EXPECT_EQ(decoder.push(ids.back()), "\U0001F642");
  EXPECT_EQ(decoder.finish(), "");
}

TEST_P(StreamDecoderTest, FinishMarksAnIncompleteCharacter) {
  const auto model = tokenizer();
  std::vector<TokenId> ids = model->encode("a\U0001F642", {});
  ids.pop_back();
  StreamDecoder decoder(*model);
  std::string text;
  for (const TokenId id : ids) text += decoder.push(id);
  EXPECT_EQ(text, "a");
  EXPECT_EQ(decoder.finish(), "\uFFFD");
  EXPECT_EQ(decoder.finish(), "");
}

INSTANTIATE_TEST_SUITE_P(Models, StreamDecoderTest,
                         testing::Values("bpe", "tiny-sentencepiece-bpe.model"),
                         [](const auto& model) {
                           return model.index == 0 ? "Bpe" : "SentencePiece";
                         });

TEST(StreamDecoder, DropsTheDummyPrefixAfterHiddenAndShownControlTokens) {
  const auto model = load_sentencepiece(tokenizer_data() / "tiny-sentencepiece-bpe.model");
  const std::vector<TokenId> ids = model->encode("the fox", {.add_bos = true});
  EXPECT_EQ(stream(*model, ids, false), "the fox");
  EXPECT_EQ(stream(*model, ids, true), "<s>the fox");
}

}  // namespace
}  // namespace tenfold
