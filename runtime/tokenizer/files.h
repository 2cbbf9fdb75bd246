#pragma once
// The two kinds of model that carry a tokenizer. Both return nullptr where there is none.

#include <filesystem>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <span>

#include "runtime/files/gguf.h"
#include "runtime/tokenizer/vocabulary.h"

namespace tenfold {

std::unique_ptr<Tokenizer> load_gguf_tokenizer(const GgufMetadata& metadata);
// config: the directory's config.json, or null.
std::unique_ptr<Tokenizer> load_directory_tokenizer(const std::filesystem::path& directory,
                                                    const nlohmann::json& config);

// The vocabulary of a GGUF whose tokenizer.ggml.model is "llama", or "gpt2".
SentencePieceVocabulary read_gguf_sentencepiece(const GgufMetadata& metadata);
BpeVocabulary read_gguf_bpe(const GgufMetadata& metadata);

// tokenizer.ggml.tokens and token_type, padded to n_tokens.
void write_entries(const Entries& entries, GgufMetadata& keys, std::int64_t n_tokens);

// For vocabularies that do not say which entries are special: `ids` become control, unless text can
// produce them (a pad_token_id of 0 that means "!" must not change how "!" is read).
void mark_control(BpeVocabulary& vocabulary, std::span<const TokenId> ids);

// Fills end_of_generation: eos, `ids`, and special tokens whose text is known to end a turn.
void set_end_of_generation(Tokenizer& tokenizer, std::span<const TokenId> ids);

}  // namespace tenfold
