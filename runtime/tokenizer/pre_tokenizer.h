#pragma once
// Cuts a text into the words that byte-level BPE merges within. Each known pre-tokenizer is a list
// of regular expressions applied one after the other: matches and what lies between them become
// pieces. No byte is lost or changed; invalid UTF-8 makes pieces of its own.

#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace tenfold {

class PreTokenizer {
 public:
  // gpt-2, llama-bpe, smollm, default (llama.cpp's), none (one piece). Throws unsupported for any
  // other name.
  explicit PreTokenizer(std::string_view name);
  ~PreTokenizer();
  PreTokenizer(PreTokenizer&&) noexcept;
  PreTokenizer& operator=(PreTokenizer&&) noexcept;

  // Views into text, in order. May be called from several threads.
  std::vector<std::string_view> split(std::string_view text) const;
  const std::string& name() const noexcept { return name_; }

 private:
  struct Regex;
  std::string name_;
  std::vector<Regex> stages_;
};

// The one regular expression that tokenizer.json spells it with, or "".
std::string_view hugging_face_regex(std::string_view name) noexcept;
// The name of the pre-tokenizer whose regular expression a tokenizer.json spells out, or "".
std::string_view pre_tokenizer_for_regex(std::string_view regex) noexcept;

}  // namespace tenfold
