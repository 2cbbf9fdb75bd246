#include "runtime/grammar/grammar.h"

#include <algorithm>
#include <limits>

#include "kernels/error.h"
#include "runtime/files/quote.h"
#include "runtime/grammar/analysis.h"

namespace tenfold {
namespace {

constexpr std::uint32_t kEndNode = 0;
constexpr std::uint32_t kUnlimited = std::numeric_limits<std::uint32_t>::max();
constexpr std::size_t kMaxByteSets = 1u << 12;
constexpr std::size_t kMaxExprs = 1u << 21;

[[noreturn]] void too_large(std::string_view what, std::size_t most) {
  throw_error(ErrorCode::bad_request, "the grammar is too large: it has more than {} {}", most,
              what);
}

// Splits the classes of bytes until each set is a union of classes.
void classify_bytes(const std::vector<std::bitset<256>>& byte_sets, Grammar& grammar) {
  grammar.byte_class.fill(0);
  grammar.n_classes = 1;
  for (const std::bitset<256>& set : byte_sets) {
    std::array<int, 256> inside;  // the class of those members of a class that are in the set
    inside.fill(-1);
    std::array<std::uint32_t, 256> n_members = {}, n_inside = {};
    for (std::size_t byte = 0; byte < 256; ++byte) {
      ++n_members[grammar.byte_class[byte]];
      if (set[byte]) ++n_inside[grammar.byte_class[byte]];
    }
    for (std::size_t byte = 0; byte < 256; ++byte) {
      const std::uint8_t old = grammar.byte_class[byte];
      if (!set[byte] || n_inside[old] == n_members[old]) continue;
      if (inside[old] < 0) inside[old] = static_cast<int>(grammar.n_classes++);
      grammar.byte_class[byte] = static_cast<std::uint8_t>(inside[old]);
    }
  }
  grammar.sets.assign(byte_sets.size(), {});
  for (std::size_t s = 0; s < byte_sets.size(); ++s) {
    for (std::size_t byte = 0; byte < 256; ++byte) {
      if (byte_sets[s][byte]) grammar.sets[s].set(grammar.byte_class[byte]);
    }
  }
}

}  // namespace

// Writes expressions as nodes, each with the node that follows it: from back to front.
class GrammarEmitter {
 public:
  explicit GrammarEmitter(const GrammarBuilder& builder) : builder_(builder) {
    grammar_.nodes.push_back({Grammar::Op::end, 0, 0});
    for (const auto& rule : builder.rules_) {
      if (!rule.defined) {
        throw_error(ErrorCode::bad_request, "the grammar uses a rule {} that it does not define",
                    quote(rule.name));
      }
      grammar_.rules.push_back({rule.name, 0, false, 0});
      bodies_.push_back(rule.body);
    }
  }

  Grammar emit_all() {
    for (std::size_t i = 0; i < bodies_.size(); ++i) {  // repetitions add rules on the way
      const std::uint32_t start = emit(bodies_[i], kEndNode);
      grammar_.rules[i].start = start;
    }
    return std::move(grammar_);
  }

 private:
  using Expr = GrammarBuilder::Expr;
  using Kind = GrammarBuilder::Kind;

  std::uint32_t add(Grammar::Op op, std::uint32_t target, std::uint32_t next) {
    if (grammar_.nodes.size() >= kMaxGrammarNodes) too_large("elements", kMaxGrammarNodes);
    grammar_.nodes.push_back({op, target, next});
    return static_cast<std::uint32_t>(grammar_.nodes.size() - 1);
  }

  std::uint32_t emit(Expr expr, std::uint32_t next) {
    const auto& e = builder_.exprs_[expr.id];
    switch (e.kind) {
      case Kind::byte_set:
        return add(Grammar::Op::bytes, e.a, next);
      case Kind::call:
        return add(Grammar::Op::call, e.a, next);
      case Kind::literal:  // a: where its sets begin among the children, b: how many
      case Kind::sequence:
        for (std::uint32_t i = e.b; i-- > 0;) next = emit(builder_.children_[e.a + i], next);
        return next;
      case Kind::choice: {
        std::uint32_t entry = emit(builder_.children_[e.a + e.b - 1], next);
        for (std::uint32_t i = e.b - 1; i-- > 0;) {
          entry = add(Grammar::Op::split, emit(builder_.children_[e.a + i], next), entry);
        }
        return entry;
      }
      case Kind::repeat:
        return emit_repeat(e.b, e.c, {e.a}, next);
    }
    return next;
  }

  // x{2,4} as x x (x (x)?)?: each option ends the whole, so only one place is alive at a time.
  std::uint32_t emit_repeat(std::uint32_t least, std::uint32_t most, Expr expr,
                            std::uint32_t next) {
    const bool copied = least > 1 || (most != kUnlimited && most > 1);
    const Expr body = copied ? single(expr) : expr;
    std::uint32_t entry = next;
    if (most == kUnlimited) {
      entry = add(Grammar::Op::split, 0, next);
      const std::uint32_t first = copied ? emit_single(body, entry) : emit(body, entry);
      grammar_.nodes[entry].target = first;
    } else {
      for (std::uint32_t i = least; i < most; ++i) {
        const std::uint32_t first = copied ? emit_single(body, entry) : emit(body, entry);
        entry = add(Grammar::Op::split, first, next);
      }
    }
    for (std::uint32_t i = 0; i < least; ++i) {
      entry = copied ? emit_single(body, entry) : emit(body, entry);
    }
    return entry;
  }

  // An expression of one node, or (id beyond the expressions) the rule that was made of it.
  Expr single(Expr expr) {
    const Kind kind = builder_.exprs_[expr.id].kind;
    if (kind == Kind::byte_set || kind == Kind::call) return expr;
    const auto [entry, is_new] =
        made_rules_.try_emplace(expr.id, static_cast<std::uint32_t>(bodies_.size()));
    if (is_new) {
      if (bodies_.size() >= 2 * kMaxGrammarRules) too_large("rules", kMaxGrammarRules);
      grammar_.rules.push_back({"", 0, false, 0});
      bodies_.push_back(expr);
    }
    return {static_cast<std::uint32_t>(builder_.exprs_.size()) + entry->second};
  }

  std::uint32_t emit_single(Expr expr, std::uint32_t next) {
    const auto n_exprs = static_cast<std::uint32_t>(builder_.exprs_.size());
    if (expr.id < n_exprs) return emit(expr, next);
    return add(Grammar::Op::call, expr.id - n_exprs, next);
  }

  const GrammarBuilder& builder_;
  Grammar grammar_;
  std::vector<Expr> bodies_;
  std::unordered_map<std::uint32_t, std::uint32_t> made_rules_;  // of expressions
};

GrammarBuilder::Expr GrammarBuilder::add(Kind kind, std::uint32_t depth, std::uint32_t a,
                                         std::uint32_t b, std::uint32_t c) {
  if (depth > kMaxExpressionDepth) {
    throw_error(ErrorCode::bad_request, "the grammar is nested deeper than {} levels",
                kMaxExpressionDepth);
  }
  if (exprs_.size() >= kMaxExprs) too_large("expressions", kMaxExprs);
  exprs_.push_back({kind, depth, a, b, c});
  return {static_cast<std::uint32_t>(exprs_.size() - 1)};
}

GrammarBuilder::Expr GrammarBuilder::byte_set(const std::bitset<256>& set) {
  const auto [entry, is_new] = set_ids_.try_emplace(set, static_cast<std::uint32_t>(exprs_.size()));
  if (!is_new) return {entry->second};
  if (sets_.size() >= kMaxByteSets) too_large("kinds of bytes", kMaxByteSets);
  sets_.push_back(set);
  return add(Kind::byte_set, 1, static_cast<std::uint32_t>(sets_.size() - 1));
}

GrammarBuilder::Expr GrammarBuilder::add_list(Kind kind, const std::vector<Expr>& parts) {
  if (parts.size() == 1) return parts[0];
  if (children_.size() + parts.size() > kMaxExprs) too_large("expressions", kMaxExprs);
  std::uint32_t depth = 0;
  for (const Expr part : parts) depth = std::max(depth, exprs_[part.id].depth);
  const auto begin = static_cast<std::uint32_t>(children_.size());
  children_.insert(children_.end(), parts.begin(), parts.end());
  return add(kind, depth + 1, begin, static_cast<std::uint32_t>(parts.size()));
}

GrammarBuilder::Expr GrammarBuilder::literal(std::string_view bytes) {
  std::vector<Expr> parts;
  parts.reserve(bytes.size());
  for (const char byte : bytes) {
    std::bitset<256> set;
    set.set(static_cast<unsigned char>(byte));
    parts.push_back(byte_set(set));
  }
  return add_list(Kind::literal, parts);
}

// Lead bytes with the same continuation share one branch: all characters are 8 branches.
GrammarBuilder::Expr GrammarBuilder::character(const CodePointSet& set) {
  if (set.empty()) throw_error(ErrorCode::bad_request, "a character class allows no character");
  const auto known = characters_.find(set);
  if (known != characters_.end()) return known->second;
  std::map<std::vector<ByteRange>, std::bitset<256>> leads;
  for (const CodePointSet::Range& range : set.ranges()) {
    for (const Utf8Sequence& sequence : utf8_sequences(range)) {
      const auto begin = sequence.bytes.begin();
      auto& lead = leads[{begin + 1, begin + static_cast<std::ptrdiff_t>(sequence.length)}];
      for (unsigned byte = begin->first; byte <= begin->last; ++byte) lead.set(byte);
    }
  }
  std::vector<Expr> alternatives;
  for (const auto& [continuation, lead] : leads) {
    std::vector<Expr> bytes = {byte_set(lead)};
    for (const ByteRange& range : continuation) {
      std::bitset<256> next;
      for (unsigned byte = range.first; byte <= range.last; ++byte) next.set(byte);
      bytes.push_back(byte_set(next));
    }
    alternatives.push_back(sequence(bytes));
  }
  const Expr expr = choice(alternatives);
  characters_.emplace(set, expr);
  return expr;
}

GrammarBuilder::Expr GrammarBuilder::sequence(const std::vector<Expr>& parts) {
  return add_list(Kind::sequence, parts);
}

GrammarBuilder::Expr GrammarBuilder::choice(const std::vector<Expr>& alternatives) {
  if (alternatives.empty()) throw_error(ErrorCode::bad_request, "a choice has no alternatives");
  return add_list(Kind::choice, alternatives);
}

GrammarBuilder::Expr GrammarBuilder::repeat(Expr expr, std::uint32_t least,
                                            std::optional<std::uint32_t> most) {
  if (least > kMaxRepetitions || (most && *most > kMaxRepetitions)) {
    throw_error(ErrorCode::bad_request, "a repetition is of more than {} times", kMaxRepetitions);
  }
  if (most && least > *most) {
    throw_error(ErrorCode::bad_request, "a repetition is of at least {} but at most {} times",
                least, *most);
  }
  return add(Kind::repeat, exprs_[expr.id].depth + 1, expr.id, least, most.value_or(kUnlimited));
}

GrammarBuilder::Rule GrammarBuilder::declare(std::string name) {
  if (rules_.size() >= kMaxGrammarRules) too_large("rules", kMaxGrammarRules);
  rules_.push_back({std::move(name), false, {0}});
  return {static_cast<std::uint32_t>(rules_.size() - 1)};
}

void GrammarBuilder::define(Rule rule, Expr body) {
  rules_[rule.id].defined = true;
  rules_[rule.id].body = body;
}

GrammarBuilder::Expr GrammarBuilder::call(Rule rule) { return add(Kind::call, 1, rule.id); }

GrammarBuilder::Expr GrammarBuilder::named(std::string name, Expr body) {
  const Rule rule = declare(std::move(name));
  define(rule, body);
  return call(rule);
}

std::shared_ptr<const Grammar> GrammarBuilder::build(Rule root) const {
  auto grammar = std::make_shared<Grammar>(GrammarEmitter(*this).emit_all());
  grammar->root = root.id;
  classify_bytes(sets_, *grammar);
  analyse(*grammar);
  return grammar;
}

}  // namespace tenfold
