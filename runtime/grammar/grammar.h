#pragma once
// A context-free grammar over bytes, compiled: what a text may be. Characters are compiled into
// their UTF-8 bytes, so a text may be cut anywhere, also inside a character.
// A Grammar never changes and may be used from several threads. A GrammarBuilder makes it: write
// expressions, give them names as rules, build. Every function throws bad_request beyond a limit.

#include <array>
#include <bitset>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "runtime/grammar/code_points.h"

namespace tenfold {

inline constexpr std::uint32_t kMaxRepetitions = 1u << 15;  // of {m,n}
inline constexpr std::size_t kMaxGrammarRules = 1u << 15;
inline constexpr std::size_t kMaxGrammarNodes = 1u << 18;
inline constexpr std::uint32_t kMaxExpressionDepth = 500;

// A network of nodes. A rule's text is read along a path from its start to node 0, the end.
struct Grammar {
  enum class Op : std::uint8_t {
    end,
    bytes,  // one byte of the set `target`
    split,  // go on at `target` or at `next`
    call,   // the text of rule `target`; where `next` is the end it replaces the caller
  };
  struct Node {
    Op op;
    std::uint32_t target, next;
  };
  struct Rule {
    std::string name;  // for messages; empty: made by the builder
    std::uint32_t start;
    bool nullable;       // may be empty text
    std::uint32_t rank;  // a rule that begins with a call of another has the lower rank
  };

  std::vector<Node> nodes;
  std::vector<Rule> rules;
  std::uint32_t root = 0;

  // Bytes that no set tells apart share a class; sets hold classes.
  std::array<std::uint8_t, 256> byte_class = {};
  std::uint32_t n_classes = 0;
  std::vector<std::bitset<256>> sets;
};

class GrammarBuilder {
 public:
  // Valid for the builder that made them.
  struct Expr {
    std::uint32_t id;
  };
  struct Rule {
    std::uint32_t id;
  };

  Expr literal(std::string_view bytes);                // may be empty
  Expr character(const CodePointSet& set);             // one character; an empty set is refused
  Expr sequence(const std::vector<Expr>& parts);       // none: empty text
  Expr choice(const std::vector<Expr>& alternatives);  // at least one
  // nullopt: any number. `least` above `most` is refused.
  Expr repeat(Expr expr, std::uint32_t least, std::optional<std::uint32_t> most);
  Expr optional(Expr expr) { return repeat(expr, 0, 1); }

  Rule declare(std::string name);  // `name`: what messages call it; need not be unique
  void define(Rule rule, Expr body);
  bool is_defined(Rule rule) const { return rules_[rule.id].defined; }
  Expr call(Rule rule);
  Expr named(std::string name, Expr body);  // declares, defines, calls

  // O(size). Throws where a rule that was declared is not defined, where one begins with itself
  // (left recursion) or can never end, naming it.
  std::shared_ptr<const Grammar> build(Rule root) const;

 private:
  friend class GrammarEmitter;
  enum class Kind : std::uint8_t { literal, byte_set, sequence, choice, repeat, call };
  struct ExprNode {
    Kind kind;
    std::uint32_t depth;
    std::uint32_t a, b, c;  // see grammar.cpp
  };
  struct RuleBody {
    std::string name;
    bool defined;
    Expr body;
  };

  Expr add(Kind kind, std::uint32_t depth, std::uint32_t a, std::uint32_t b = 0,
           std::uint32_t c = 0);
  Expr add_list(Kind kind, const std::vector<Expr>& parts);
  Expr byte_set(const std::bitset<256>& set);

  std::vector<ExprNode> exprs_;
  std::string text_;
  std::vector<Expr> children_;
  std::vector<RuleBody> rules_;
  std::vector<std::bitset<256>> sets_;
  std::unordered_map<std::bitset<256>, std::uint32_t> set_ids_;
  std::map<CodePointSet, Expr> characters_;
};

}  // namespace tenfold
