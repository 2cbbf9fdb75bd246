#include "runtime/grammar/gbnf.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "runtime/grammar/matcher.h"
#include "tests/support/expect_error.h"

namespace tenfold {
namespace {

using testing::expect_error;
using ::testing::HasSubstr;

bool matches(std::string_view grammar, std::string_view text) {
  const GrammarMatcher start(parse_gbnf(grammar));
  if (!start.accepts(text)) return false;
  GrammarMatcher end = start;
  end.advance(text);
  return end.at_end();
}

std::string complaint(std::string_view grammar) {
  return expect_error(ErrorCode::bad_request, [&] { parse_gbnf(grammar); });
}

TEST(Gbnf, LiteralsAndEscapes) {
  EXPECT_TRUE(matches(R"(root ::= "a\n\r\t\\\"\[\]\x41\u00e9\U0001F642")",
                      "a\n\r\t\\\"[]A\u00e9\U0001F642"));
  EXPECT_TRUE(matches(R"(root ::= "\xFF")", "\u00ff"));  // a character, not a byte
  EXPECT_TRUE(matches(R"(root ::= "日本")", "日本"));
  EXPECT_TRUE(matches(R"(root ::= "")", ""));
  EXPECT_FALSE(matches(R"(root ::= "ab")", "a"));
  EXPECT_FALSE(matches(R"(root ::= "ab")", "abc"));
}

TEST(Gbnf, Classes) {
  EXPECT_TRUE(matches("root ::= [a-cx-z_-]*", "abcxyz_-"));
  EXPECT_FALSE(matches("root ::= [a-c]", "d"));
  EXPECT_TRUE(matches("root ::= [^a-c]", "é"));
  EXPECT_FALSE(matches("root ::= [^a-cé]", "é"));
  EXPECT_TRUE(matches("root ::= [^\\n\"\\\\\\]]", "^"));
  EXPECT_TRUE(matches("root ::= [\\u3040-\\u309F]+", "ひらがな"));
  EXPECT_FALSE(matches("root ::= [ぁ-ゟ]", "カ"));
  EXPECT_TRUE(matches("root ::= .", "\U0001F642"));
  EXPECT_TRUE(matches("root ::= .", "\n"));
  EXPECT_FALSE(matches("root ::= .", "\xFF"));
  EXPECT_FALSE(matches("root ::= .", "\xED\xA0\x80"));  // a surrogate
}

TEST(Gbnf, RepetitionsGroupsAndAlternatives) {
  EXPECT_TRUE(matches("root ::= \"a\"* \"b\"+ \"c\"?", "b"));
  EXPECT_FALSE(matches("root ::= \"a\"* \"b\"+", "aa"));
  for (int n = 0; n < 6; ++n) {
    const std::string text(static_cast<std::size_t>(n), 'x');
    EXPECT_EQ(matches("root ::= [x]{3}", text), n == 3);
    EXPECT_EQ(matches("root ::= \"x\"{ 2 , 4 }", text), n >= 2 && n <= 4);
    EXPECT_EQ(matches("root ::= \"x\"{2,}", text), n >= 2);
    EXPECT_EQ(matches("root ::= \"x\"{0,1}", text), n <= 1);
    EXPECT_EQ(matches("root ::= \"x\"{0}", text), n == 0);
  }
  EXPECT_TRUE(matches("root ::= (\"ab\" | \"c\"){2,3} \"d\"", "abcabd"));
  EXPECT_FALSE(matches("root ::= (\"ab\" | \"c\"){2,3} \"d\"", "abd"));
  EXPECT_TRUE(matches("root ::= | \"a\"", ""));
  EXPECT_TRUE(matches("root ::= \"a\" |", ""));
  EXPECT_TRUE(matches("root ::= \"a\"?*", "aaa"));
}

TEST(Gbnf, RulesCommentsAndLines) {
  const char* grammar =
      "# a list\r\n"
      "\n"
      "item ::= [0-9]+ |   # a number\n"
      "   \"[\" root \"]\"\n"
      "root ::=\n"
      "  item (\n"
      "     \",\"   # then more\n"
      "     item )*\n"
      "un-used_2 ::= \"x\"";
  EXPECT_TRUE(matches(grammar, "1,[2,3],[[4]]"));
  EXPECT_FALSE(matches(grammar, "1,[2,3"));
  EXPECT_FALSE(matches(grammar, ""));
}

TEST(Gbnf, ErrorsNameLineExpectedAndFound) {
  EXPECT_EQ(complaint(""), "the grammar has no rule root, where a text begins");
  EXPECT_EQ(complaint("a ::= \"x\""), "the grammar has no rule root, where a text begins");
  EXPECT_EQ(complaint("root = \"x\""), "grammar, line 1: expected ::=, found =");
  EXPECT_EQ(complaint("\nroot ::= \"x"),
            "grammar, line 2: expected the end of the literal, \", found the end");
  EXPECT_EQ(complaint("root ::= \"x\n\""),
            "grammar, line 1: expected the end of the literal, \", found the end of the line");
  EXPECT_EQ(complaint("root ::= [a-"),
            "grammar, line 1: expected the end of the range, found the end");
  EXPECT_EQ(complaint("root ::= []"),
            "grammar, line 1: expected a character before the end of the class, found ]");
  EXPECT_EQ(complaint("root ::= (\"x\""), "grammar, line 1: expected | or ), found the end");
  EXPECT_EQ(complaint("root ::= \"x\")"),
            "grammar, line 1: expected an element, | or the end of the line, found )");
  EXPECT_EQ(complaint("root ::= \"x\" é"),
            "grammar, line 1: expected a literal, [, (, . or the name of a rule, found é");
  EXPECT_EQ(complaint("root ::= *"),
            "grammar, line 1: expected a literal, [, (, . or the name of a rule, found *");
  EXPECT_EQ(
      complaint("root ::= \"\\q\""),
      "grammar, line 1: expected n, r, t, \\, \", [, ], x, u or U after a backslash, found q");
  EXPECT_EQ(complaint("root ::= \"\\u12\""),
            "grammar, line 1: expected 4 hexadecimal digits, found \"");
  EXPECT_THAT(complaint("root ::= \"\\uD800\""), HasSubstr("found the escape of D800"));
  EXPECT_THAT(complaint("root ::= \"\\UFFFFFFFF\""), HasSubstr("found the escape of FFFFFFFF"));
  EXPECT_THAT(complaint("root ::= [z-a]"), HasSubstr("must not end (U+0061) below"));
  EXPECT_EQ(complaint("root ::= \"x\"{3,2}"),
            "grammar, line 1: the repetition {3,2} must not end below where it begins");
  EXPECT_EQ(complaint("root ::= \"x\"{99999}"),
            "grammar, line 1: expected at most 32768 repetitions, found 99999");
  EXPECT_THAT(complaint("root ::= \"x\"{99999999999999999999}"), HasSubstr("at most 32768"));
  EXPECT_EQ(complaint("root ::= \"x\"{,2}"),
            "grammar, line 1: expected a number of repetitions, found ,");
  EXPECT_EQ(complaint("root ::= \"x\"\nroot ::= \"y\""),
            "grammar, line 2: the rule root is defined twice");
  EXPECT_EQ(complaint("root ::= \"x\"\n  \na ::= b\nc::= b"),
            "grammar, line 3: the rule b is used but defined nowhere");
  EXPECT_EQ(complaint("root ::= \"\xFF\""),
            "grammar, line 1: expected UTF-8 text, found byte 0xFF");
  EXPECT_EQ(complaint("root ::= <think>"),
            "grammar, line 1: expected a literal, [, (, . or the name of a rule, found <");
  std::string deep = "root ::= ";
  for (int i = 0; i < 200; ++i) deep += "(";
  EXPECT_THAT(complaint(deep), HasSubstr("deeper than 100"));
}

TEST(Gbnf, RefusesLeftRecursionAndRulesWithoutEnd) {
  EXPECT_THAT(complaint("root ::= root \"x\" | \"x\""),
              HasSubstr("the rule \"root\" begins with itself (left recursion)"));
  EXPECT_THAT(
      complaint("root ::= a\na ::= \"y\"? b\nb ::= (a \"x\")+ | \"z\""),
      ::testing::AnyOf(HasSubstr("the rule \"a\" begins"), HasSubstr("the rule \"b\" begins")));
  EXPECT_THAT(complaint("root ::= a root\na ::= \"\""), HasSubstr("the rule \"root\" begins"));
  EXPECT_THAT(complaint("root ::= \"x\" loop | \"y\"\nloop ::= \"x\" loop"),
              HasSubstr("the rule \"loop\" can never end"));
  EXPECT_TRUE(matches("root ::= \"x\" root | \"y\"", "xxxy"));
}

TEST(Gbnf, LimitsTheSizeOfAGrammar) {
  EXPECT_THAT(complaint("root ::= a{32768}\na ::= (\"x\"{32768} \"z\"{32768}){2} b\n"
                        "b ::= \"y\"{32768} \"y\"{32768} \"y\"{32768} \"y\"{32768} \"y\"{32768}"
                        "\"y\"{32768} \"y\"{32768} \"y\"{32768}"),
              HasSubstr("the grammar is too large: it has more than 262144 elements"));
  EXPECT_THAT(complaint(std::string(kMaxGrammarText + 1, ' ')), HasSubstr("at most 1048576"));
}

}  // namespace
}  // namespace tenfold
