#include "runtime/grammar/vocabulary_pieces.h"

#include <algorithm>

namespace tenfold {

VocabularyPieces::VocabularyPieces(const Tokenizer& tokenizer)
    : end_of_generation_(tokenizer.end_of_generation),
      drops_first_space_(tokenizer.adds_space_prefix) {
  std::sort(end_of_generation_.begin(), end_of_generation_.end());
  begins_.push_back(0);
  for (TokenId id = 0; id < tokenizer.vocab_size; ++id) {
    if (!ends_generation(id)) text_ += tokenizer.piece(id, false);
    begins_.push_back(text_.size());
  }
  build_tree();
}

std::string_view VocabularyPieces::piece(TokenId id) const noexcept {
  if (id < 0 || static_cast<std::size_t>(id) >= size()) return {};
  const auto i = static_cast<std::size_t>(id);
  return std::string_view(text_).substr(begins_[i], begins_[i + 1] - begins_[i]);
}

bool VocabularyPieces::ends_generation(TokenId id) const noexcept {
  return std::binary_search(end_of_generation_.begin(), end_of_generation_.end(), id);
}

// Pieces in the order of their bytes are met as a depth-first walk meets them.
void VocabularyPieces::build_tree() {
  std::vector<TokenId> order;
  for (TokenId id = 0; static_cast<std::size_t>(id) < size(); ++id) {
    if (!piece(id).empty()) order.push_back(id);
  }
  std::stable_sort(order.begin(), order.end(),
                   [this](TokenId a, TokenId b) { return piece(a) < piece(b); });
  nodes_.push_back({0, 0, 0, 0});
  std::vector<std::uint32_t> path = {0};  // from the root to the last node
  std::string_view last;
  const auto leave = [&](std::size_t depth) {
    while (path.size() > depth + 1) {
      nodes_[path.back()].end = static_cast<std::uint32_t>(nodes_.size());
      path.pop_back();
    }
  };
  for (const TokenId id : order) {
    const std::string_view text = piece(id);
    const auto split = std::mismatch(last.begin(), last.end(), text.begin(), text.end());
    leave(static_cast<std::size_t>(split.first - last.begin()));
    for (std::size_t i = path.size() - 1; i < text.size(); ++i) {
      path.push_back(static_cast<std::uint32_t>(nodes_.size()));
      nodes_.push_back({static_cast<std::uint8_t>(text[i]), static_cast<std::uint32_t>(i + 1), 0,
                        static_cast<std::uint32_t>(tokens_.size())});
    }
    tokens_.push_back(id);
    max_depth_ = std::max(max_depth_, static_cast<std::uint32_t>(text.size()));
    last = text;
  }
  leave(0);
  nodes_[0].end = static_cast<std::uint32_t>(nodes_.size());
  nodes_.push_back({0, 0, 0, static_cast<std::uint32_t>(tokens_.size())});
}

}  // namespace tenfold
