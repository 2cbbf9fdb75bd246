#include "quantizer/calibration.h"

#include <gtest/gtest.h>

#include <set>

#include "tests/support/expect_error.h"
#include "tests/support/scratch_folder.h"

namespace tenfold {
namespace {

using testing::ScratchFolder;

// One id a byte.
class ByteTokenizer : public Tokenizer {
 public:
  std::vector<TokenId> encode(std::string_view text, const EncodeOptions&) const override {
    std::vector<TokenId> ids;
    for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
    return ids;
  }
  std::string piece(TokenId id, bool) const override { return {static_cast<char>(id)}; }
  std::string decode(std::span<const TokenId> ids, bool) const override {
    return {ids.begin(), ids.end()};
  }
  std::optional<TokenId> token_to_id(std::string_view) const override { return {}; }
  void write_vocabulary(GgufMetadata&, std::int64_t) const override {}
};

std::string letters(std::size_t n) {
  std::string text;
  for (std::size_t i = 0; i < n; ++i) text += static_cast<char>('!' + i % 89);
  return text;
}

CalibrationOptions options_of(std::int64_t sequences, std::int64_t length, std::uint64_t seed = 0) {
  return {"text.txt", sequences, length, seed};
}

TEST(Calibration, DrawsWindowsOfTheTextOnceEach) {
  const ByteTokenizer tokenizer;
  const std::string text = letters(1003);
  const Calibration drawn = draw_calibration(tokenizer, text, options_of(100, 10));
  ASSERT_EQ(drawn.sequences.size(), 100u);
  EXPECT_EQ(drawn.tokens(), 1000);
  std::multiset<std::string> windows;
  for (std::size_t i = 0; i + 10 <= text.size(); i += 10) windows.insert(text.substr(i, 10));
  std::multiset<std::string> found;
  for (const auto& ids : drawn.sequences) found.insert(tokenizer.decode(ids, false));
  EXPECT_EQ(found, windows);
}

TEST(Calibration, IsTheSameForTheSameSeed) {
  const ByteTokenizer tokenizer;
  const std::string text = letters(5000);
  const Calibration a = draw_calibration(tokenizer, text, options_of(8, 64, 3));
  const Calibration b = draw_calibration(tokenizer, text, options_of(8, 64, 3));
  const Calibration c = draw_calibration(tokenizer, text, options_of(8, 64, 4));
  EXPECT_EQ(a.sequences, b.sequences);
  EXPECT_EQ(a.hash, b.hash);
  EXPECT_NE(a.sequences, c.sequences);
  EXPECT_NE(a.hash, c.hash);
}

TEST(Calibration, PutsBosFirst) {
  ByteTokenizer tokenizer;
  tokenizer.bos = 1;
  tokenizer.adds_bos = true;
  const Calibration drawn = draw_calibration(tokenizer, letters(100), options_of(3, 10));
  for (const auto& ids : drawn.sequences) {
    EXPECT_EQ(ids.size(), 10u);
    EXPECT_EQ(ids.front(), 1);
  }
}

TEST(Calibration, SaysWhereTheTextIsTooShort) {
  const ByteTokenizer tokenizer;
  const std::string message = testing::expect_error(ErrorCode::bad_request, [&] {
    draw_calibration(tokenizer, letters(99), options_of(10, 10));
  });
  EXPECT_EQ(message,
            "text.txt has 99 tokens, which is 9 sequences of 10: fewer than the 10 asked for");
}

TEST(Calibration, ReadsTextAndJsonLines) {
  const ScratchFolder folder;
  EXPECT_EQ(calibration_text(folder.write("a.txt", "one\ntwo")), "one\ntwo");
  EXPECT_EQ(
      calibration_text(folder.write("a.jsonl", "{\"text\": \"one\"}\n\n{\"text\": \"t\\u00fc\"}")),
      "one\n\nt\u00fc");
}

TEST(Calibration, RefusesWhatIsNoText) {
  const ScratchFolder folder;
  const auto message = [&](const std::string& name, const std::string& content) {
    const auto path = folder.write(name, content);
    return testing::expect_error(ErrorCode::bad_file, [&] { calibration_text(path); });
  };
  EXPECT_NE(message("b.txt", "caf\xe9").find("is not UTF-8 text"), std::string::npos);
  for (const char* line : {"[1]", "{\"text\": 1}", "{}"}) {
    EXPECT_NE(message("b.jsonl", "{\"text\": \"x\"}\n" + std::string(line))
                  .find("line 2: is not a JSON object with a \"text\" that is a string"),
              std::string::npos);
  }
}

}  // namespace
}  // namespace tenfold
