#pragma once
// A grammar applied to the tokens of one generation: which may come next so that the text, as
// StreamDecoder shows it, can still become one of the grammar's. A token that ends the generation
// is allowed where the text is complete, a control token or one without text never. (SentencePiece:
// the first token may be the space that is not shown.)
//
// A value; a copy goes on alone. One thread at a time, also for the const functions, which remember
// what they found out. Beside what it says here, each function throws bad_request where the grammar
// is beyond the limits of automaton.h.

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "runtime/grammar/automaton.h"
#include "runtime/grammar/vocabulary_pieces.h"

namespace tenfold {

class TokenConstraint {
 public:
  // Neither may be null.
  TokenConstraint(std::shared_ptr<const Grammar> grammar,
                  std::shared_ptr<const VocabularyPieces> vocabulary);

  // O(bytes of the token). False for ids outside the vocabulary.
  bool allows(TokenId token) const;
  // Sets the logits of all other tokens to -infinity, also of ids beyond the vocabulary. Throws
  // bad_request where that leaves none. O(prefix tree), or O(logits) where the grammar's state is
  // one of the last few.
  void mask(std::span<float> logits) const;
  // The token was drawn. Throws bad_request where it is not allowed; the state then stays.
  void accept(TokenId token);

  bool at_end() const noexcept { return ended_ || automaton_.accepting(state_); }
  // Nothing may follow: the text is complete and cannot go on, or an end was accepted.
  bool finished() const noexcept { return ended_ || !automaton_.can_continue(state_); }

 private:
  using State = LazyAutomaton::State;
  struct Mask {
    State state;
    bool first;
    std::vector<bool> allowed;  // by id
    bool any;
  };

  std::string_view shown(TokenId token) const noexcept;
  State walk(std::string_view bytes) const;
  const Mask& current_mask() const;
  static void allow(std::span<const TokenId> tokens, Mask& mask);
  void walk_tree(std::size_t begin, std::size_t end, Mask& mask) const;

  std::shared_ptr<const VocabularyPieces> vocabulary_;
  mutable LazyAutomaton automaton_;
  mutable State state_ = LazyAutomaton::kStart;
  bool first_ = true;  // nothing shown yet
  bool ended_ = false;
  mutable std::deque<Mask> masks_;      // the oldest first
  mutable std::uint64_t masks_of_ = 0;  // compactions before them
  mutable std::vector<State> path_;
};

}  // namespace tenfold
