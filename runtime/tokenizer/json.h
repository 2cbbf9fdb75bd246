#pragma once
// tokenizer.json of Hugging Face's tokenizers library, model type BPE: byte-level (GPT-2, LLaMA 3,
// SmolLM) or SentencePiece-style (LLaMA 2). Normalizers and pre-tokenizers are recognised by their
// content; what is not recognised is refused by name rather than approximated.

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "runtime/tokenizer/vocabulary.h"

namespace tenfold {

struct TokenizerJson {
  std::variant<BpeVocabulary, SentencePieceVocabulary> vocabulary;
  std::vector<AddedToken> added;  // already part of the vocabulary
  std::string first_special;      // what the post-processor puts before a text; empty: nothing
};

// `name` is what messages call the file.
TokenizerJson read_tokenizer_json(const nlohmann::json& json, std::string_view name);

// The "added_tokens" array alone.
std::vector<AddedToken> read_added_tokens(const nlohmann::json& json, std::string_view name);
// {"token": id, ...} as in vocab.json.
Entries read_vocab_object(const nlohmann::json& vocab, std::string_view name);

// Encoder and options together; the ids of special tokens come from the added tokens.
std::unique_ptr<Tokenizer> make_tokenizer(TokenizerJson json, std::string_view path);

}  // namespace tenfold
