#include "runtime/grammar/matcher.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <random>
#include <set>

#include "runtime/grammar/gbnf.h"
#include "tests/support/expect_error.h"

namespace tenfold {
namespace {

using testing::expect_error;
using ::testing::HasSubstr;

// A grammar as a tree, and its language by the definition: where a text may end that begins at i.
struct Tree {
  enum class Kind { literal, sequence, choice, repeat, rule } kind;
  std::string text;
  std::vector<Tree> children;
  int least = 0, most = 0, rule = 0;
};

Tree random_tree(std::mt19937& rng, int depth) {
  const auto pick = static_cast<unsigned>(rng() % (depth > 0 ? 10 : 4));
  if (pick < 3) return {Tree::Kind::literal, pick == 0 ? "a" : pick == 1 ? "b" : "ab", {}};
  if (pick == 3) return {Tree::Kind::rule, "", {}, 0, 0, static_cast<int>(rng() % 3)};
  Tree tree{Tree::Kind::sequence, "", {}};
  const auto n = static_cast<unsigned>(1 + rng() % 3);
  for (unsigned i = 0; i < n; ++i) tree.children.push_back(random_tree(rng, depth - 1));
  if (pick == 6 || pick == 7) tree.kind = Tree::Kind::choice;
  if (pick < 8) return tree;
  const int least = static_cast<int>(rng() % 3);
  return {
      Tree::Kind::repeat, "", {tree}, least, pick == 8 ? -1 : least + static_cast<int>(rng() % 3)};
}

std::string gbnf(const Tree& tree) {
  switch (tree.kind) {
    case Tree::Kind::literal:
      return '"' + tree.text + '"';
    case Tree::Kind::rule:
      return tree.rule == 0 ? "root" : "r" + std::to_string(tree.rule);
    case Tree::Kind::repeat:
      return gbnf(tree.children[0]) + "{" + std::to_string(tree.least) + "," +
             (tree.most < 0 ? "" : std::to_string(tree.most)) + "}";
    default:
      break;
  }
  std::string text = "(";
  for (const Tree& child : tree.children) {
    if (text.size() > 1) text += tree.kind == Tree::Kind::choice ? " | " : " ";
    text += gbnf(child);
  }
  return text + ")";
}

using Ends = std::set<std::size_t>;

struct Language {
  const std::vector<Tree>& rules;
  std::string text;
  std::vector<std::vector<Ends>> known;  // [rule][begin], grown until nothing changes

  Ends ends(const Tree& tree, std::size_t begin) const {
    switch (tree.kind) {
      case Tree::Kind::literal:
        return text.compare(begin, tree.text.size(), tree.text) == 0
                   ? Ends{begin + tree.text.size()}
                   : Ends{};
      case Tree::Kind::rule:
        return known[static_cast<std::size_t>(tree.rule)][begin];
      case Tree::Kind::choice: {
        Ends all;
        for (const Tree& child : tree.children) all.merge(ends(child, begin));
        return all;
      }
      case Tree::Kind::sequence: {
        Ends from{begin};
        for (const Tree& child : tree.children) from = after(child, from);
        return from;
      }
      case Tree::Kind::repeat:
        break;
    }
    Ends all, from{begin};
    const int rounds = tree.most < 0 ? tree.least + static_cast<int>(text.size()) + 1 : tree.most;
    for (int i = 0;; ++i) {
      if (i >= tree.least) all.insert(from.begin(), from.end());
      if (i == rounds) return all;
      from = after(tree.children[0], from);
    }
  }
  Ends after(const Tree& tree, const Ends& from) const {
    Ends all;
    for (const std::size_t begin : from) all.merge(ends(tree, begin));
    return all;
  }
  bool holds() {
    known.assign(rules.size(), std::vector<Ends>(text.size() + 1));
    for (bool changed = true; changed;) {
      changed = false;
      for (std::size_t r = 0; r < rules.size(); ++r) {
        for (std::size_t begin = 0; begin <= text.size(); ++begin) {
          Ends now = ends(rules[r], begin);
          changed = changed || now != known[r][begin];
          known[r][begin] = std::move(now);
        }
      }
    }
    return known[0][0].contains(text.size());
  }
};

// Compares all texts of a and b that begin with `text`; returns whether one of them matches.
bool compare(const GrammarMatcher& matcher, const std::vector<Tree>& rules, const std::string& text,
             const std::string& grammar) {
  Language language{rules, text, {}};
  bool any = language.holds();
  EXPECT_EQ(matcher.at_end(), any) << text << "\n" << grammar;
  if (text.size() == 6) return any;
  for (const char* next : {"a", "b"}) {
    if (matcher.accepts(next)) {
      GrammarMatcher longer = matcher;
      longer.advance(next);
      any = compare(longer, rules, text + next, grammar) || any;
    } else {
      Language refused{rules, text + next, {}};
      EXPECT_FALSE(refused.holds()) << text << next << "\n" << grammar;
    }
  }
  return any;
}

TEST(Matcher, AgreesWithTheDefinition) {
  std::mt19937 rng(7);
  int n_compared = 0, n_matching = 0;
  for (int round = 0; round < 1500; ++round) {
    std::vector<Tree> rules;
    std::string grammar;
    for (int r = 0; r < 3; ++r) {
      rules.push_back(random_tree(rng, 3));
      grammar += (r == 0 ? "root" : "r" + std::to_string(r)) + " ::= " + gbnf(rules.back()) + "\n";
    }
    std::shared_ptr<const Grammar> compiled;
    try {
      compiled = parse_gbnf(grammar);
    } catch (const Error&) {
      continue;  // left recursion, or a rule without end
    }
    ++n_compared;
    n_matching += compare(GrammarMatcher(compiled), rules, "", grammar) ? 1 : 0;
    if (HasFailure()) return;
  }
  EXPECT_GT(n_compared, 500);
  EXPECT_GT(n_matching, 400);
}

TEST(Matcher, IsAValue) {
  GrammarMatcher a(parse_gbnf("root ::= \"ab\" | \"ac\""));
  a.advance("a");
  GrammarMatcher b = a;
  b.advance("b");
  EXPECT_TRUE(b.at_end());
  EXPECT_FALSE(b.can_continue());
  EXPECT_FALSE(a.at_end());
  EXPECT_TRUE(a.accepts("c"));
  EXPECT_EQ(expect_error(ErrorCode::bad_request, [&] { a.advance("cx"); }),
            "the grammar does not allow 2 bytes here");
  EXPECT_TRUE(a.accepts("b"));  // stayed where it was
  EXPECT_TRUE(a.accepts(""));
}

// What made the first implementations of grammars hang. Each text must take a blink.
TEST(Matcher, AmbiguityDoesNotMultiply) {
  std::string options = "root ::= ";
  for (int i = 0; i < 400; ++i) options += "\"x\"? ";
  std::string doubling = "root ::= r0 \"!\"\n";
  for (int i = 0; i < 40; ++i) {
    const std::string next = "r" + std::to_string(i + 1);
    doubling += "r" + std::to_string(i) + " ::= " + next + " \"a\" | " + next + " \"b\"\n";
  }
  doubling += "r40 ::= \"x\"\n";
  const std::string xs(300, 'x');
  const std::pair<std::string, std::string> cases[] = {
      {options, xs},
      {"root ::= (\"x\"*)*", xs},
      {"root ::= ((\"x\"? \"x\"?)*)* (\"x\"*)+ (\"\")*", xs},
      {"root ::= (\"x\"{0,300}){0,300}", xs},
      {"root ::= s\ns ::= \"x\" | \"x\" s s | \"x\" s", xs},
      {"root ::= e\ne ::= t (\"+\" t)* | t\nt ::= \"x\" | \"(\" e \")\" | \"(\" root \")\"",
       std::string(100, '(') + "x" + std::string(100, ')')},
      {"root ::= [x] root | \"\"", std::string(20000, 'x')},
      {doubling, "x" + std::string(40, 'a') + "!"},
  };
  for (const auto& [grammar, text] : cases) {
    const auto start = std::chrono::steady_clock::now();
    GrammarMatcher matcher(parse_gbnf(grammar));
    for (const char byte : text) matcher.advance({&byte, 1});
    EXPECT_TRUE(matcher.at_end()) << grammar.substr(0, 60);
    const auto took = std::chrono::steady_clock::now() - start;
    EXPECT_LT(std::chrono::duration<double>(took).count(), 5) << grammar.substr(0, 60);
  }
}

TEST(Matcher, LimitsFailClosed) {
  // So many places at once that no state of them is made.
  std::string grammar = "root ::= ";
  for (int i = 0; i < 5; ++i) grammar += "(\"x\"?){9000} ";
  EXPECT_THAT(expect_error(ErrorCode::bad_request, [&] { GrammarMatcher m(parse_gbnf(grammar)); }),
              HasSubstr("too ambiguous"));
  // Nesting takes memory for each level.
  GrammarMatcher nested(parse_gbnf("root ::= \"(\" root \")\" | \"x\""));
  const std::string open(1 << 16, '(');
  EXPECT_THAT(expect_error(ErrorCode::bad_request,
                           [&] {
                             for (int i = 0; i < 1000; ++i) nested.advance(open);
                           }),
              HasSubstr("nested so deeply"));
}

TEST(Matcher, ForgettingStatesChangesNothing) {
  // 20,000 states with a table of 129 entries each are more than is kept.
  std::string grammar = "root ::= (n{20000} \"|\")*\nn ::= ";
  for (int i = 0; i < 128; ++i) {
    char line[32];
    std::snprintf(line, sizeof line, "%s\"\\x%02X\"", i == 0 ? "" : " | ", i);
    grammar += line;
  }
  GrammarMatcher matcher(parse_gbnf(grammar));
  std::string text;
  std::mt19937 rng(3);
  for (int i = 0; i < 20000; ++i) text += static_cast<char>(rng() % 124);
  for (int round = 0; round < 3; ++round) {
    EXPECT_TRUE(matcher.accepts(text + "|"));
    EXPECT_FALSE(matcher.accepts(text + "a"));
    matcher.advance(text.substr(0, 7000));
    EXPECT_FALSE(matcher.at_end());
    const GrammarMatcher copy = matcher;
    matcher.advance(text.substr(7000));
    EXPECT_TRUE(copy.accepts(text.substr(7000) + "|"));
    EXPECT_FALSE(matcher.accepts("a"));
    matcher.advance("|");
    EXPECT_TRUE(matcher.at_end());
  }
}

}  // namespace
}  // namespace tenfold
