#pragma once
// What the tokenizer file readers produce and the tokenizers are built from. Plain data: nothing
// here has been checked beyond what its reader says.

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "runtime/files/string_array.h"
#include "runtime/tokenizer.h"

namespace tenfold {

// Far above any real vocabulary; keeps the memory that a hostile file can ask for bounded.
inline constexpr std::size_t kMaxVocabulary = 1u << 20;

// Numbered as in tokenizer.ggml.token_type, which took the numbers from SentencePiece.
enum class TokenKind : std::uint8_t {
  normal = 1,
  unknown = 2,
  control = 3,       // never shown, and matched in a text only on request
  user_defined = 4,  // ordinary text that is always matched as a whole
  unused = 5,
  byte = 6,
};

struct AddedToken {
  TokenId id = 0;
  std::string text;
  bool special = false;
};

// Ids are indices. A hole is an empty text of kind unused.
struct Entries {
  std::vector<std::string> texts;
  std::vector<TokenKind> kinds;  // as many

  // Puts a token in its place; throws bad_file when the id is negative or leaves too large a hole,
  // unsupported beyond kMaxVocabulary.
  void set(TokenId id, std::string text, TokenKind kind, std::string_view path);
  // An added token of the file `path`: special ones become control, others user-defined.
  void add(const AddedToken& token, std::string_view path);
};

struct BpeVocabulary {
  Entries entries;     // normal texts in the byte-level alphabet (byte_level.h), others plain
  StringArray merges;  // "left right", best first
  std::string pre_tokenizer = "gpt-2";
  bool ignore_merges = false;     // a word that is an entry is not merged from its bytes
  bool add_prefix_space = false;  // " " before a text that does not start with one
};

enum class SentencePieceAlgorithm : std::uint8_t { unigram = 1, bpe = 2 };

// Before which pieces of text (they end at control tokens) the dummy space goes.
// `always` is what llama.cpp and Hugging Face's "Prepend" normalizer do.
enum class SpacePrefix : std::uint8_t { none, first, always };

struct SentencePieceVocabulary {
  Entries entries;            // spaces as U+2581
  std::vector<float> scores;  // one per entry of the model; entries added later have none
  SentencePieceAlgorithm algorithm = SentencePieceAlgorithm::bpe;
  SpacePrefix space_prefix = SpacePrefix::always;
  bool remove_extra_whitespaces = false;
  std::string precompiled_charsmap;  // the normalizer's table; empty: none
  std::string bos_piece = "<s>", eos_piece = "</s>", pad_piece = "<pad>";
};

// "left right" -> {left, right}; throws bad_file otherwise.
std::pair<std::string_view, std::string_view> split_merge(std::string_view merge,
                                                          std::string_view path);

// `path` is what messages name. Both set vocab_size, kind and, for SentencePiece, adds_space_prefix
// and the ids of bos, eos, unk and pad; the rest is the caller's.
std::unique_ptr<Tokenizer> make_bpe_tokenizer(BpeVocabulary vocabulary, std::string_view path);
std::unique_ptr<Tokenizer> make_sentencepiece_tokenizer(SentencePieceVocabulary vocabulary,
                                                        std::string_view path);

}  // namespace tenfold
