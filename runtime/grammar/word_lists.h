#pragma once
// Lists of numbers, each kept once: equal lists have the same id. Ids count up from 0.

#include <algorithm>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

namespace tenfold {

class WordLists {
 public:
  using Id = std::uint32_t;

  std::span<const std::uint64_t> operator[](Id id) const noexcept {
    return {words_.data() + begins_[id], begins_[id + 1] - begins_[id]};
  }
  Id size() const noexcept { return static_cast<Id>(begins_.size() - 1); }
  std::size_t bytes() const noexcept {
    return words_.size() * sizeof(std::uint64_t) + begins_.size() * (sizeof(std::size_t) + 8);
  }

  // O(length) on average. `list` may not point into this object.
  Id add(std::span<const std::uint64_t> list) {
    if (2 * (begins_.size() + 1) > slots_.size()) grow();
    std::size_t slot = hash(list) & (slots_.size() - 1);
    for (; slots_[slot] != kEmpty; slot = (slot + 1) & (slots_.size() - 1)) {
      const auto known = (*this)[slots_[slot]];
      if (known.size() == list.size() && std::equal(known.begin(), known.end(), list.begin())) {
        return slots_[slot];
      }
    }
    const Id id = size();
    words_.insert(words_.end(), list.begin(), list.end());
    begins_.push_back(words_.size());
    slots_[slot] = id;
    return id;
  }

 private:
  static constexpr Id kEmpty = std::numeric_limits<Id>::max();

  static std::uint64_t hash(std::span<const std::uint64_t> list) noexcept {
    std::uint64_t h = list.size();
    for (const std::uint64_t word : list) {
      h = (h ^ word) * 0x9E3779B97F4A7C15u;
      h ^= h >> 29;
    }
    return h;
  }

  void grow() {
    slots_.assign(slots_.empty() ? 64 : 2 * slots_.size(), kEmpty);
    for (Id id = 0; id < size(); ++id) {
      std::size_t slot = hash((*this)[id]) & (slots_.size() - 1);
      while (slots_[slot] != kEmpty) slot = (slot + 1) & (slots_.size() - 1);
      slots_[slot] = id;
    }
  }

  std::vector<std::uint64_t> words_;
  std::vector<std::size_t> begins_ = {0};
  std::vector<Id> slots_;  // open addressing
};

// Numbers seen since the last clear(), which costs nothing.
class WordSet {
 public:
  void clear() noexcept {
    ++round_;
    count_ = 0;
  }
  // Whether it is new. O(1) on average.
  bool insert(std::uint64_t word) {
    if (2 * (count_ + 1) > slots_.size()) grow();
    Slot& slot = find(word);
    if (slot.round == round_) return false;
    slot = {word, round_};
    ++count_;
    return true;
  }

 private:
  struct Slot {
    std::uint64_t word = 0, round = 0;
  };

  Slot& find(std::uint64_t word) noexcept {
    std::uint64_t at = word * 0x9E3779B97F4A7C15u;
    at ^= at >> 32;
    for (;; ++at) {
      Slot& slot = slots_[at & (slots_.size() - 1)];
      if (slot.round != round_ || slot.word == word) return slot;
    }
  }
  void grow() {
    std::vector<Slot> old(slots_.empty() ? 64 : 2 * slots_.size());
    old.swap(slots_);
    for (const Slot& slot : old) {
      if (slot.round == round_) find(slot.word) = slot;
    }
  }

  std::vector<Slot> slots_;
  std::uint64_t round_ = 1;
  std::size_t count_ = 0;
};

}  // namespace tenfold
