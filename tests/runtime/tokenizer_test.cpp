#include "runtime/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <thread>

#include "kernels/error.h"
#include "runtime/tokenizer/files.h"
#include "runtime/tokenizer/sentencepiece_proto.h"
#include "runtime/tokenizer/special_tokens.h"
#include "tests/support/smollm2.h"
#include "tests/support/tokenizer_cases.h"

namespace tenfold {
namespace {

using testing::ElementsAre;
namespace fs = std::filesystem;

#define SHARED_OR_SKIP(path)                                                    \
  if (!fs::exists(path)) {                                                      \
    GTEST_SKIP() << "NOT TESTED: " << (path) << " is not beside this checkout"; \
  }

// The same ids, and the text back, byte for byte: these vocabularies hold every byte of the texts.
void expect_goldens(const Tokenizer& tokenizer, const fs::path& path) {
  const auto cases = read_tokenizer_cases(path);
  EXPECT_GE(cases.size(), 160u);
  for (const TokenizerCase& golden : cases) {
    const std::vector<TokenId> ids = tokenizer.encode(golden.text, {});
    EXPECT_EQ(ids, golden.ids) << golden.text;
    EXPECT_EQ(tokenizer.decode(ids, true), golden.text);
  }
}

TEST(TokenizerGoldens, Gpt2) {
  SHARED_OR_SKIP(shared_tokenizers() / "gpt2");
  const auto tokenizer = load_directory_tokenizer(shared_tokenizers() / "gpt2", nullptr);
  expect_goldens(*tokenizer, shared_tokenizers() / "gpt2-bytelevel-bpe.json");
}

TEST(TokenizerGoldens, Opt) {
  SHARED_OR_SKIP(shared_tokenizers() / "opt");
  const nlohmann::json config = {{"model_type", "opt"}, {"bos_token_id", 2}, {"eos_token_id", 2}};
  const auto tokenizer = load_directory_tokenizer(shared_tokenizers() / "opt", config);
  expect_goldens(*tokenizer, shared_tokenizers() / "opt-bytelevel-bpe.json");
  EXPECT_TRUE(tokenizer->adds_bos);
  EXPECT_THAT(tokenizer->encode("Hello world", {.add_bos = true}), ElementsAre(2, 31414, 232));
  EXPECT_THAT(tokenizer->encode("</s>", {}), ElementsAre(2));
  EXPECT_THAT(tokenizer->end_of_generation, ElementsAre(2));
}

TEST(TokenizerGoldens, Llama2) {
  SHARED_OR_SKIP(shared_tokenizers() / "llama2");
  const auto tokenizer = load_sentencepiece(shared_tokenizers() / "llama2" / "tokenizer.model");
  expect_goldens(*tokenizer, shared_tokenizers() / "llama2-sentencepiece.json");
  EXPECT_EQ(tokenizer->vocab_size, 32000);
  EXPECT_EQ(tokenizer->unk, 0);
  EXPECT_EQ(tokenizer->bos, 1);
  EXPECT_EQ(tokenizer->eos, 2);
  EXPECT_TRUE(tokenizer->adds_bos);
  EXPECT_TRUE(tokenizer->adds_space_prefix);
  EXPECT_THAT(tokenizer->end_of_generation, ElementsAre(2));
}

TEST(TokenizerGoldens, SmolLM2InsideItsGguf) {
  TENFOLD_SMOLLM2_OR_SKIP(path);
  SHARED_OR_SKIP(shared_tokenizers());
  const GgufFile file(path);
  const auto tokenizer = load_gguf_tokenizer(file.metadata());
  expect_goldens(*tokenizer, shared_tokenizers() / "smollm2-gguf.json");
  EXPECT_EQ(tokenizer->kind, "byte-level BPE (smollm)");
  EXPECT_THAT(tokenizer->end_of_generation, ElementsAre(0, 2));
  EXPECT_THAT(tokenizer->chat_template, testing::HasSubstr("<|im_start|>"));
  EXPECT_FALSE(tokenizer->adds_bos);
}

TEST(TokenizerTiny, EachPreTokenizerAgreesWithANaiveEncoder) {
  for (const char* name : {"gpt-2", "llama-bpe", "smollm"}) {
    BpeVocabulary vocabulary = tiny_bpe();
    vocabulary.pre_tokenizer = name;
    const auto tokenizer = make_bpe_tokenizer(std::move(vocabulary), "tiny");
    for (const auto& tiny : read_tokenizer_cases(tokenizer_data() / "tiny-bpe/cases.json", name)) {
      const std::vector<TokenId> ids = tokenizer->encode(tiny.text, {});
      EXPECT_EQ(ids, tiny.ids) << name << ": " << tiny.text;
      std::string expressible = tiny.text;
      std::erase(expressible, '\x7F');  // the one byte that the vocabulary lacks
      EXPECT_EQ(tokenizer->decode(ids), expressible);
    }
  }
}

TEST(TokenizerTiny, AnyBytesComeBackFromSentencePiece) {
  const auto tokenizer = load_sentencepiece(tokenizer_data() / "tiny-sentencepiece-bpe.model");
  std::string all;
  for (int byte = 0; byte < 256; ++byte) all += static_cast<char>(byte);
  const std::string texts[] = {all, "\xFFthe", " the", "  ", "\xE2\x82 fox \xF0\x9F", "<s>", "\n"};
  for (const std::string& text : texts) {
    const auto ids = tokenizer->encode(text, {.parse_special = false});
    EXPECT_EQ(tokenizer->decode(ids), text);
  }
}

// U+2581 is how SentencePiece writes a space, so it cannot come back as itself.
TEST(TokenizerTiny, SentencePieceReadsLowerOneEighthBlockAsASpace) {
  const auto tokenizer = load_sentencepiece(tokenizer_data() / "tiny-sentencepiece-bpe.model");
  EXPECT_EQ(tokenizer->encode("the\u2581fox", {}), tokenizer->encode("the fox", {}));
  EXPECT_EQ(tokenizer->decode(tokenizer->encode("the\u2581fox", {})), "the fox");
}

TEST(TokenizerTiny, DummyPrefixGoesWhereTheSchemeSays) {
  const std::string bytes = read_bytes(tokenizer_data() / "tiny-sentencepiece-bpe.model");
  const auto encode = [&](SpacePrefix scheme, std::string_view text) {
    SentencePieceVocabulary vocabulary = read_model_proto(bytes, "tiny");
    vocabulary.space_prefix = scheme;
    const auto tokenizer = make_sentencepiece_tokenizer(std::move(vocabulary), "tiny");
    std::string shown;
    for (const TokenId id : tokenizer->encode(text, {})) shown += tokenizer->piece(id, true);
    return shown;
  };
  EXPECT_EQ(encode(SpacePrefix::none, "a</s>b"), "a</s>b");
  EXPECT_EQ(encode(SpacePrefix::first, "a</s>b</s>"), " a</s>b</s>");
  EXPECT_EQ(encode(SpacePrefix::always, "a</s>b</s>"), " a</s> b</s>");
  EXPECT_EQ(encode(SpacePrefix::first, "<s>a</s>b"), "<s> a</s>b");
}

TEST(TokenizerTiny, SpecialTokensInTheTextAreParsedOnRequest) {
  const auto bpe = make_bpe_tokenizer(tiny_bpe(), "tiny");
  EXPECT_THAT(bpe->encode("<s></s>", {}), ElementsAre(0, 2));
  const auto literal = bpe->encode("<s></s>", {.parse_special = false});
  EXPECT_THAT(literal, testing::Not(testing::AnyOf(testing::Contains(0), testing::Contains(2))));
  EXPECT_EQ(bpe->decode(literal), "<s></s>");
  EXPECT_EQ(bpe->piece(2), "");
  EXPECT_EQ(bpe->piece(2, true), "</s>");
}

TEST(TokenizerTiny, UserDefinedTokensAreAlwaysParsedAndShown) {
  BpeVocabulary vocabulary = tiny_bpe();
  const auto id = static_cast<TokenId>(vocabulary.entries.texts.size());
  vocabulary.entries.add({id, "a b\u00E9", false}, "tiny");
  const auto tokenizer = make_bpe_tokenizer(std::move(vocabulary), "tiny");
  EXPECT_THAT(tokenizer->encode("a b\u00E9", {.parse_special = false}), ElementsAre(id));
  EXPECT_EQ(tokenizer->piece(id), "a b\u00E9");
}

TEST(TokenizerTiny, IdsOutsideTheVocabularyAreEmpty) {
  const auto bpe = make_bpe_tokenizer(tiny_bpe(), "tiny");
  const auto spm = load_sentencepiece(tokenizer_data() / "tiny-sentencepiece-bpe.model");
  for (const Tokenizer* tokenizer : {bpe.get(), spm.get()}) {
    for (const TokenId id : {-1, -2147483647, 1 << 30}) EXPECT_EQ(tokenizer->piece(id, true), "");
    EXPECT_FALSE(tokenizer->token_to_id("no such token"));
    EXPECT_FALSE(tokenizer->token_to_id(""));
    EXPECT_EQ(tokenizer->token_to_id("<s>"), tokenizer == bpe.get() ? 0 : 1);
  }
}

TEST(TokenizerTiny, IgnoreMergesTakesWholeWords) {
  BpeVocabulary vocabulary = tiny_bpe();
  const auto id = static_cast<TokenId>(vocabulary.entries.texts.size());
  vocabulary.entries.set(id, "\u0120zzz", TokenKind::normal, "tiny");
  vocabulary.ignore_merges = true;
  const auto tokenizer = make_bpe_tokenizer(vocabulary, "tiny");
  EXPECT_THAT(tokenizer->encode(" zzz", {}), ElementsAre(id));
  vocabulary.ignore_merges = false;
  EXPECT_EQ(make_bpe_tokenizer(vocabulary, "tiny")->encode(" zzz", {}).size(), 4u);
}

TEST(TokenizerTiny, AddPrefixSpace) {
  BpeVocabulary vocabulary = tiny_bpe();
  vocabulary.add_prefix_space = true;
  const auto tokenizer = make_bpe_tokenizer(std::move(vocabulary), "tiny");
  EXPECT_EQ(tokenizer->encode("the", {}), tokenizer->encode(" the", {}));
}

TEST(TokenizerTiny, RefusesMergesOfUnknownTokens) {
  for (const char* merge : {"q zz", "zz q", "q q", "q", "q ", "q u x"}) {
    BpeVocabulary vocabulary = tiny_bpe();
    vocabulary.merges.push_back(merge);
    EXPECT_THROW(make_bpe_tokenizer(std::move(vocabulary), "tiny"), Error) << merge;
  }
}

TEST(TokenizerTiny, LongWordsDoNotHang) {
  const auto bpe = make_bpe_tokenizer(tiny_bpe(), "tiny");
  const auto spm = load_sentencepiece(tokenizer_data() / "tiny-sentencepiece-bpe.model");
  std::string word;
  for (int i = 0; i < 100000; ++i) word += "thequickbrownfox"[i * 7 % 16];
  for (const Tokenizer* tokenizer : {bpe.get(), spm.get()}) {
    EXPECT_EQ(tokenizer->decode(tokenizer->encode(word, {})), word);
  }
}

TEST(TokenizerTiny, EncodesFromSeveralThreads) {
  const auto bpe = make_bpe_tokenizer(tiny_bpe(), "tiny");
  const auto spm = load_sentencepiece(tokenizer_data() / "tiny-sentencepiece-bpe.model");
  for (const Tokenizer* tokenizer : {bpe.get(), spm.get()}) {
    const std::string text = "The other foxes came over there";
    const auto expected = tokenizer->encode(text, {});
    std::vector<std::thread> threads;
    std::vector<int> equal(4);
    for (std::size_t t = 0; t < equal.size(); ++t) {
      threads.emplace_back([&, t] {
        for (int i = 0; i < 50; ++i) equal[t] += tokenizer->encode(text, {}) == expected;
      });
    }
    for (std::thread& thread : threads) thread.join();
    EXPECT_THAT(equal, testing::Each(50));
  }
}

TEST(SpecialTokens, LongestMatchAtTheEarliestPlaceWins) {
  SpecialTokens tokens;
  tokens.add("<a", 1, true);
  tokens.add("<a><b>", 2, true);
  tokens.add("<b>", 3, true);
  tokens.add("x<", 4, false);
  tokens.add("", 5, true);
  const auto split = [&](std::string_view text, bool parse_special) {
    std::string shown;
    for (const TextFragment& fragment : tokens.split(text, parse_special)) {
      shown += fragment.token ? "[" + std::to_string(*fragment.token) + "]"
                              : "(" + std::string(fragment.text) + ")";
    }
    return shown;
  };
  EXPECT_EQ(split("<a><b>", true), "[2]");
  EXPECT_EQ(split("<a><b", true), "[1](><b)");
  EXPECT_EQ(split("y<b><b>z", true), "(y)[3][3](z)");
  EXPECT_EQ(split("x<a><b>", true), "[4](a>)[3]");
  EXPECT_EQ(split("x<a><b>", false), "[4](a><b>)");
  EXPECT_EQ(split("", true), "");
}

}  // namespace
}  // namespace tenfold
