#include "runtime/grammar/automaton.h"

#include <algorithm>
#include <utility>

#include "kernels/error.h"

namespace tenfold {
namespace {

constexpr std::uint64_t kWhole = ~std::uint64_t{0};  // the return of the whole text
constexpr std::uint32_t kFresh = 1u << 31;           // marks an index of fresh stacks
constexpr std::size_t kMaxPlaces = 1u << 15;
constexpr std::size_t kMaxWork = 1u << 24;
constexpr std::size_t kRoomyBytes = 8u << 20, kMaxBytes = 32u << 20;

std::uint64_t pack(std::uint32_t node, std::uint32_t stack) {
  return std::uint64_t{node} << 32 | stack;
}
std::uint32_t node_of(std::uint64_t place) { return static_cast<std::uint32_t>(place >> 32); }
std::uint32_t stack_of(std::uint64_t place) { return static_cast<std::uint32_t>(place); }

void sort_unique(std::vector<std::uint64_t>& list) {
  std::sort(list.begin(), list.end());
  list.erase(std::unique(list.begin(), list.end()), list.end());
}

}  // namespace

LazyAutomaton::LazyAutomaton(std::shared_ptr<const Grammar> grammar)
    : grammar_(std::move(grammar)),
      n_classes_(grammar_->n_classes),
      limit_(kRoomyBytes),
      fresh_of_rule_(grammar_->rules.size(), 0) {
  stacks_.add({&kWhole, 1});
  open_.clear();
  push(grammar_->rules[grammar_->root].start, 0);
  close();
}

std::size_t LazyAutomaton::bytes() const noexcept {
  return stacks_.bytes() + states_.bytes() + next_.size() * sizeof(State);
}

LazyAutomaton::State LazyAutomaton::first_step(State state, std::uint8_t byte_class) {
  open_.clear();
  for (const std::uint64_t place : states_[state].subspan(1)) {
    const Grammar::Node& node = grammar_->nodes[node_of(place)];
    if (grammar_->sets[node.target][byte_class]) push(node.next, stack_of(place));
  }
  work_ += states_[state].size();
  const State next = close();
  next_[state * n_classes_ + byte_class] = next;
  return next;
}

void LazyAutomaton::push(std::uint32_t node, std::uint32_t stack) {
  open_.push_back(pack(node, stack));
}

// The state of all places that open_ leads to without a byte.
LazyAutomaton::State LazyAutomaton::close() {
  seen_.clear();
  places_.clear();
  accepting_ = false;
  n_fresh_ = 0;
  std::size_t n_seen = 0;
  while (!open_.empty()) {
    const std::uint64_t place = open_.back();
    open_.pop_back();
    if (!seen_.insert(place)) continue;
    if (++n_seen > kMaxPlaces) {
      for (std::size_t i = 0; i < n_fresh_; ++i) fresh_of_rule_[fresh_[i].rule] = 0;
      throw_error(ErrorCode::bad_request,
                  "the grammar is too ambiguous: the text can be at more than {} of its places",
                  kMaxPlaces);
    }
    expand(node_of(place), stack_of(place));
  }
  work_ += n_seen;
  finish_stacks();
  if (work_ > kMaxWork) {
    throw_error(ErrorCode::bad_request,
                "the grammar is too ambiguous: one token takes more than {} steps in it", kMaxWork);
  }
  for (std::uint64_t& place : places_) {
    place = pack(node_of(place), finished(stack_of(place)));
  }
  sort_unique(places_);
  if (places_.empty() && !accepting_) return kDead;
  places_.insert(places_.begin(), accepting_ ? 1 : 0);
  return add_state(places_);
}

void LazyAutomaton::expand(std::uint32_t at, std::uint32_t stack) {
  const Grammar::Node& node = grammar_->nodes[at];
  switch (node.op) {
    case Grammar::Op::bytes:
      places_.push_back(pack(at, stack));
      break;
    case Grammar::Op::split:
      push(node.next, stack);
      push(node.target, stack);
      break;
    case Grammar::Op::call:
      call(node, stack);
      break;
    case Grammar::Op::end:
      // A rule that ends where it was called is nullable; its callers went on at once.
      if ((stack & kFresh) != 0) break;
      work_ += stacks_[stack].size();
      for (const std::uint64_t ret : stacks_[stack]) {
        if (ret == kWhole) {
          accepting_ = true;
        } else {
          push(node_of(ret), stack_of(ret));
        }
      }
      break;
  }
}

void LazyAutomaton::call(const Grammar::Node& node, std::uint32_t stack) {
  const Grammar::Rule& rule = grammar_->rules[node.target];
  if (rule.nullable) push(node.next, stack);
  std::uint32_t& known = fresh_of_rule_[node.target];
  if (known == 0) {
    if (n_fresh_ == fresh_.size()) fresh_.emplace_back();
    FreshStack& made = fresh_[n_fresh_++];
    made.rule = node.target;
    made.returns.clear();
    made.shared.clear();
    known = static_cast<std::uint32_t>(n_fresh_);
    push(rule.start, kFresh | (known - 1));
  }
  FreshStack& fresh = fresh_[known - 1];
  if (grammar_->nodes[node.next].op == Grammar::Op::end) {
    fresh.shared.push_back(stack);  // a tail call: nothing to come back for
  } else {
    fresh.returns.push_back(pack(node.next, stack));
  }
}

// Gives the fresh stacks their ids, callers first: by rank, since no rule begins with itself.
void LazyAutomaton::finish_stacks() {
  std::vector<std::uint32_t> order(n_fresh_);
  for (std::uint32_t i = 0; i < n_fresh_; ++i) order[i] = i;
  std::sort(order.begin(), order.end(), [this](std::uint32_t a, std::uint32_t b) {
    return grammar_->rules[fresh_[a].rule].rank < grammar_->rules[fresh_[b].rule].rank;
  });
  for (const std::uint32_t index : order) {
    FreshStack& fresh = fresh_[index];
    fresh_of_rule_[fresh.rule] = 0;
    if (work_ > kMaxWork) continue;  // close() will throw
    for (std::uint64_t& ret : fresh.returns) {
      ret = pack(node_of(ret), finished(stack_of(ret)));
    }
    for (const std::uint32_t stack : fresh.shared) {
      const auto returns = stacks_[finished(stack)];
      fresh.returns.insert(fresh.returns.end(), returns.begin(), returns.end());
    }
    sort_unique(fresh.returns);
    work_ += fresh.returns.size();
    fresh.id = stacks_.add(fresh.returns);
  }
}

std::uint32_t LazyAutomaton::finished(std::uint32_t stack) const noexcept {
  return (stack & kFresh) != 0 ? fresh_[stack & ~kFresh].id : stack;
}

LazyAutomaton::State LazyAutomaton::add_state(std::span<const std::uint64_t> places) {
  const State state = states_.add(places);
  if (state * n_classes_ == next_.size()) next_.resize(next_.size() + n_classes_, kUnknown);
  return state;
}

// Copies the stacks that `keep` needs into stacks_; returns their new ids. A stack refers to older
// ones only, so one pass back marks and one forward copies.
std::vector<std::uint32_t> LazyAutomaton::keep_stacks(std::span<const State> keep,
                                                      const WordLists& old_stacks,
                                                      const WordLists& old_states) {
  std::vector<bool> needed(old_stacks.size());
  needed[0] = true;
  for (const State state : keep) {
    for (const std::uint64_t place : old_states[state].subspan(1)) needed[stack_of(place)] = true;
  }
  for (std::uint32_t id = old_stacks.size(); id-- > 1;) {
    if (!needed[id]) continue;
    for (const std::uint64_t ret : old_stacks[id]) {
      if (ret != kWhole) needed[stack_of(ret)] = true;
    }
  }
  std::vector<std::uint32_t> new_ids(old_stacks.size());
  std::vector<std::uint64_t> returns;
  for (std::uint32_t id = 0; id < old_stacks.size(); ++id) {
    if (!needed[id]) continue;
    returns.assign(old_stacks[id].begin(), old_stacks[id].end());
    for (std::uint64_t& ret : returns) {
      if (ret != kWhole) ret = pack(node_of(ret), new_ids[stack_of(ret)]);
    }
    new_ids[id] = stacks_.add(returns);
  }
  return new_ids;
}

void LazyAutomaton::compact(std::span<State> keep) {
  const WordLists old_stacks = std::exchange(stacks_, {}), old_states = std::exchange(states_, {});
  next_.clear();
  ++n_compacted_;
  const std::vector<std::uint32_t> new_ids = keep_stacks(keep, old_stacks, old_states);
  std::vector<std::uint64_t> places;
  for (State& state : keep) {
    places.assign(old_states[state].begin(), old_states[state].end());
    for (std::size_t i = 1; i < places.size(); ++i) {
      places[i] = pack(node_of(places[i]), new_ids[stack_of(places[i])]);
    }
    state = add_state(places);
  }
  if (bytes() > kMaxBytes) {
    throw_error(ErrorCode::bad_request,
                "the text is nested so deeply in the grammar that its state takes more than {} MiB",
                kMaxBytes >> 20);
  }
  limit_ = std::max(kRoomyBytes, 2 * bytes());
}

}  // namespace tenfold
