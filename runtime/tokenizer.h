#pragma once
// Text <-> token ids. Three sources: SentencePiece (tokenizer.model, or the vocabulary inside a
// GGUF with tokenizer.ggml.model = "llama", rebuilt as a ModelProto), byte-level BPE (vocab.json +
// merges.txt, tokenizer.json, or GGUF "gpt2").
// Const member functions may be called from several threads.

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/model_source.h"

namespace tenfold {

using TokenId = std::int32_t;

struct EncodeOptions {
  bool add_bos = false;       // prepend BOS; callers pass tokenizer.adds_bos() for the usual rule
  bool parse_special = true;  // "<|im_end|>" in the text becomes its id rather than characters
};

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  // Any byte string. Bytes the vocabulary cannot express are dropped, never thrown.
  virtual std::vector<TokenId> encode(std::string_view text,
                                      const EncodeOptions& options) const = 0;
  // Raw bytes of one token (may be part of a UTF-8 character); empty for control tokens unless
  // special. ids outside the vocabulary give "".
  virtual std::string piece(TokenId id, bool special = false) const = 0;
  // The whole sequence; equals the concatenated pieces, except that SentencePiece drops the leading
  // space its dummy prefix added.
  virtual std::string decode(std::span<const TokenId> ids, bool special = false) const = 0;
  virtual std::optional<TokenId> token_to_id(std::string_view token) const = 0;  // exact entry
  // The tokenizer.ggml.* keys that hold the vocabulary itself, padded with unused entries to
  // n_tokens (the rows of the embedding); write_tokenizer_keys() adds the rest.
  virtual void write_vocabulary(GgufMetadata& keys, std::int64_t n_tokens) const = 0;

  std::int64_t vocab_size = 0;
  std::optional<TokenId> bos, eos, unk, pad;
  std::vector<TokenId> end_of_generation;  // eos and what else ends a turn (<|im_end|>, <|eot_id|>)
  bool adds_bos = false;                   // the model's rule: BOS before a prompt
  bool adds_space_prefix = false;
  std::string chat_template;  // empty: the model has none
  std::string kind;           // "sentencepiece" or "byte-level BPE (smollm)", for inspect
};

// nullptr where the model has no tokenizer files (it still works with ids). Throws bad_file or
// unsupported (an unknown tokenizer.ggml.model / .pre, by name).
std::unique_ptr<Tokenizer> load_tokenizer(const ModelSource& source);
std::unique_ptr<Tokenizer> load_sentencepiece(const std::filesystem::path& tokenizer_model);

// Everything load_tokenizer needs to rebuild this tokenizer from a GGUF.
void write_tokenizer_keys(const Tokenizer& tokenizer, GgufMetadata& keys, std::int64_t n_tokens);

// Streaming: push ids, get text that never ends inside a UTF-8 character. Invalid bytes become
// U+FFFD, as in the whole decode made valid.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer& tokenizer, bool special = false)
      : tokenizer_(&tokenizer), special_(special) {}
  std::string push(TokenId id);
  std::string finish();  // what is left, with U+FFFD for an incomplete character

 private:
  const Tokenizer* tokenizer_;
  bool special_;
  bool first_ = true;
  std::string pending_;
};

}  // namespace tenfold
