// SentencePiece: the library merges, we split at special tokens, place the dummy prefix, pass
// invalid bytes through as byte tokens, and decode.

#include <sentencepiece_processor.h>

#include <algorithm>
#include <array>
#include <unordered_map>

#include "kernels/error.h"
#include "runtime/files/mapped_file.h"
#include "runtime/tokenizer/files.h"
#include "runtime/tokenizer/sentencepiece_proto.h"
#include "runtime/tokenizer/special_tokens.h"
#include "runtime/tokenizer/vocabulary.h"
#include "runtime/utf8.h"

namespace tenfold {
namespace {

constexpr std::string_view kSpaceSymbol = "\xE2\x96\x81";  // U+2581

// The library's time per byte grows with the length of its input; words this far apart cannot meet.
constexpr std::size_t kChunkBytes = 512;

std::string symbols_to_spaces(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (std::size_t found = 0; (found = text.find(kSpaceSymbol)) != std::string_view::npos;) {
    out.append(text.substr(0, found)).append(" ");
    text.remove_prefix(found + kSpaceSymbol.size());
  }
  return out.append(text);
}

// Whether some piece goes on past a word's end: holds a space after something else.
bool crosses_words(std::string_view piece) noexcept {
  for (std::size_t at = 0; (at = piece.find(kSpaceSymbol, at)) != std::string_view::npos; ++at) {
    if (at > 0 && !piece.substr(0, at).ends_with(kSpaceSymbol)) return true;
  }
  return piece.find(' ') != std::string_view::npos;
}

// The end of a chunk of at least kChunkBytes that ends with a word; all of a text without words.
std::size_t chunk_length(std::string_view text) noexcept {
  for (std::size_t end = kChunkBytes; end < text.size(); ++end) {
    if (text[end] == ' ' && text[end - 1] != ' ' && !text.substr(0, end).ends_with(kSpaceSymbol)) {
      return end;
    }
  }
  return text.size();
}

class SentencePieceTokenizer final : public Tokenizer {
 public:
  SentencePieceTokenizer(SentencePieceVocabulary vocabulary, std::string_view path);

  std::vector<TokenId> encode(std::string_view text, const EncodeOptions& options) const override;
  std::string piece(TokenId id, bool special) const override;
  std::string decode(std::span<const TokenId> ids, bool special) const override;
  std::optional<TokenId> token_to_id(std::string_view token) const override;
  void write_vocabulary(GgufMetadata& keys, std::int64_t n_tokens) const override;

 private:
  void load_library(const SentencePieceVocabulary& vocabulary, std::string_view path);
  void index_entries(std::size_t n_model_pieces);
  std::optional<TokenId> control_id(std::string_view text) const;
  void encode_text(std::string_view text, bool prefix, std::vector<TokenId>& ids) const;
  void encode_valid(std::string_view text, bool prefix, std::vector<TokenId>& ids) const;
  bool is_control(TokenId id) const noexcept;

  Entries entries_;
  std::vector<float> scores_;
  bool remove_extra_whitespaces_;
  SpacePrefix space_prefix_;
  bool library_adds_prefix_ = false;
  bool cuts_into_chunks_ = false;  // encoding chunks of words gives the same ids as the whole text
  sentencepiece::SentencePieceProcessor library_;
  std::optional<TokenId> dropped_;  // the library's unknown id where the vocabulary has none
  std::unordered_map<std::string_view, TokenId> by_text_;  // views into entries_
  std::array<TokenId, 256> byte_ids_ = {};                 // -1: not in the vocabulary
  SpecialTokens special_tokens_;
};

SentencePieceTokenizer::SentencePieceTokenizer(SentencePieceVocabulary vocabulary,
                                               std::string_view path)
    : remove_extra_whitespaces_(vocabulary.remove_extra_whitespaces),
      space_prefix_(vocabulary.space_prefix) {
  load_library(vocabulary, path);
  entries_ = std::move(vocabulary.entries);
  index_entries(vocabulary.scores.size());
  scores_ = std::move(vocabulary.scores);
  vocab_size = static_cast<std::int64_t>(entries_.texts.size());
  kind = "sentencepiece";
  adds_space_prefix = space_prefix_ != SpacePrefix::none;
  bos = control_id(vocabulary.bos_piece);
  eos = control_id(vocabulary.eos_piece);
  pad = control_id(vocabulary.pad_piece);
}

void SentencePieceTokenizer::load_library(const SentencePieceVocabulary& vocabulary,
                                          std::string_view path) {
  const ModelProto proto = write_model_proto(vocabulary, path);
  const auto status = library_.LoadFromSerializedProto(proto.bytes);
  if (!status.ok()) throw_file_error(path, "SentencePiece refuses the model: {}", status.message());
  library_adds_prefix_ = proto.adds_prefix;
  cuts_into_chunks_ = proto.byte_fallback && vocabulary.precompiled_charsmap.empty() &&
                      !vocabulary.remove_extra_whitespaces &&
                      std::ranges::none_of(vocabulary.entries.texts, crosses_words);
  if (proto.unknown_is_entry) {
    unk = proto.unknown;
  } else {
    dropped_ = proto.unknown;
  }
}

void SentencePieceTokenizer::index_entries(std::size_t n_model_pieces) {
  byte_ids_.fill(-1);
  by_text_.reserve(entries_.texts.size());
  for (std::size_t i = 0; i < entries_.texts.size(); ++i) {
    const std::string& text = entries_.texts[i];
    const TokenKind token_kind = entries_.kinds[i];
    if (text.empty()) continue;
    const auto id = static_cast<TokenId>(i);
    by_text_.try_emplace(text, id);
    const bool control = token_kind == TokenKind::control || token_kind == TokenKind::unknown;
    // The model's own user-defined pieces are left to the library.
    const bool added = token_kind == TokenKind::user_defined && i >= n_model_pieces;
    if (control || added) special_tokens_.add(text, id, control);
    const int byte = token_kind == TokenKind::byte ? byte_of_piece(text) : -1;
    if (byte >= 0 && byte_ids_[static_cast<std::size_t>(byte)] < 0) {
      byte_ids_[static_cast<std::size_t>(byte)] = id;
    }
  }
}

bool SentencePieceTokenizer::is_control(TokenId id) const noexcept {
  if (id < 0 || id >= vocab_size) return true;
  const TokenKind token_kind = entries_.kinds[static_cast<std::size_t>(id)];
  return token_kind == TokenKind::control || token_kind == TokenKind::unknown;
}

std::optional<TokenId> SentencePieceTokenizer::control_id(std::string_view text) const {
  const auto id = token_to_id(text);
  return id && is_control(*id) ? id : std::nullopt;
}

void SentencePieceTokenizer::encode_valid(std::string_view text, bool prefix,
                                          std::vector<TokenId>& ids) const {
  std::string prefixed;
  if (prefix && !library_adds_prefix_) {
    prefixed.append(kSpaceSymbol).append(text);
    text = prefixed;
  }
  std::vector<int> found;
  while (!text.empty()) {
    const std::size_t length = cuts_into_chunks_ ? chunk_length(text) : text.size();
    const auto status = library_.Encode(text.substr(0, length), &found);
    if (!status.ok()) throw_error(ErrorCode::bad_request, "SentencePiece: {}", status.message());
    for (const int id : found) {
      if (id != dropped_) ids.push_back(id);
    }
    text.remove_prefix(length);
  }
}

void SentencePieceTokenizer::encode_text(std::string_view text, bool prefix,
                                         std::vector<TokenId>& ids) const {
  while (!text.empty()) {
    const std::size_t valid = std::min(first_invalid_utf8(text), text.size());
    if (valid > 0 || prefix) encode_valid(text.substr(0, valid), prefix, ids);
    prefix = false;
    text.remove_prefix(valid);
    if (text.empty()) break;
    const std::size_t broken = decode_utf8(text, 0).length;
    for (const char byte : text.substr(0, broken)) {
      const TokenId id = byte_ids_[static_cast<unsigned char>(byte)];
      if (id >= 0) ids.push_back(id);
    }
    text.remove_prefix(broken);
  }
}

std::vector<TokenId> SentencePieceTokenizer::encode(std::string_view text,
                                                    const EncodeOptions& options) const {
  std::vector<TokenId> ids;
  if (options.add_bos && bos) ids.push_back(*bos);
  bool prefix = space_prefix_ != SpacePrefix::none;
  for (const TextFragment& fragment : special_tokens_.split(text, options.parse_special)) {
    if (fragment.token) {
      ids.push_back(*fragment.token);
      if (space_prefix_ == SpacePrefix::always) prefix = true;
    } else {
      encode_text(fragment.text, prefix, ids);
      prefix = false;
    }
  }
  return ids;
}

std::string SentencePieceTokenizer::piece(TokenId id, bool special) const {
  if (id < 0 || id >= vocab_size) return "";
  const auto index = static_cast<std::size_t>(id);
  const std::string& text = entries_.texts[index];
  switch (entries_.kinds[index]) {
    case TokenKind::control:
    case TokenKind::unknown:
      return special ? text : "";
    case TokenKind::byte: {
      const int byte = byte_of_piece(text);
      return byte < 0 ? text : std::string(1, static_cast<char>(byte));
    }
    default:
      return symbols_to_spaces(text);
  }
}

std::string SentencePieceTokenizer::decode(std::span<const TokenId> ids, bool special) const {
  std::string text;
  bool first = adds_space_prefix;
  for (const TokenId id : ids) {
    const std::string shown = piece(id, special);
    const bool drop_space = first && !is_control(id) && shown.starts_with(' ');
    text.append(shown, drop_space ? 1 : 0);
    if (!is_control(id) && !shown.empty()) first = false;
  }
  return text;
}

std::optional<TokenId> SentencePieceTokenizer::token_to_id(std::string_view token) const {
  const auto entry = by_text_.find(token);
  if (entry == by_text_.end()) return std::nullopt;
  return entry->second;
}

void SentencePieceTokenizer::write_vocabulary(GgufMetadata& keys, std::int64_t n_tokens) const {
  keys.set("tokenizer.ggml.model", std::string("llama"));
  keys.set("tokenizer.ggml.pre", std::string("default"));
  write_entries(entries_, keys, n_tokens);
  std::vector<float> scores = scores_;
  scores.resize(std::max(entries_.texts.size(), static_cast<std::size_t>(n_tokens)), 0.0f);
  keys.set("tokenizer.ggml.scores", std::move(scores));
  keys.set("tokenizer.ggml.add_space_prefix", adds_space_prefix);
  keys.set("tokenizer.ggml.remove_extra_whitespaces", remove_extra_whitespaces_);
}

}  // namespace

std::unique_ptr<Tokenizer> make_sentencepiece_tokenizer(SentencePieceVocabulary vocabulary,
                                                        std::string_view path) {
  return std::make_unique<SentencePieceTokenizer>(std::move(vocabulary), path);
}

}  // namespace tenfold
