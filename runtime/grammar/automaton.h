#pragma once
// A grammar as an automaton over bytes whose states are made when they are first needed.
//
// A state is a set of (node, stack): the places in the grammar that the text read so far may have
// led to, and what each returns to. A stack is not a list but the set of all ways to return, so
// that ambiguity costs places, not combinations of them; equal stacks, and so equal states, have
// one id. That makes a step a look-up once it has been taken: a vocabulary is walked in about a
// nanosecond a byte where the grammar repeats itself, as inside a string.
//
// Not for several threads at once: reading fills the tables.

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "runtime/grammar/grammar.h"
#include "runtime/grammar/word_lists.h"

namespace tenfold {

class LazyAutomaton {
 public:
  using State = std::uint32_t;
  static constexpr State kDead = 0xFFFFFFFF;

  // Throws bad_request where the first state alone is beyond the limits.
  explicit LazyAutomaton(std::shared_ptr<const Grammar> grammar);

  // The state of the empty text; valid until compact().
  static constexpr State kStart = 0;

  // O(1) when taken before, else O(places and returns). Throws bad_request where a state has more
  // than 2^15 places, or all steps since begin_work() have seen more than 2^24 of them.
  State step(State state, std::uint8_t byte) {
    const State next = next_[state * n_classes_ + grammar_->byte_class[byte]];
    return next == kUnknown ? first_step(state, grammar_->byte_class[byte]) : next;
  }
  bool accepting(State state) const noexcept { return states_[state][0] != 0; }
  bool can_continue(State state) const noexcept { return states_[state].size() > 1; }

  void begin_work() noexcept { work_ = 0; }

  // The tables only grow; when they are crowded, forget all but these states, whose ids change.
  // Throws bad_request where even those do not fit (32 MiB).
  bool crowded() const noexcept { return bytes() > limit_; }
  void compact(std::span<State> keep);
  std::uint64_t n_compacted() const noexcept { return n_compacted_; }

 private:
  static constexpr State kUnknown = 0xFFFFFFFE;

  // Of a rule called while no byte is read: where its callers go on.
  struct FreshStack {
    std::uint32_t rule;
    std::uint32_t id;  // once all of it is known
    std::vector<std::uint64_t> returns;
    std::vector<std::uint32_t> shared;  // stacks whose returns it has too
  };

  std::size_t bytes() const noexcept;
  State first_step(State state, std::uint8_t byte_class);
  void push(std::uint32_t node, std::uint32_t stack);
  State close();
  void expand(std::uint32_t node, std::uint32_t stack);
  void call(const Grammar::Node& node, std::uint32_t stack);
  void finish_stacks();
  std::uint32_t finished(std::uint32_t stack) const noexcept;
  State add_state(std::span<const std::uint64_t> places);
  std::vector<std::uint32_t> keep_stacks(std::span<const State> keep, const WordLists& old_stacks,
                                         const WordLists& old_states);

  std::shared_ptr<const Grammar> grammar_;
  std::size_t n_classes_;
  WordLists stacks_;         // sorted: node << 32 | stack; of stack 0 only kWhole
  WordLists states_;         // whether the text may end here, then sorted: node << 32 | stack
  std::vector<State> next_;  // [states, byte classes]
  std::size_t limit_;
  std::uint64_t n_compacted_ = 0;
  std::size_t work_ = 0;

  // Of the step being taken.
  std::vector<std::uint64_t> open_, places_;
  WordSet seen_;
  bool accepting_ = false;
  std::vector<FreshStack> fresh_;
  std::size_t n_fresh_ = 0;
  std::vector<std::uint32_t> fresh_of_rule_;  // an index of fresh_ plus 1; 0: none
};

}  // namespace tenfold
