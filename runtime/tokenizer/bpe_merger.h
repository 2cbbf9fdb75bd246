#pragma once
// Byte pair encoding proper: repeatedly joins the adjacent pair of tokens with the best rank
// (leftmost on a tie). O(n log n) for a word of n tokens.

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "runtime/tokenizer.h"

namespace tenfold {

class BpeMerger {
 public:
  void reserve(std::size_t merges) { rules_.reserve(merges); }
  // Rules are added best first; the first rule for a pair stays.
  void add(TokenId left, TokenId right, TokenId merged);

  // Buffers that a caller keeps between words.
  class Workspace {
    friend class BpeMerger;
    struct Symbol {
      TokenId id;
      std::int32_t previous, next;  // -1: none
    };
    struct Candidate {
      std::uint32_t rank;
      std::int32_t left;
      TokenId left_id, right_id, merged;
    };
    std::vector<Symbol> symbols_;
    std::vector<Candidate> heap_;
  };

  // In place. Negative ids (bytes without a token) never merge and stay.
  void merge(std::vector<TokenId>& ids, Workspace& workspace) const;

 private:
  struct Rule {
    std::uint32_t rank;
    TokenId merged;
  };
  void push_candidate(std::int32_t left, Workspace& workspace) const;

  std::unordered_map<std::uint64_t, Rule> rules_;  // by left << 32 | right
};

}  // namespace tenfold
