#include "runtime/tokenizer/sentencepiece_proto.h"

#include <fmt/core.h>

#include <array>
#include <cmath>
#include <cstring>
#include <unordered_set>

#include "kernels/error.h"
#include "runtime/files/quote.h"
#include "runtime/tokenizer/protobuf_wire.h"

namespace tenfold {
namespace {

// Field numbers of sentencepiece_model.proto.
namespace model_field {
enum : std::uint32_t { pieces = 1, trainer_spec = 2, normalizer_spec = 3 };
}
namespace piece_field {
enum : std::uint32_t { piece = 1, score = 2, type = 3 };
}
namespace trainer_field {
enum : std::uint32_t {
  model_type = 3,
  vocab_size = 4,
  whitespace_as_suffix = 24,
  byte_fallback = 35,
  unk_piece = 45,
  bos_piece = 46,
  eos_piece = 47,
  pad_piece = 48
};
}
namespace normalizer_field {
enum : std::uint32_t {
  name = 1,
  charsmap = 2,
  add_dummy_prefix = 3,
  remove_extra_whitespaces = 4,
  escape_whitespaces = 5
};
}

constexpr std::size_t kMaxProtoBytes = 1u << 30;  // the library counts in int

void read_piece(std::string_view message, SentencePieceVocabulary& vocabulary,
                std::string_view path) {
  ProtoReader reader(message, path);
  ProtoField field;
  std::string text;
  float score = 0;
  std::uint64_t type = 1;
  while (reader.next(field)) {
    if (field.number == piece_field::piece) text = field.bytes;
    if (field.number == piece_field::score) score = field.real();
    if (field.number == piece_field::type) type = field.value;
  }
  const auto id = static_cast<TokenId>(vocabulary.entries.texts.size());
  if (type < 1 || type > 6) {
    throw_file_error(path, "piece {} ({}) has type {}, expected 1 to 6", id, quote(text), type);
  }
  vocabulary.entries.set(id, std::move(text), static_cast<TokenKind>(type), path);
  vocabulary.scores.push_back(score);
}

void read_trainer_spec(std::string_view message, SentencePieceVocabulary& vocabulary,
                       std::string_view path) {
  ProtoReader reader(message, path);
  ProtoField field;
  while (reader.next(field)) {
    switch (field.number) {
      case trainer_field::model_type:
        if (field.value != 1 && field.value != 2) {
          throw_error(ErrorCode::unsupported,
                      "{}: SentencePiece model type {} is not supported (1 unigram, 2 BPE are)",
                      path, field.value);
        }
        vocabulary.algorithm = static_cast<SentencePieceAlgorithm>(field.value);
        break;
      case trainer_field::whitespace_as_suffix:
        if (field.flag()) {
          throw_error(ErrorCode::unsupported, "{}: treat_whitespace_as_suffix is not supported",
                      path);
        }
        break;
      case trainer_field::bos_piece:
        vocabulary.bos_piece = field.bytes;
        break;
      case trainer_field::eos_piece:
        vocabulary.eos_piece = field.bytes;
        break;
      case trainer_field::pad_piece:
        vocabulary.pad_piece = field.bytes;
        break;
      default:
        break;
    }
  }
}

void read_normalizer_spec(std::string_view message, SentencePieceVocabulary& vocabulary,
                          std::string_view path) {
  ProtoReader reader(message, path);
  ProtoField field;
  while (reader.next(field)) {
    switch (field.number) {
      case normalizer_field::charsmap:
        vocabulary.precompiled_charsmap = field.bytes;
        break;
      case normalizer_field::add_dummy_prefix:
        vocabulary.space_prefix = field.flag() ? SpacePrefix::always : SpacePrefix::none;
        break;
      case normalizer_field::remove_extra_whitespaces:
        vocabulary.remove_extra_whitespaces = field.flag();
        break;
      case normalizer_field::escape_whitespaces:
        if (!field.flag()) {
          throw_error(ErrorCode::unsupported, "{}: escape_whitespaces = false is not supported",
                      path);
        }
        break;
      default:
        break;
    }
  }
}

std::uint32_t little_endian_u32(std::string_view bytes, std::size_t index) noexcept {
  std::uint32_t value = 0;
  std::memcpy(&value, bytes.data() + index * 4, 4);
  return value;
}

// The table is a double-array trie and the replacements its leaves point at. The library follows
// it without looking, so every step it could take must stay inside.
void check_charsmap(std::string_view charsmap, std::string_view path) {
  if (charsmap.empty()) return;
  const auto fail = [&](std::string_view what) {
    throw_file_error(path, "the normalizer's precompiled_charsmap is malformed: {}", what);
  };
  if (charsmap.size() < 8) fail("no trie");
  const std::uint32_t trie_bytes = little_endian_u32(charsmap, 0);
  charsmap.remove_prefix(4);
  if (trie_bytes < 4 || trie_bytes % 4 != 0 || trie_bytes >= charsmap.size()) fail("trie size");
  const std::string_view replacements = charsmap.substr(trie_bytes);
  if (replacements.back() != '\0') fail("replacements do not end with NUL");
  const std::size_t n_units = trie_bytes / 4;
  for (std::size_t i = 0; i < n_units; ++i) {
    const std::uint32_t unit = little_endian_u32(charsmap, i);
    if (unit >> 31) continue;  // a leaf
    const std::size_t next = i ^ (std::size_t{unit >> 10} << ((unit & (1u << 9)) >> 6));
    if ((next | 0xFF) >= n_units) fail("a trie step out of range");
    const bool has_leaf = (unit >> 8 & 1) != 0;
    if (has_leaf && (little_endian_u32(charsmap, next) & 0x7FFFFFFF) >= replacements.size()) {
      fail("a replacement out of range");
    }
  }
}

struct CheckedPiece {
  std::string text;
  TokenKind kind;
};

// Turns entries into pieces the library accepts.
class PieceChecker {
 public:
  PieceChecker(const SentencePieceVocabulary& vocabulary, std::string_view path) {
    const std::size_t count = vocabulary.scores.size();
    pieces_.reserve(count + 1);
    for (std::size_t i = 0; i < count; ++i) {
      if (std::isnan(vocabulary.scores[i])) throw_file_error(path, "token {}: score is NaN", i);
      add(vocabulary.entries.texts[i], vocabulary.entries.kinds[i]);
    }
    for (std::size_t i = 0; i < count; ++i) {
      CheckedPiece& piece = pieces_[i];
      if (piece.kind == TokenKind::byte && !byte_fallback()) hide(i);
    }
    if (!unknown_) {
      unknown_ = count;
      pieces_.push_back({std::string(), TokenKind::unknown});
      pieces_.back().text = unique_text(count);
    }
  }

  bool byte_fallback() const noexcept { return n_bytes_ == 256; }
  std::size_t unknown() const noexcept { return *unknown_; }
  const std::vector<CheckedPiece>& pieces() const noexcept { return pieces_; }

 private:
  void add(const std::string& text, TokenKind kind) {
    const std::size_t id = pieces_.size();
    pieces_.push_back({text, kind});
    // The library's tries take C strings.
    const bool acceptable = !text.empty() && text.find('\0') == std::string::npos;
    if (!acceptable || !texts_.insert(text).second ||
        (kind == TokenKind::byte && byte_of_piece(text) < 0) ||
        (kind == TokenKind::unknown && unknown_)) {
      hide(id);
      return;
    }
    if (kind == TokenKind::byte) ++n_bytes_;
    if (kind == TokenKind::unknown) unknown_ = id;
  }
  void hide(std::size_t id) { pieces_[id] = {unique_text(id), TokenKind::control}; }
  std::string unique_text(std::size_t id) {
    std::string text = fmt::format("\x01hidden {}", id);
    while (!texts_.insert(text).second) text += '\x01';
    return text;
  }

  std::vector<CheckedPiece> pieces_;
  std::unordered_set<std::string> texts_;
  std::optional<std::size_t> unknown_;
  int n_bytes_ = 0;
};

bool library_adds_prefix(const SentencePieceVocabulary& vocabulary) noexcept {
  return vocabulary.space_prefix != SpacePrefix::none &&
         (vocabulary.remove_extra_whitespaces || !vocabulary.precompiled_charsmap.empty());
}

std::string normalizer_spec(const SentencePieceVocabulary& vocabulary, bool adds_prefix) {
  ProtoWriter spec;
  spec.bytes(normalizer_field::name, "identity");
  if (!vocabulary.precompiled_charsmap.empty()) {
    spec.bytes(normalizer_field::charsmap, vocabulary.precompiled_charsmap);
  }
  spec.number(normalizer_field::add_dummy_prefix, adds_prefix);
  spec.number(normalizer_field::remove_extra_whitespaces, vocabulary.remove_extra_whitespaces);
  spec.number(normalizer_field::escape_whitespaces, 1);
  return spec.take();
}

}  // namespace

int byte_of_piece(std::string_view piece) noexcept {
  if (piece.size() != 6 || !piece.starts_with("<0x") || piece[5] != '>') return -1;
  int value = 0;
  for (const char digit : piece.substr(3, 2)) {
    value *= 16;
    if (digit >= '0' && digit <= '9') {
      value += digit - '0';
    } else if (digit >= 'A' && digit <= 'F') {
      value += digit - 'A' + 10;
    } else {
      return -1;
    }
  }
  return value;
}

SentencePieceVocabulary read_model_proto(std::string_view bytes, std::string_view path) {
  SentencePieceVocabulary vocabulary;
  vocabulary.algorithm = SentencePieceAlgorithm::unigram;  // the .proto's defaults
  vocabulary.remove_extra_whitespaces = true;
  ProtoReader reader(bytes, path);
  ProtoField field;
  while (reader.next(field)) {
    if (field.number == model_field::pieces) read_piece(field.bytes, vocabulary, path);
    if (field.number == model_field::trainer_spec) {
      read_trainer_spec(field.bytes, vocabulary, path);
    }
    if (field.number == model_field::normalizer_spec) {
      read_normalizer_spec(field.bytes, vocabulary, path);
    }
  }
  if (vocabulary.scores.empty()) throw_file_error(path, "holds no SentencePiece pieces");
  return vocabulary;
}

namespace {

ModelProto write_proto(const SentencePieceVocabulary& vocabulary, std::string_view path,
                       bool adds_prefix) {
  if (vocabulary.scores.empty() || vocabulary.scores.size() > vocabulary.entries.texts.size()) {
    throw_file_error(path, "{} scores for {} tokens", vocabulary.scores.size(),
                     vocabulary.entries.texts.size());
  }
  check_charsmap(vocabulary.precompiled_charsmap, path);
  const PieceChecker checker(vocabulary, path);
  const std::vector<CheckedPiece>& pieces = checker.pieces();

  ProtoWriter model;
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    ProtoWriter piece;
    piece.bytes(piece_field::piece, pieces[i].text);
    piece.real(piece_field::score, i < vocabulary.scores.size() ? vocabulary.scores[i] : 0);
    piece.number(piece_field::type, static_cast<std::uint64_t>(pieces[i].kind));
    model.bytes(model_field::pieces, piece.message());
  }
  ProtoWriter trainer;
  trainer.number(trainer_field::model_type, static_cast<std::uint64_t>(vocabulary.algorithm));
  trainer.number(trainer_field::vocab_size, pieces.size());
  trainer.number(trainer_field::byte_fallback, checker.byte_fallback());
  trainer.bytes(trainer_field::unk_piece, pieces[checker.unknown()].text);
  model.bytes(model_field::trainer_spec, trainer.message());
  model.bytes(model_field::normalizer_spec, normalizer_spec(vocabulary, adds_prefix));
  if (model.message().size() > kMaxProtoBytes) {
    throw_error(ErrorCode::unsupported, "{}: a SentencePiece model of more than {} bytes", path,
                kMaxProtoBytes);
  }
  return {model.take(), static_cast<TokenId>(checker.unknown()),
          checker.unknown() < vocabulary.scores.size(), checker.byte_fallback(), adds_prefix};
}

}  // namespace

ModelProto write_model_proto(const SentencePieceVocabulary& vocabulary, std::string_view path) {
  return write_proto(vocabulary, path, library_adds_prefix(vocabulary));
}

std::string standalone_model_proto(const SentencePieceVocabulary& vocabulary,
                                   std::string_view path) {
  return write_proto(vocabulary, path, vocabulary.space_prefix != SpacePrefix::none).bytes;
}

}  // namespace tenfold
