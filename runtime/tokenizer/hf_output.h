#pragma once
// The vocabulary of a GGUF as the files that transformers reads: tokenizer.json for byte-level BPE,
// tokenizer.model for SentencePiece, and tokenizer_config.json.

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "runtime/files/gguf.h"

namespace tenfold {

// What a Hugging Face directory may have of a tokenizer.
inline constexpr const char* kHuggingFaceTokenizerFiles[] = {
    "tokenizer.json",     "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json",
    "vocab.json",         "merges.txt",      "added_tokens.json",     "generation_config.json",
    "chat_template.jinja"};

struct HuggingFaceTokenizer {
  std::vector<std::pair<std::string, std::string>> files;  // name, contents
  std::string missing;  // why there are none, where there are none
};
// max_tokens: the model's context.
HuggingFaceTokenizer hugging_face_tokenizer(const GgufMetadata& metadata, std::int64_t max_tokens);

}  // namespace tenfold
