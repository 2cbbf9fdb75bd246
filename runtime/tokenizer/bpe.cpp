// Byte-level BPE: special tokens, then words (PreTokenizer), then merges from single bytes.

#include <array>
#include <unordered_map>

#include "kernels/error.h"
#include "runtime/files/quote.h"
#include "runtime/tokenizer/bpe_merger.h"
#include "runtime/tokenizer/byte_level.h"
#include "runtime/tokenizer/files.h"
#include "runtime/tokenizer/pre_tokenizer.h"
#include "runtime/tokenizer/special_tokens.h"
#include "runtime/tokenizer/vocabulary.h"

namespace tenfold {
namespace {

class BpeTokenizer final : public Tokenizer {
 public:
  BpeTokenizer(BpeVocabulary vocabulary, std::string_view path);

  std::vector<TokenId> encode(std::string_view text, const EncodeOptions& options) const override;
  std::string piece(TokenId id, bool special) const override;
  std::string decode(std::span<const TokenId> ids, bool special) const override;
  std::optional<TokenId> token_to_id(std::string_view token) const override;
  void write_vocabulary(GgufMetadata& keys, std::int64_t n_tokens) const override;

 private:
  void index_entries();
  void add_merges(const StringArray& merges, std::string_view path);
  void encode_text(std::string_view text, std::vector<TokenId>& ids) const;

  Entries entries_;
  StringArray merges_;
  std::unordered_map<std::string_view, TokenId> by_text_;  // views into entries_
  std::array<TokenId, 256> byte_ids_ = {};                 // -1: not in the vocabulary
  BpeMerger merger_;
  PreTokenizer pre_tokenizer_;
  SpecialTokens special_tokens_;
  bool ignore_merges_, add_prefix_space_;
};

BpeTokenizer::BpeTokenizer(BpeVocabulary vocabulary, std::string_view path)
    : entries_(std::move(vocabulary.entries)),
      merges_(std::move(vocabulary.merges)),
      pre_tokenizer_(vocabulary.pre_tokenizer),
      ignore_merges_(vocabulary.ignore_merges),
      add_prefix_space_(vocabulary.add_prefix_space) {
  index_entries();
  add_merges(merges_, path);
  vocab_size = static_cast<std::int64_t>(entries_.texts.size());
  kind = "byte-level BPE (" + pre_tokenizer_.name() + ")";
}

void BpeTokenizer::index_entries() {
  by_text_.reserve(entries_.texts.size());
  for (std::size_t i = 0; i < entries_.texts.size(); ++i) {
    const std::string& text = entries_.texts[i];
    const TokenKind token_kind = entries_.kinds[i];
    if (text.empty()) continue;
    const auto id = static_cast<TokenId>(i);
    by_text_.try_emplace(text, id);
    const bool control = token_kind == TokenKind::control || token_kind == TokenKind::unknown;
    if (control || token_kind == TokenKind::user_defined) special_tokens_.add(text, id, control);
  }
  for (unsigned byte = 0; byte < 256; ++byte) {
    const auto entry = by_text_.find(byte_level_symbol(static_cast<std::uint8_t>(byte)));
    byte_ids_[byte] = entry == by_text_.end() ? -1 : entry->second;
  }
}

void BpeTokenizer::add_merges(const StringArray& merges, std::string_view path) {
  merger_.reserve(merges.size());
  for (const std::string_view merge : merges) {
    const auto [left, right] = split_merge(merge, path);
    const auto require = [&, merge](std::string_view token) {
      const auto entry = by_text_.find(token);
      if (entry == by_text_.end()) {
        throw_file_error(path, "merge {}: {} is not in the vocabulary", quote(merge), quote(token));
      }
      return entry->second;
    };
    const std::string merged = std::string(left).append(right);
    merger_.add(require(left), require(right), require(merged));
  }
}

void BpeTokenizer::encode_text(std::string_view text, std::vector<TokenId>& ids) const {
  std::string prefixed;
  if (add_prefix_space_ && !text.starts_with(' ')) {
    prefixed.append(" ").append(text);
    text = prefixed;
  }
  BpeMerger::Workspace workspace;
  std::vector<TokenId> word_ids;
  for (const std::string_view word : pre_tokenizer_.split(text)) {
    if (ignore_merges_) {
      const auto entry = by_text_.find(to_byte_level(word));
      if (entry != by_text_.end()) {
        ids.push_back(entry->second);
        continue;
      }
    }
    word_ids.clear();
    for (const char byte : word) word_ids.push_back(byte_ids_[static_cast<unsigned char>(byte)]);
    merger_.merge(word_ids, workspace);
    for (const TokenId id : word_ids) {
      if (id >= 0) ids.push_back(id);
    }
  }
}

std::vector<TokenId> BpeTokenizer::encode(std::string_view text,
                                          const EncodeOptions& options) const {
  std::vector<TokenId> ids;
  if (options.add_bos && bos) ids.push_back(*bos);
  for (const TextFragment& fragment : special_tokens_.split(text, options.parse_special)) {
    if (fragment.token) {
      ids.push_back(*fragment.token);
    } else {
      encode_text(fragment.text, ids);
    }
  }
  return ids;
}

std::string BpeTokenizer::piece(TokenId id, bool special) const {
  if (id < 0 || id >= vocab_size) return "";
  const auto index = static_cast<std::size_t>(id);
  const std::string& text = entries_.texts[index];
  switch (entries_.kinds[index]) {
    case TokenKind::control:
    case TokenKind::unknown:
      return special ? text : "";
    case TokenKind::user_defined:
      return text;
    default:
      return from_byte_level(text).value_or(text);
  }
}

std::string BpeTokenizer::decode(std::span<const TokenId> ids, bool special) const {
  std::string text;
  for (const TokenId id : ids) text += piece(id, special);
  return text;
}

std::optional<TokenId> BpeTokenizer::token_to_id(std::string_view token) const {
  const auto entry = by_text_.find(token);
  if (entry == by_text_.end()) return std::nullopt;
  return entry->second;
}

void BpeTokenizer::write_vocabulary(GgufMetadata& keys, std::int64_t n_tokens) const {
  keys.set("tokenizer.ggml.model", std::string("gpt2"));
  keys.set("tokenizer.ggml.pre", pre_tokenizer_.name());
  write_entries(entries_, keys, n_tokens);
  keys.set("tokenizer.ggml.merges", merges_);
  keys.set("tokenizer.ggml.add_space_prefix", add_prefix_space_);
}

}  // namespace

std::unique_ptr<Tokenizer> make_bpe_tokenizer(BpeVocabulary vocabulary, std::string_view path) {
  return std::make_unique<BpeTokenizer>(std::move(vocabulary), path);
}

}  // namespace tenfold
