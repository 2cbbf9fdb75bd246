#pragma once
// A random text of a grammar: a walk over the bytes that the matcher accepts, which heads for an
// end so that grammars with recursion come to one.

#include <optional>
#include <random>
#include <string>

#include "runtime/grammar/matcher.h"

namespace tenfold::testing {

// nullopt: none was found within `most` bytes.
inline std::optional<std::string> random_text(GrammarMatcher matcher, std::mt19937& rng,
                                              std::size_t most = 3000) {
  std::string text;
  while (text.size() < most) {
    if (matcher.at_end() && (!matcher.can_continue() || rng() % 3 == 0)) return text;
    std::string next, ends;
    for (int byte = 0; byte < 256; ++byte) {
      const char c = static_cast<char>(byte);
      if (!matcher.accepts({&c, 1})) continue;
      next += c;
      if (c == '"' || c == ']' || c == '}') ends += c;
    }
    if (next.empty()) return std::nullopt;
    // In a string most bytes begin odd characters; ends must not be rare, and later not avoidable.
    const bool wants_end =
        !ends.empty() && (rng() % 6 == 0 || (text.size() > 150 && rng() % 8 != 0));
    const std::string& from = wants_end ? ends : next;
    text += from[rng() % from.size()];
    matcher.advance({&text.back(), 1});
  }
  return std::nullopt;
}

}  // namespace tenfold::testing
