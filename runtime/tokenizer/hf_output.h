#pragma once
// The vocabulary of a GGUF as the files that transformers reads: tokenizer.json for byte-level BPE,
// tokenizer.model for SentencePiece, tokenizer_config.json, and generation_config.json,
// which says where an answer ends.

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "runtime/files/gguf.h"

namespace tenfold {

// What a Hugging Face directory may have beside config.json and weights.
inline constexpr const char* kHuggingFaceTextFiles[] = {
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
