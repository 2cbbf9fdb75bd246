#include "runtime/tokenizer.h"

#include <algorithm>
#include <unordered_set>

#include "runtime/files/mapped_file.h"
#include "runtime/tokenizer/byte_level.h"
#include "runtime/tokenizer/files.h"
#include "runtime/tokenizer/sentencepiece_proto.h"
#include "runtime/utf8.h"

namespace tenfold {
namespace {

// Turns end with these even where the metadata names only one of them.
constexpr std::string_view kEndOfTurn[] = {"<|im_end|>",      "<|eot_id|>",    "<|eom_id|>",
                                           "<|end_of_text|>", "<|endoftext|>", "<|end|>",
                                           "<end_of_turn>",   "</s>"};

bool is_special(const Tokenizer& tokenizer, TokenId id) {
  return tokenizer.piece(id, false).empty() && !tokenizer.piece(id, true).empty();
}

}  // namespace

void mark_control(BpeVocabulary& vocabulary, std::span<const TokenId> ids) {
  std::unordered_set<std::string> wanted;
  for (const TokenId id : ids) {
    if (id < 0 || static_cast<std::size_t>(id) >= vocabulary.entries.texts.size()) continue;
    wanted.insert(vocabulary.entries.texts[static_cast<std::size_t>(id)]);
  }
  for (unsigned byte = 0; byte < 256; ++byte) {
    wanted.erase(std::string(byte_level_symbol(static_cast<std::uint8_t>(byte))));
  }
  for (const std::string_view merge : vocabulary.merges) {
    const std::size_t space = merge.find(' ', 1);
    if (space == std::string_view::npos) continue;
    wanted.erase(std::string(merge.substr(0, space)).append(merge.substr(space + 1)));
  }
  for (const TokenId id : ids) {
    if (id < 0 || static_cast<std::size_t>(id) >= vocabulary.entries.texts.size()) continue;
    const auto index = static_cast<std::size_t>(id);
    if (wanted.contains(vocabulary.entries.texts[index])) {
      vocabulary.entries.kinds[index] = TokenKind::control;
    }
  }
}

void set_end_of_generation(Tokenizer& tokenizer, std::span<const TokenId> ids) {
  std::vector<TokenId>& ends = tokenizer.end_of_generation;
  ends.assign(ids.begin(), ids.end());
  if (tokenizer.eos) ends.push_back(*tokenizer.eos);
  for (const std::string_view text : kEndOfTurn) {
    const auto id = tokenizer.token_to_id(text);
    if (id && is_special(tokenizer, *id)) ends.push_back(*id);
  }
  std::ranges::sort(ends);
  ends.erase(std::unique(ends.begin(), ends.end()), ends.end());
}

std::unique_ptr<Tokenizer> load_tokenizer(const ModelSource& source) {
  if (source.is_gguf()) return load_gguf_tokenizer(source.gguf().metadata());
  return load_directory_tokenizer(source.path(), source.config());
}

std::unique_ptr<Tokenizer> load_sentencepiece(const std::filesystem::path& tokenizer_model) {
  const MappedFile file(tokenizer_model);
  const std::string_view bytes(reinterpret_cast<const char*>(file.bytes().data()),
                               file.bytes().size());
  auto tokenizer = make_sentencepiece_tokenizer(read_model_proto(bytes, file.path()), file.path());
  tokenizer->adds_bos = tokenizer->bos.has_value();
  set_end_of_generation(*tokenizer, {});
  return tokenizer;
}

std::string StreamDecoder::push(TokenId id) {
  std::string shown = tokenizer_->piece(id, special_);
  if (first_ && !shown.empty()) {
    // Control tokens do not end the search for the dummy prefix's space.
    const bool control = special_ && tokenizer_->piece(id, false).empty();
    if (!control) {
      if (tokenizer_->adds_space_prefix && shown.front() == ' ') shown.erase(0, 1);
      first_ = false;
    }
  }
  pending_ += shown;
  const std::size_t complete = complete_utf8_prefix(pending_);
  std::string text = sanitize_utf8(std::string_view(pending_).substr(0, complete));
  pending_.erase(0, complete);
  return text;
}

std::string StreamDecoder::finish() { return sanitize_utf8(std::exchange(pending_, {})); }

}  // namespace tenfold
