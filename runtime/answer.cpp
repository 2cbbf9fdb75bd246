#include "runtime/answer.h"

namespace tenfold {

Answer::Part Answer::push(TokenId token, const TokenLogprob* record) {
  if (record != nullptr) held_.push_back({*record, decoded_});
  const std::string text = decoder_.push(token);
  decoded_ += text.size();
  return release(stops_.push(text));
}

Answer::Part Answer::finish() {
  StopMatcher::Result last = stops_.push(decoder_.finish());
  if (!last.stopped) last.text += stops_.finish();
  Part part = release(std::move(last));
  if (part.stopped) return part;
  for (Held& held : held_) part.tokens.push_back(std::move(held.record));
  held_.clear();
  return part;
}

// A token without text of its own (the first bytes of a character) waits for the text after it.
Answer::Part Answer::release(StopMatcher::Result safe) {
  Part part{std::move(safe.text), {}, safe.stopped};
  released_ += part.text.size();
  std::size_t n = 0;
  for (; n < held_.size() && held_[n].begin < released_; ++n) {
    part.tokens.push_back(std::move(held_[n].record));
  }
  held_.erase(held_.begin(), held_.begin() + static_cast<std::ptrdiff_t>(n));
  return part;
}

}  // namespace tenfold
