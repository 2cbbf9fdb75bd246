#pragma once
// Finds tokens that are matched as a whole ("<|im_end|>") in a text; what lies between is left to
// the tokenizer proper. The longest match at the earliest position wins.

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "runtime/tokenizer.h"

namespace tenfold {

struct TextFragment {
  std::string_view text;
  std::optional<TokenId> token;  // set: text is exactly this token
};

class SpecialTokens {
 public:
  // control: matched only when parse_special is asked for. Empty and very long texts never match.
  void add(std::string_view text, TokenId id, bool control);
  std::vector<TextFragment> split(std::string_view text, bool parse_special) const;

 private:
  struct Node {
    TokenId id = -1;
    bool control = false;
  };
  struct Match {
    std::size_t length = 0;
    TokenId id = -1;
  };
  Match longest_match(std::string_view text, bool parse_special) const;

  std::vector<Node> nodes_ = {{}};                             // a trie; 0 is the root
  std::unordered_map<std::uint64_t, std::uint32_t> children_;  // node * 256 + byte -> node
  bool starts_[256] = {};                                      // bytes some token starts with
};

}  // namespace tenfold
