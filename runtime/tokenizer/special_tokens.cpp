#include "runtime/tokenizer/special_tokens.h"

namespace tenfold {
namespace {

constexpr std::size_t kMaxLength = 512;  // bounds the work per byte of text

std::uint64_t edge(std::uint32_t node, char byte) noexcept {
  return std::uint64_t{node} * 256 + static_cast<unsigned char>(byte);
}

}  // namespace

void SpecialTokens::add(std::string_view text, TokenId id, bool control) {
  if (text.empty() || text.size() > kMaxLength) return;
  std::uint32_t node = 0;
  for (const char byte : text) {
    const auto [child, inserted] =
        children_.try_emplace(edge(node, byte), static_cast<std::uint32_t>(nodes_.size()));
    if (inserted) nodes_.emplace_back();
    node = child->second;
  }
  if (nodes_[node].id >= 0) return;
  nodes_[node] = {id, control};
  starts_[static_cast<unsigned char>(text[0])] = true;
}

SpecialTokens::Match SpecialTokens::longest_match(std::string_view text, bool parse_special) const {
  Match best;
  std::uint32_t node = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto child = children_.find(edge(node, text[i]));
    if (child == children_.end()) break;
    node = child->second;
    const Node& found = nodes_[node];
    if (found.id >= 0 && (parse_special || !found.control)) best = {i + 1, found.id};
  }
  return best;
}

std::vector<TextFragment> SpecialTokens::split(std::string_view text, bool parse_special) const {
  std::vector<TextFragment> fragments;
  std::size_t begin = 0;
  for (std::size_t i = 0; i < text.size();) {
    Match match;
    if (starts_[static_cast<unsigned char>(text[i])]) {
      match = longest_match(text.substr(i), parse_special);
    }
    if (match.length == 0) {
      ++i;
      continue;
    }
    if (i > begin) fragments.push_back({text.substr(begin, i - begin), std::nullopt});
    fragments.push_back({text.substr(i, match.length), match.id});
    i += match.length;
    begin = i;
  }
  if (begin < text.size()) fragments.push_back({text.substr(begin), std::nullopt});
  return fragments;
}

}  // namespace tenfold
