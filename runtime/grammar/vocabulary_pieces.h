#pragma once
// The bytes of every token of a tokenizer, and all of them as a prefix tree. Made once for each
// tokenizer (some 50 ms for 50,000 tokens), never changed, used from several threads.

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/tokenizer.h"

namespace tenfold {

class VocabularyPieces {
 public:
  explicit VocabularyPieces(const Tokenizer& tokenizer);

  std::size_t size() const noexcept { return begins_.size() - 1; }
  // Empty for control tokens, tokens that end a generation, and ids outside the vocabulary.
  std::string_view piece(TokenId id) const noexcept;
  bool ends_generation(TokenId id) const noexcept;
  std::span<const TokenId> end_of_generation() const noexcept { return end_of_generation_; }
  // Of the first piece a leading space is not shown (SentencePiece, see StreamDecoder).
  bool drops_first_space() const noexcept { return drops_first_space_; }

  // The tree in depth-first order, so that a subtree is a run of nodes. Node 0 is the root.
  struct Node {
    std::uint8_t byte;           // the last one of the node's text
    std::uint32_t depth;         // bytes of the text
    std::uint32_t end;           // after the last node of the subtree
    std::uint32_t tokens_begin;  // the tokens with this text end where the next node's begin
  };
  std::span<const Node> nodes() const noexcept { return {nodes_.data(), nodes_.size() - 1}; }
  std::span<const TokenId> tokens_of(std::size_t node) const noexcept {
    return {tokens_.data() + nodes_[node].tokens_begin,
            tokens_.data() + nodes_[node + 1].tokens_begin};
  }
  std::uint32_t max_depth() const noexcept { return max_depth_; }

 private:
  void build_tree();

  std::string text_;
  std::vector<std::size_t> begins_;         // of each piece in text_, and the end
  std::vector<TokenId> end_of_generation_;  // sorted
  bool drops_first_space_;
  std::vector<Node> nodes_;  // and one more, for tokens_begin
  std::vector<TokenId> tokens_;
  std::uint32_t max_depth_ = 0;
};

}  // namespace tenfold
