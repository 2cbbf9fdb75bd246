#include "runtime/utf8.h"

#include <gtest/gtest.h>

#include <string>
#include <string_view>

namespace tenfold {
namespace {

using namespace std::string_literals;

constexpr std::string_view kInvalid[] = {
    "\x80",         "\xBF",         "\xC0\xAF",     "\xC1\xBF",
    "\xE0\x9F\xBF", "\xED\xA0\x80", "\xF0\x8F\xBF", "\xF4\x90\x80\x80",
    "\xF5\x80\x80", "\xFF",         "\xE2\x82",     "\xC3",
    "\xF0\x9F\x99", "a\xC3z",       "\xE2\x28\xA1", "\xF0\x9F\x99\x82\x82"};

TEST(Utf8, AcceptsEveryScalarValueAndNothingElse) {
  for (char32_t code = 0; code <= 0x10FFFF; ++code) {
    if (code == 0xD800) code = 0xE000;
    std::string text;
    append_utf8(text, code);
    const Utf8Char c = decode_utf8(text, 0);
    ASSERT_TRUE(c.valid) << static_cast<std::uint32_t>(code);
    ASSERT_EQ(c.code, code);
    ASSERT_EQ(c.length, text.size());
  }
  for (const std::string_view text : kInvalid) EXPECT_FALSE(is_valid_utf8(text)) << text;
  EXPECT_TRUE(is_valid_utf8(""));
  EXPECT_TRUE(is_valid_utf8("a\0b"s));
}

TEST(Utf8, AppendReplacesWhatIsNoScalarValue) {
  std::string text;
  append_utf8(text, 0xD800);
  append_utf8(text, 0x110000);
  EXPECT_EQ(text, "\uFFFD\uFFFD");
}

TEST(Utf8, FindsTheFirstInvalidByte) {
  EXPECT_EQ(first_invalid_utf8("h\u00e9llo"), std::string_view::npos);
  EXPECT_EQ(first_invalid_utf8("h\u00e9\xFFllo\xFF"), 3u);
  EXPECT_EQ(first_invalid_utf8("ab\xE2\x82"), 2u);
}

// The expected strings are Python's bytes.decode(errors="replace").
TEST(Utf8, SanitizesByMaximalSubparts) {
  EXPECT_EQ(sanitize_utf8("plain \u65e5\u672c"), "plain \u65e5\u672c");
  EXPECT_EQ(sanitize_utf8("\x61\xF1\x80\x80\xE1\x80\xC2\x62\x80\x63\x80\xBF\x64"),
            "a\uFFFD\uFFFD\uFFFDb\uFFFDc\uFFFD\uFFFDd");
  EXPECT_EQ(sanitize_utf8("\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41"),
            "\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFDA");
  EXPECT_EQ(sanitize_utf8("\xED\xA0\x80\xF4\x91\x92\x93\xFF\x41"),
            "\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFDA");
  EXPECT_EQ(sanitize_utf8("x\xF0\x9F\x99"), "x\uFFFD");
  for (const std::string_view text : kInvalid) EXPECT_TRUE(is_valid_utf8(sanitize_utf8(text)));
}

TEST(Utf8, CompletePrefixHoldsBackOnlyUnfinishedCharacters) {
  const std::string text = "a\u00e9\u65e5\U0001F642";
  const std::size_t ends[] = {0, 1, 1, 3, 3, 3, 6, 6, 6, 6, 10};
  for (std::size_t n = 0; n <= text.size(); ++n)
    EXPECT_EQ(complete_utf8_prefix(std::string_view(text).substr(0, n)), ends[n]) << n;
  EXPECT_EQ(complete_utf8_prefix("a\x80\x80"), 3u);  // stray continuation bytes
  EXPECT_EQ(complete_utf8_prefix("\xE0\x80"), 2u);   // no character continues like this
  EXPECT_EQ(complete_utf8_prefix("\xF5"), 1u);       // no lead byte
  EXPECT_EQ(complete_utf8_prefix("\xF0\x9F\xF0\x9F"), 2u);
}

}  // namespace
}  // namespace tenfold
