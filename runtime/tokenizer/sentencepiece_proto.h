#pragma once
// SentencePiece's ModelProto in protobuf wire format, read and written by hand: the library does
// not install its .proto, and it trusts its input more than a file from the net deserves. Whatever
// the source (tokenizer.model, GGUF, tokenizer.json), the library gets a proto written here.

#include <string>
#include <string_view>

#include "runtime/tokenizer/vocabulary.h"

namespace tenfold {

// Throws bad_file on a malformed file, unsupported for word, char and suffix-space models.
SentencePieceVocabulary read_model_proto(std::string_view bytes, std::string_view path);

struct ModelProto {
  std::string bytes;
  TokenId unknown = 0;           // the library's id for text without a piece
  bool unknown_is_entry = true;  // false: it lies past the vocabulary's end and must be dropped
  bool byte_fallback = false;
  // The library adds the dummy prefix to everything it encodes. Else the caller puts a U+2581 where
  // it wants one, which a normalizer that trims or maps spaces would undo.
  bool adds_prefix = false;
};

// A proto that the library accepts, for vocabulary.entries' first scores.size() entries: entries it
// would refuse (empty, doubled, malformed bytes) become unreachable control pieces, a missing
// unknown piece is added at the end, and byte fallback needs all 256 bytes.
ModelProto write_model_proto(const SentencePieceVocabulary& vocabulary, std::string_view path);

// The same vocabulary as a tokenizer.model for other programs: the library adds the dummy prefix.
std::string standalone_model_proto(const SentencePieceVocabulary& vocabulary,
                                   std::string_view path);

// "<0x0A>" -> 10; -1 for anything else.
int byte_of_piece(std::string_view piece) noexcept;

}  // namespace tenfold
