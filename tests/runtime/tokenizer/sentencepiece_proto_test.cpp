#include "runtime/tokenizer/sentencepiece_proto.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sentencepiece_processor.h>

#include <limits>

#include "kernels/error.h"
#include "runtime/tokenizer/protobuf_wire.h"
#include "tests/support/tokenizer_cases.h"

namespace tenfold {
namespace {

using sentencepiece::SentencePieceProcessor;

constexpr const char* kModels[] = {"tiny-sentencepiece-bpe.model",
                                   "tiny-sentencepiece-unigram.model"};

// What the library makes of the original file.
std::vector<TokenId> reference(const SentencePieceProcessor& library, std::string_view text) {
  std::vector<int> ids;
  EXPECT_TRUE(library.Encode(text, &ids).ok());
  return ids;
}

SentencePieceVocabulary small_vocabulary() {
  SentencePieceVocabulary vocabulary;
  const auto add = [&](std::string text, float score, TokenKind kind) {
    vocabulary.entries.set(static_cast<TokenId>(vocabulary.scores.size()), std::move(text), kind,
                           "small");
    vocabulary.scores.push_back(score);
  };
  add("<unk>", 0, TokenKind::unknown);
  add("<s>", 0, TokenKind::control);
  add("</s>", 0, TokenKind::control);
  add("\u2581", -3, TokenKind::normal);
  add("a", -4, TokenKind::normal);
  add("b", -5, TokenKind::normal);
  add("ab", -1, TokenKind::normal);
  return vocabulary;
}

std::vector<TokenId> encode(SentencePieceVocabulary vocabulary, std::string_view text) {
  return make_sentencepiece_tokenizer(std::move(vocabulary), "small")
      ->encode(text, {.parse_special = false});
}

TEST(SentencePieceProto, ReadsTheFieldsThatMatter) {
  const std::string bytes = read_bytes(tokenizer_data() / kModels[0]);
  const SentencePieceVocabulary vocabulary = read_model_proto(bytes, "model");
  SentencePieceProcessor library;
  ASSERT_TRUE(library.LoadFromSerializedProto(bytes).ok());
  ASSERT_EQ(vocabulary.scores.size(), static_cast<std::size_t>(library.GetPieceSize()));
  for (int id = 0; id < library.GetPieceSize(); ++id) {
    const auto index = static_cast<std::size_t>(id);
    EXPECT_EQ(vocabulary.entries.texts[index], library.IdToPiece(id));
    EXPECT_EQ(vocabulary.scores[index], library.GetScore(id));
    const TokenKind kind = vocabulary.entries.kinds[index];
    EXPECT_EQ(kind == TokenKind::control, library.IsControl(id));
    EXPECT_EQ(kind == TokenKind::unknown, library.IsUnknown(id));
    EXPECT_EQ(kind == TokenKind::byte, library.IsByte(id));
  }
  EXPECT_EQ(vocabulary.algorithm, SentencePieceAlgorithm::bpe);
  EXPECT_FALSE(vocabulary.remove_extra_whitespaces);
  EXPECT_EQ(vocabulary.space_prefix, SpacePrefix::always);
}

TEST(SentencePieceProto, RewrittenModelEncodesAsTheLibraryDoesFromTheFile) {
  const char* const texts[] = {"",
                               " ",
                               "The other foxes",
                               "  two  spaces ",
                               "caf\u00E9\u00A0\u00BD \uFF21\uFF22 \u65E5\u672C",
                               "a<sep>b <sep> <s></s><unk>",
                               "12 dogs\n\tand \U0001F642 \u2581\u2581x",
                               "over and over and over, and they were the brownest of them all"};
  for (const char* model : kModels) {
    const auto tokenizer = load_sentencepiece(tokenizer_data() / model);
    SentencePieceProcessor library;
    ASSERT_TRUE(library.Load((tokenizer_data() / model).string()).ok());
    for (const char* text : texts) {
      EXPECT_EQ(tokenizer->encode(text, {.parse_special = false}), reference(library, text))
          << model << ": " << text;
    }
  }
}

TEST(SentencePieceProto, ChunksOfALongTextEncodeAsTheWhole) {
  const auto tokenizer = load_sentencepiece(tokenizer_data() / kModels[0]);
  SentencePieceProcessor library;
  ASSERT_TRUE(library.Load((tokenizer_data() / kModels[0]).string()).ok());
  std::string text;
  std::uint32_t state = 5;
  for (int i = 0; i < 20000; ++i) {
    state = state * 1664525 + 1013904223;
    constexpr const char* kParts[] = {"the", " ", "  ", "fox", "o", "\n", "\u2581", " over"};
    text += kParts[state >> 29];
  }
  EXPECT_EQ(tokenizer->encode(text, {.parse_special = false}), reference(library, text));
}

TEST(SentencePieceProto, RefusesTruncationAtEveryByte) {
  const std::string bytes = read_bytes(tokenizer_data() / kModels[0]);
  std::size_t refused = 0;
  for (std::size_t length = 0; length < bytes.size(); ++length) {
    try {
      read_model_proto(std::string_view(bytes).substr(0, length), "model");
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::bad_file);
      ++refused;
    }
  }
  // A cut between two fields leaves a shorter but well-formed message: no more than the pieces and
  // the four other fields of a model.
  EXPECT_GE(refused + 420 + 4, bytes.size());
}

TEST(SentencePieceProto, FlippedBytesNeverCrash) {
  for (const char* model : kModels) {
    const std::string good = read_bytes(tokenizer_data() / model);
    for (std::size_t i = 0; i < good.size(); i += 13) {
      std::string bytes = good;
      bytes[i] = static_cast<char>(bytes[i] ^ (1 << (i % 8)));
      try {
        auto vocabulary = read_model_proto(bytes, "model");
        make_sentencepiece_tokenizer(std::move(vocabulary), "model")->encode("the fox \uFF21", {});
      } catch (const Error&) {
      }
    }
  }
}

TEST(SentencePieceProto, RefusesOtherModelTypes) {
  ProtoWriter piece, trainer, model;
  piece.bytes(1, "<unk>");
  trainer.number(3, 3);
  model.bytes(1, piece.message());
  model.bytes(2, trainer.message());
  try {
    read_model_proto(model.message(), "word.model");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::unsupported);
    EXPECT_THAT(error.what(), testing::HasSubstr("model type 3"));
  }
}

TEST(SentencePieceProto, WithoutByteTokensUnknownTextIsUnk) {
  EXPECT_EQ(encode(small_vocabulary(), "ab ba"), (std::vector<TokenId>{3, 6, 3, 5, 4}));
  EXPECT_EQ(encode(small_vocabulary(), "azb"), (std::vector<TokenId>{3, 4, 0, 5}));
}

TEST(SentencePieceProto, WithoutUnkUnknownTextIsDropped) {
  SentencePieceVocabulary vocabulary = small_vocabulary();
  vocabulary.entries.kinds[0] = TokenKind::normal;
  const auto tokenizer = make_sentencepiece_tokenizer(vocabulary, "small");
  EXPECT_EQ(tokenizer->encode("azb", {}), (std::vector<TokenId>{3, 4, 5}));
  EXPECT_FALSE(tokenizer->unk);
  EXPECT_EQ(tokenizer->vocab_size, 7);
}

TEST(SentencePieceProto, ToleratesWhatTheLibraryRefuses) {
  SentencePieceVocabulary vocabulary = small_vocabulary();
  const auto add = [&](std::string text, TokenKind kind) {
    vocabulary.entries.set(static_cast<TokenId>(vocabulary.scores.size()), std::move(text), kind,
                           "small");
    vocabulary.scores.push_back(0);
  };
  add("ab", TokenKind::normal);       // doubled
  add("", TokenKind::normal);         // empty
  add("<0xZZ>", TokenKind::byte);     // malformed
  add("<0x-1>", TokenKind::byte);     // malformed
  add("<0x0A>", TokenKind::byte);     // alone: no byte fallback
  add("<unk2>", TokenKind::unknown);  // second of its kind
  add(std::string("x\0y", 3), TokenKind::user_defined);
  add(std::string("x\0z", 3), TokenKind::user_defined);
  const auto tokenizer = make_sentencepiece_tokenizer(vocabulary, "small");
  EXPECT_EQ(tokenizer->encode("ab", {}), (std::vector<TokenId>{3, 6}));
  EXPECT_EQ(tokenizer->piece(9), "<0xZZ>");
  EXPECT_EQ(tokenizer->piece(11), "\n");
  EXPECT_EQ(tokenizer->vocab_size, 15);
}

TEST(SentencePieceProto, RefusesNanScores) {
  SentencePieceVocabulary vocabulary = small_vocabulary();
  vocabulary.scores[4] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THROW(write_model_proto(vocabulary, "small"), Error);
}

TEST(SentencePieceProto, RefusesACharsmapThatPointsOutside) {
  const std::string bytes = read_bytes(tokenizer_data() / kModels[1]);
  const SentencePieceVocabulary good = read_model_proto(bytes, "model");
  ASSERT_GT(good.precompiled_charsmap.size(), 1024u);
  ASSERT_NO_THROW(write_model_proto(good, "model"));
  const auto refuses = [&](std::string charsmap) {
    SentencePieceVocabulary bad = good;
    bad.precompiled_charsmap = std::move(charsmap);
    EXPECT_THROW(write_model_proto(bad, "model"), Error);
  };
  refuses("abc");
  refuses(good.precompiled_charsmap.substr(0, good.precompiled_charsmap.size() - 1));
  refuses(good.precompiled_charsmap.substr(0, 600));
  std::string far = good.precompiled_charsmap;
  far.replace(4, 4, std::string("\x00\x02\xFF\x7F", 4));  // the root's children far outside
  refuses(far);
}

TEST(SentencePieceProto, ParsesBytePieces) {
  EXPECT_EQ(byte_of_piece("<0x00>"), 0);
  EXPECT_EQ(byte_of_piece("<0xFF>"), 255);
  for (const char* bad : {"", "<0x>", "<0x0>", "<0xff>", "<0x-1>", "<0x0A", "<0x0AA>", "a"}) {
    EXPECT_EQ(byte_of_piece(bad), -1) << bad;
  }
}

}  // namespace
}  // namespace tenfold
