#include "runtime/grammar/token_constraint.h"

#include <algorithm>
#include <array>
#include <limits>

#include "kernels/error.h"

namespace tenfold {
namespace {

constexpr std::size_t kMaxMasks = 32;

}  // namespace

TokenConstraint::TokenConstraint(std::shared_ptr<const Grammar> grammar,
                                 std::shared_ptr<const VocabularyPieces> vocabulary)
    : vocabulary_(std::move(vocabulary)), automaton_(std::move(grammar)) {}

std::string_view TokenConstraint::shown(TokenId token) const noexcept {
  std::string_view text = vocabulary_->piece(token);
  if (first_ && vocabulary_->drops_first_space() && text.starts_with(' ')) text.remove_prefix(1);
  return text;
}

LazyAutomaton::State TokenConstraint::walk(std::string_view bytes) const {
  automaton_.begin_work();
  State state = state_;
  for (const char byte : bytes) {
    state = automaton_.step(state, static_cast<std::uint8_t>(byte));
    if (state == LazyAutomaton::kDead) break;
    if (!automaton_.crowded()) continue;
    std::array<State, 2> keep = {state_, state};
    automaton_.compact(keep);
    state_ = keep[0];
    state = keep[1];
  }
  return state;
}

bool TokenConstraint::allows(TokenId token) const {
  if (ended_) return false;
  if (vocabulary_->ends_generation(token)) return automaton_.accepting(state_);
  if (vocabulary_->piece(token).empty()) return false;
  const std::string_view text = shown(token);
  return text.empty() ? automaton_.can_continue(state_) : walk(text) != LazyAutomaton::kDead;
}

void TokenConstraint::accept(TokenId token) {
  if (!allows(token)) {
    throw_error(ErrorCode::bad_request, "the grammar does not allow token {} here", token);
  }
  if (vocabulary_->ends_generation(token)) {
    ended_ = true;
    return;
  }
  state_ = walk(shown(token));
  first_ = false;
}

void TokenConstraint::allow(std::span<const TokenId> tokens, Mask& mask) {
  for (const TokenId token : tokens) {
    if (token < 0 || static_cast<std::size_t>(token) >= mask.allowed.size()) continue;
    mask.allowed[static_cast<std::size_t>(token)] = true;
    mask.any = true;
  }
}

// Marks the tokens of the nodes from `begin` to `end`, a run of whole subtrees whose first node is
// a child of the tree's root or of the node for a space that is not shown.
void TokenConstraint::walk_tree(std::size_t begin, std::size_t end, Mask& mask) const {
  const auto nodes = vocabulary_->nodes();
  const std::size_t base = begin < end ? nodes[begin].depth - 1 : 0;
  path_.assign(1, state_);
  for (std::size_t i = begin; i < end;) {
    const VocabularyPieces::Node& node = nodes[i];
    path_.resize(node.depth - base);  // the states of what is before the node's byte
    const State state = automaton_.step(path_.back(), node.byte);
    if (state == LazyAutomaton::kDead) {
      i = node.end;
      continue;
    }
    path_.push_back(state);
    allow(vocabulary_->tokens_of(i), mask);
    if (automaton_.crowded()) {
      automaton_.compact(path_);
      state_ = path_[0];
    }
    ++i;
  }
}

const TokenConstraint::Mask& TokenConstraint::current_mask() const {
  if (masks_of_ != automaton_.n_compacted()) masks_.clear();
  masks_of_ = automaton_.n_compacted();
  const auto known = std::find_if(masks_.begin(), masks_.end(), [this](const Mask& mask) {
    return mask.state == state_ && mask.first == first_;
  });
  if (known != masks_.end()) return *known;
  automaton_.begin_work();
  Mask mask{state_, first_, std::vector<bool>(vocabulary_->size()), false};
  const auto nodes = vocabulary_->nodes();
  if (first_ && vocabulary_->drops_first_space()) {
    std::size_t space = 1;
    while (space < nodes.size() && nodes[space].byte != ' ') space = nodes[space].end;
    const std::size_t after = space < nodes.size() ? nodes[space].end : space;
    walk_tree(1, space, mask);
    if (space < after) {
      if (automaton_.can_continue(state_)) allow(vocabulary_->tokens_of(space), mask);
      walk_tree(space + 1, after, mask);
    }
    walk_tree(after, nodes.size(), mask);
  } else {
    walk_tree(1, nodes.size(), mask);
  }
  if (automaton_.accepting(state_)) allow(vocabulary_->end_of_generation(), mask);
  if (masks_of_ != automaton_.n_compacted()) masks_.clear();
  masks_of_ = automaton_.n_compacted();
  mask.state = state_;
  if (masks_.size() == kMaxMasks) masks_.pop_front();
  masks_.push_back(std::move(mask));
  return masks_.back();
}

void TokenConstraint::mask(std::span<float> logits) const {
  constexpr float kNever = -std::numeric_limits<float>::infinity();
  if (ended_) {
    throw_error(ErrorCode::bad_request, "the text of the grammar has ended, no token may follow");
  }
  const Mask& mask = current_mask();
  if (!mask.any) {
    throw_error(ErrorCode::bad_request,
                "the grammar allows no token of the model's vocabulary here");
  }
  for (std::size_t id = 0; id < logits.size(); ++id) {
    if (id >= mask.allowed.size() || !mask.allowed[id]) logits[id] = kNever;
  }
}

}  // namespace tenfold
