#include "runtime/tokenizer/bpe_merger.h"

#include <algorithm>
#include <limits>

namespace tenfold {
namespace {

std::uint64_t pair_key(TokenId left, TokenId right) noexcept {
  return std::uint64_t{static_cast<std::uint32_t>(left)} << 32 | static_cast<std::uint32_t>(right);
}

// Orders the heap so that its front is the lowest rank, leftmost.
constexpr auto kWorse = [](const auto& a, const auto& b) noexcept {
  return a.rank != b.rank ? a.rank > b.rank : a.left > b.left;
};

}  // namespace

void BpeMerger::add(TokenId left, TokenId right, TokenId merged) {
  rules_.try_emplace(pair_key(left, right),
                     Rule{static_cast<std::uint32_t>(rules_.size()), merged});
}

void BpeMerger::push_candidate(std::int32_t left, Workspace& workspace) const {
  const auto& symbol = workspace.symbols_[static_cast<std::size_t>(left)];
  if (symbol.next < 0) return;
  const TokenId right_id = workspace.symbols_[static_cast<std::size_t>(symbol.next)].id;
  if (symbol.id < 0 || right_id < 0) return;
  const auto rule = rules_.find(pair_key(symbol.id, right_id));
  if (rule == rules_.end()) return;
  workspace.heap_.push_back({rule->second.rank, left, symbol.id, right_id, rule->second.merged});
  std::ranges::push_heap(workspace.heap_, kWorse);
}

void BpeMerger::merge(std::vector<TokenId>& ids, Workspace& workspace) const {
  if (ids.size() > std::numeric_limits<std::int32_t>::max()) return;  // positions are 32-bit
  auto& [symbols, heap] = workspace;
  symbols.clear();
  heap.clear();
  const auto count = static_cast<std::int32_t>(ids.size());
  for (std::int32_t i = 0; i < count; ++i) {
    symbols.push_back({ids[static_cast<std::size_t>(i)], i - 1, i + 1 < count ? i + 1 : -1});
  }
  for (std::int32_t i = 0; i < count; ++i) push_candidate(i, workspace);

  while (!heap.empty()) {
    const auto best = heap.front();
    std::ranges::pop_heap(heap, kWorse);
    heap.pop_back();
    auto& left = symbols[static_cast<std::size_t>(best.left)];
    if (left.id != best.left_id || left.next < 0) continue;  // stale: a side has merged since
    auto& right = symbols[static_cast<std::size_t>(left.next)];
    if (right.id != best.right_id) continue;
    left.id = best.merged;
    right.id = -1;
    left.next = right.next;
    if (left.next >= 0) symbols[static_cast<std::size_t>(left.next)].previous = best.left;
    if (left.previous >= 0) push_candidate(left.previous, workspace);
    push_candidate(best.left, workspace);
  }

  ids.clear();
  for (std::int32_t i = count > 0 ? 0 : -1; i >= 0; i = symbols[static_cast<std::size_t>(i)].next) {
    ids.push_back(symbols[static_cast<std::size_t>(i)].id);
  }
}

}  // namespace tenfold
