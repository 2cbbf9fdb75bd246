#include "runtime/grammar/matcher.h"

#include <array>

#include "kernels/error.h"

namespace tenfold {

GrammarMatcher::GrammarMatcher(std::shared_ptr<const Grammar> grammar)
    : automaton_(std::move(grammar)) {}

LazyAutomaton::State GrammarMatcher::walk(std::string_view bytes) const {
  LazyAutomaton::State state = state_;
  for (const char byte : bytes) {
    automaton_.begin_work();
    state = automaton_.step(state, static_cast<std::uint8_t>(byte));
    if (state == LazyAutomaton::kDead) break;
    if (!automaton_.crowded()) continue;
    std::array<LazyAutomaton::State, 2> keep = {state_, state};
    automaton_.compact(keep);
    state_ = keep[0];
    state = keep[1];
  }
  return state;
}

bool GrammarMatcher::accepts(std::string_view bytes) const {
  return walk(bytes) != LazyAutomaton::kDead;
}

void GrammarMatcher::advance(std::string_view bytes) {
  const LazyAutomaton::State state = walk(bytes);
  if (state == LazyAutomaton::kDead) {
    throw_error(ErrorCode::bad_request, "the grammar does not allow {} byte{} here", bytes.size(),
                bytes.size() == 1 ? "" : "s");
  }
  state_ = state;
}

}  // namespace tenfold
