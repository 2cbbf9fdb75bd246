// Strings of JSON schemas: lengths, patterns, formats.

#include "runtime/grammar/string_rules.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "runtime/grammar/json_schema.h"
#include "runtime/grammar/matcher.h"
#include "tests/runtime/grammar/random_text.h"
#include "tests/runtime/grammar/schema_validator.h"
#include "tests/support/expect_error.h"

namespace tenfold {
namespace {

using testing::expect_error;
using ::testing::HasSubstr;
using Json = nlohmann::ordered_json;

Json with_pattern(const std::string& pattern) { return {{"type", "string"}, {"pattern", pattern}}; }

bool matches(const GrammarMatcher& matcher, const std::string& text) {
  if (!matcher.accepts(text)) return false;
  GrammarMatcher end = matcher;
  end.advance(text);
  return end.at_end();
}

// The string in its canonical spelling.
bool takes(const Json& schema, const std::string& text) {
  return matches(GrammarMatcher(json_schema_grammar(schema)), Json(text).dump());
}

std::string complaint(const Json& schema) {
  return expect_error(ErrorCode::bad_request, [&] { json_schema_grammar(schema); });
}

TEST(StringRules, FreeStringsAreJsonStrings) {
  const GrammarMatcher matcher(json_schema_grammar({{"type", "string"}}));
  for (const char* text : {R"("")", R"("a é 日本 🙂 \" \\ \/ \b \f \n \r \t")",
                           R"("\u0041\u00e9\uD7FF\ue000\uFFFF")"}) {
    EXPECT_TRUE(matches(matcher, text)) << text;
    EXPECT_NO_THROW(Json::parse(text));
  }
  for (const char* text :
       {"", "\"", "a", "\"\n\"", "\"\t\"", "\"\\x\"", "\"\\u12\"", "\"\\uD83D\"", "\"\\uDE00\"",
        "\"\\udbff\\udfff\"", "\"\xFF\"", "\"\xC0\x80\"", "\"a\" "}) {
    EXPECT_FALSE(matches(matcher, text)) << text;
  }
  for (int byte = 0; byte < 256; ++byte) {
    const std::string text = std::string("\"") + static_cast<char>(byte) + '"';
    EXPECT_EQ(matches(matcher, text), byte != '"' && Json::accept(text)) << byte;
  }
}

TEST(StringRules, LengthsCountCharacters) {
  const Json schema = {{"type", "string"}, {"minLength", 2}, {"maxLength", 3}};
  const GrammarMatcher matcher(json_schema_grammar(schema));
  for (const char* text : {R"("ab")", R"("é🙂")", R"("\n\u0041x")", R"("\\\\")"}) {
    EXPECT_TRUE(matches(matcher, text)) << text;
  }
  for (const char* text : {R"("a")", R"("🙂")", R"("\u0041")", R"("abcd")", R"("\n\n\n\n")"}) {
    EXPECT_FALSE(matches(matcher, text)) << text;
  }
  EXPECT_TRUE(takes({{"type", "string"}, {"maxLength", 0}}, ""));
  EXPECT_FALSE(takes({{"type", "string"}, {"maxLength", 0}}, "a"));
  EXPECT_TRUE(takes({{"type", "string"}, {"minLength", 3.0}}, "abc"));
  EXPECT_TRUE(takes({{"type", "string"}, {"maxLength", 5000000}}, std::string(5000, 'a')));
  EXPECT_THAT(complaint({{"type", "string"}, {"minLength", 5000000}}), HasSubstr("at most 32768"));
  EXPECT_THAT(complaint({{"type", "string"}, {"minLength", 3}, {"maxLength", 2}}),
              HasSubstr("maxLength 2 is below minLength 3"));
}

TEST(StringRules, PatternsAgreeWithARegexLibrary) {
  const std::vector<std::string> patterns = {"^[a-z]+$",
                                             "^a",
                                             "b$",
                                             "ab",
                                             "a|b",
                                             "^a|b$",
                                             "^(a|b)$",
                                             "^$",
                                             "",
                                             "^a*b?$",
                                             "^(ab){2,3}$",
                                             "^[^a]$",
                                             "^[^a-y\\n]+$",
                                             "^\\d{3}-\\d{2}$",
                                             "\\w\\s\\w",
                                             "^\\S+$",
                                             "^\\D\\W$",
                                             "^.$",
                                             "^..$",
                                             "^(?:a(?:b|c)*)+$",
                                             "^a\\.b\\\\\"$",
                                             "^[\\d\\s_-]+$",
                                             "^\\x41\\u0042$",
                                             "^a+?b*?$",
                                             "[\"\\\\]",
                                             "^[\\]\\^a-]$",
                                             "^\\t|\\n$",
                                             "^(|a)(b|)$",
                                             "^[^]$"};
  const std::vector<std::string> texts = {
      "",  "a",  "b",  "c",   "ab",      "ba",      "abab",   "ababab", "abababab", "aab",
      "z", "zz", "\n", "é",   "🙂",    "日本",    "123-45", "1234-5", "a b",      "a  b",
      " ", "!!", "x!", "AB",  "a.b\\\"", "axb\\\"", "1 _-",   "\"",     "\\",       "]",
      "^", "-",  "\t", "acb", "abcabc",  "\x01",    "\x7f",   "A"};
  for (const std::string& pattern : patterns) {
    const Json schema = with_pattern(pattern);
    const GrammarMatcher matcher(json_schema_grammar(schema));
    for (const std::string& text : texts) {
      const std::string library_pattern = pattern == "^[^]$" ? "^[\\s\\S]$" : pattern;
      EXPECT_EQ(matches(matcher, Json(text).dump()),
                testing::is_valid(text, with_pattern(library_pattern), {}))
          << pattern << " on " << Json(text).dump();
    }
  }
}

TEST(StringRules, PatternsSeeTheDecodedText) {
  const GrammarMatcher quote(json_schema_grammar(with_pattern("^\"$")));
  EXPECT_TRUE(matches(quote, R"("\"")"));
  EXPECT_FALSE(matches(quote, "\"\"\""));
  const GrammarMatcher any(json_schema_grammar(with_pattern("^.$")));
  EXPECT_TRUE(matches(any, R"("\\")"));
  EXPECT_TRUE(matches(any, R"("\u0001")"));
  EXPECT_FALSE(matches(any, R"("\n")"));      // . is no line end
  EXPECT_FALSE(matches(any, R"("\u0041")"));  // canonical spelling only
  const GrammarMatcher letter(json_schema_grammar(with_pattern("^[\\u{1F600}-\\u{1F64F}]$")));
  EXPECT_TRUE(matches(letter, "\"🙂\""));
  EXPECT_TRUE(takes(with_pattern("^\\uD83D\\uDE42$"), "🙂"));
}

TEST(StringRules, PatternWithLengths) {
  Json schema = with_pattern("^[a-z]+$");
  schema["maxLength"] = 3;
  EXPECT_TRUE(takes(schema, "abc"));
  EXPECT_FALSE(takes(schema, "abcd"));
  EXPECT_FALSE(takes(schema, ""));
  schema["minLength"] = 2;
  EXPECT_FALSE(takes(schema, "a"));
  schema["pattern"] = "^[a-z]{3}-\\d$";
  schema["maxLength"] = 5;
  EXPECT_TRUE(takes(schema, "abc-1"));
  schema["maxLength"] = 4;
  EXPECT_THAT(complaint(schema), HasSubstr("minLength and maxLength beside a pattern"));
  schema["pattern"] = "[a-z]";
  EXPECT_THAT(complaint(schema), HasSubstr("minLength and maxLength beside a pattern"));
  schema["pattern"] = "^[a-z]{9,}$";
  EXPECT_THAT(complaint(schema), HasSubstr("no string has this pattern and length"));
}

TEST(StringRules, RefusesWhatItCannotHonour) {
  for (const char* pattern :
       {"(?=a)",       "(?!a)b", "(?<=a)b",  "a\\b", "\\Ba", "(a)\\1", "\\p{L}",
        "(?i)a",       "a^",     "(^a)",     "a$b",  "(a$)", "a**",    "*a",
        "a{2",         "a{3,2}", "a{99999}", "[a",   "[]",   "[b-a]",  "[\\d-z]",
        "[a-\\d]",     "(a",     "a)",       "\\",   "\\q",  "\\u12",  "\\uD800",
        "\\u{110000}", "\\cA",   "\\k<n>",   "{1}",  "+"}) {
    const std::string message = complaint(with_pattern(pattern));
    EXPECT_THAT(message, HasSubstr("JSON schema, \"#\": the pattern ")) << pattern;
    EXPECT_THAT(message, HasSubstr("is not supported")) << pattern;
  }
  EXPECT_THAT(complaint({{"type", "string"}, {"format", "hostname"}}),
              HasSubstr("the format \"hostname\" is not supported"));
  Json both = with_pattern("a");
  both["format"] = "date";
  EXPECT_THAT(complaint(both), HasSubstr("pattern and format together"));
}

TEST(StringRules, FormatsAreRight) {
  std::mt19937 rng(11);
  for (const char* format : {"date", "time", "date-time", "uuid", "ipv4", "email"}) {
    const Json schema = {{"type", "string"}, {"format", format}};
    const GrammarMatcher matcher(json_schema_grammar(schema));
    for (int i = 0; i < 100; ++i) {
      const auto text = testing::random_text(matcher, rng);
      ASSERT_TRUE(text.has_value());
      ASSERT_TRUE(testing::is_valid(Json::parse(*text), schema, schema)) << *text;
    }
  }
}

TEST(StringRules, EveryDate) {
  const Json schema = {{"type", "string"}, {"format", "date"}};
  const GrammarMatcher matcher(json_schema_grammar(schema));
  for (const int year : {0, 1, 4, 99, 100, 400, 1900, 1999, 2000, 2023, 2024, 2100, 9999}) {
    for (int month = 0; month <= 13; ++month) {
      for (int day = 0; day <= 32; ++day) {
        char text[32];
        std::snprintf(text, sizeof text, "%04d-%02d-%02d", year, month, day);
        ASSERT_EQ(matches(matcher, Json(text).dump()), testing::is_valid(text, schema, schema))
            << text;
      }
    }
  }
  EXPECT_TRUE(takes({{"type", "string"}, {"format", "date-time"}}, "2024-02-29T23:59:59.5+01:30"));
  EXPECT_TRUE(takes({{"type", "string"}, {"format", "email"}}, "ada.lovelace@example.org"));
  EXPECT_TRUE(takes({{"type", "string"}, {"format", "ipv4"}}, "255.10.0.1"));
  EXPECT_FALSE(takes({{"type", "string"}, {"format", "ipv4"}}, "256.10.0.1"));
}

}  // namespace
}  // namespace tenfold
