#pragma once
// Whether a text follows a grammar, byte after byte. A matcher is a value: a copy goes on alone.
// One thread at a time, also for the const functions, which remember the steps they took.

#include <memory>
#include <string_view>

#include "runtime/grammar/automaton.h"

namespace tenfold {

// The functions throw bad_request where the grammar is beyond the limits of automaton.h. A text
// takes O(bytes) where its steps were taken before.
class GrammarMatcher {
 public:
  explicit GrammarMatcher(std::shared_ptr<const Grammar> grammar);

  // Whether some text of the grammar goes on with these bytes.
  bool accepts(std::string_view bytes) const;
  // Throws bad_request where it does not; the matcher then stays where it was.
  void advance(std::string_view bytes);
  bool at_end() const noexcept { return automaton_.accepting(state_); }  // the text is complete
  bool can_continue() const noexcept { return automaton_.can_continue(state_); }

 private:
  LazyAutomaton::State walk(std::string_view bytes) const;

  mutable LazyAutomaton automaton_;
  mutable LazyAutomaton::State state_ = LazyAutomaton::kStart;
};

}  // namespace tenfold
