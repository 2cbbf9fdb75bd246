// tokenizer.ggml.* keys, with llama.cpp's defaults for those that are absent.

#include <limits>

#include "kernels/error.h"
#include "runtime/files/quote.h"
#include "runtime/tokenizer/files.h"
#include "runtime/tokenizer/sentencepiece_proto.h"

namespace tenfold {
namespace {

struct GgufIds {
  std::optional<TokenId> bos, eos, unk, pad, eot, eom;
};

std::optional<TokenId> read_id(const GgufMetadata& metadata, std::string_view name,
                               std::size_t vocab_size) {
  const std::string key = fmt::format("tokenizer.ggml.{}_token_id", name);
  const auto id = metadata.get_int(key);
  if (!id) return std::nullopt;
  if (*id < 0 || static_cast<std::uint64_t>(*id) >= vocab_size) {
    throw_file_error(metadata.path, "{} is {}, outside the vocabulary of {}", key, *id, vocab_size);
  }
  return static_cast<TokenId>(*id);
}

GgufIds read_ids(const GgufMetadata& metadata, std::size_t vocab_size) {
  return {read_id(metadata, "bos", vocab_size),     read_id(metadata, "eos", vocab_size),
          read_id(metadata, "unknown", vocab_size), read_id(metadata, "padding", vocab_size),
          read_id(metadata, "eot", vocab_size),     read_id(metadata, "eom", vocab_size)};
}

std::vector<TokenId> listed(std::initializer_list<std::optional<TokenId>> ids) {
  std::vector<TokenId> present;
  for (const auto& id : ids) {
    if (id) present.push_back(*id);
  }
  return present;
}

const StringArray& read_tokens(const GgufMetadata& metadata) {
  const StringArray* tokens = metadata.get_strings("tokenizer.ggml.tokens");
  if (tokens == nullptr || tokens->empty()) {
    throw_file_error(metadata.path, "tokenizer.ggml.tokens is missing or empty");
  }
  if (tokens->size() > kMaxVocabulary) {
    throw_error(ErrorCode::unsupported, "{}: {} tokens, more than {}", metadata.path,
                tokens->size(), kMaxVocabulary);
  }
  return *tokens;
}

// has_kinds: false where the file has no tokenizer.ggml.token_type and all entries are normal.
Entries read_entries(const GgufMetadata& metadata, bool& has_kinds) {
  const StringArray& tokens = read_tokens(metadata);
  Entries entries;
  entries.texts.reserve(tokens.size());
  for (const std::string_view text : tokens) entries.texts.emplace_back(text);
  entries.kinds.assign(tokens.size(), TokenKind::normal);
  const auto types = metadata.get_ints("tokenizer.ggml.token_type");
  has_kinds = types.has_value();
  if (!types) return entries;
  if (types->size() != tokens.size()) {
    throw_file_error(metadata.path, "tokenizer.ggml.token_type has {} entries, expected {}",
                     types->size(), tokens.size());
  }
  for (std::size_t i = 0; i < types->size(); ++i) {
    const std::int64_t type = (*types)[i];
    if (type < 0 || type > 6) {
      throw_file_error(metadata.path, "tokenizer.ggml.token_type[{}] is {}, expected 1 to 6", i,
                       type);
    }
    if (type > 0) entries.kinds[i] = static_cast<TokenKind>(type);
  }
  return entries;
}

// What token_type would say, from names and ids.
void infer_kinds(Entries& entries, const GgufIds& ids) {
  for (std::size_t i = 0; i < entries.texts.size(); ++i) {
    if (byte_of_piece(entries.texts[i]) >= 0) entries.kinds[i] = TokenKind::byte;
  }
  for (const TokenId id : listed({ids.bos, ids.eos, ids.pad, ids.eot, ids.eom})) {
    entries.kinds[static_cast<std::size_t>(id)] = TokenKind::control;
  }
  entries.kinds[static_cast<std::size_t>(ids.unk.value_or(0))] = TokenKind::unknown;
}

SentencePieceVocabulary read_llama(const GgufMetadata& metadata, GgufIds& ids) {
  SentencePieceVocabulary vocabulary;
  bool has_kinds = false;
  vocabulary.entries = read_entries(metadata, has_kinds);
  const std::size_t count = vocabulary.entries.texts.size();
  ids = read_ids(metadata, count);
  if (!has_kinds) infer_kinds(vocabulary.entries, ids);

  const std::vector<float>* scores = metadata.get_floats("tokenizer.ggml.scores");
  if (scores == nullptr || scores->size() != count) {
    throw_file_error(metadata.path, "tokenizer.ggml.scores has {} entries, expected {}",
                     scores == nullptr ? 0 : scores->size(), count);
  }
  vocabulary.scores = *scores;
  const bool prefix = metadata.get_bool("tokenizer.ggml.add_space_prefix").value_or(true);
  vocabulary.space_prefix = prefix ? SpacePrefix::always : SpacePrefix::none;
  vocabulary.remove_extra_whitespaces =
      metadata.get_bool("tokenizer.ggml.remove_extra_whitespaces").value_or(false);
  return vocabulary;
}

// tokenizer.ggml.pre -> PreTokenizer's name.
std::string pre_tokenizer_name(const GgufMetadata& metadata) {
  const std::string* pre = metadata.get_string("tokenizer.ggml.pre");
  if (pre == nullptr) return "default";
  if (*pre == "llama3" || *pre == "llama-v3" || *pre == "llama-bpe") return "llama-bpe";
  if (*pre == "default" || *pre == "gpt-2" || *pre == "smollm") return *pre;
  throw_error(ErrorCode::unsupported, "{}: tokenizer.ggml.pre {} is not supported", metadata.path,
              quote(*pre));
}

BpeVocabulary read_gpt2(const GgufMetadata& metadata, GgufIds& ids) {
  BpeVocabulary vocabulary;
  vocabulary.pre_tokenizer = pre_tokenizer_name(metadata);
  vocabulary.ignore_merges = vocabulary.pre_tokenizer == "llama-bpe";
  const StringArray* merges = metadata.get_strings("tokenizer.ggml.merges");
  if (merges == nullptr) throw_file_error(metadata.path, "tokenizer.ggml.merges is missing");
  vocabulary.merges = *merges;
  bool has_kinds = false;
  vocabulary.entries = read_entries(metadata, has_kinds);
  ids = read_ids(metadata, vocabulary.entries.texts.size());
  if (!has_kinds) {
    mark_control(vocabulary, listed({ids.bos, ids.eos, ids.unk, ids.pad, ids.eot, ids.eom}));
  }
  vocabulary.add_prefix_space =
      metadata.get_bool("tokenizer.ggml.add_space_prefix").value_or(false);
  return vocabulary;
}

}  // namespace

SentencePieceVocabulary read_gguf_sentencepiece(const GgufMetadata& metadata) {
  GgufIds ids;
  return read_llama(metadata, ids);
}

BpeVocabulary read_gguf_bpe(const GgufMetadata& metadata) {
  GgufIds ids;
  return read_gpt2(metadata, ids);
}

std::unique_ptr<Tokenizer> load_gguf_tokenizer(const GgufMetadata& metadata) {
  const std::string* model = metadata.get_string("tokenizer.ggml.model");
  if (model == nullptr || *model == "no_vocab") return nullptr;
  if (*model != "llama" && *model != "gpt2") {
    throw_error(ErrorCode::unsupported, "{}: tokenizer.ggml.model {} is not supported",
                metadata.path, quote(*model));
  }
  GgufIds ids;
  auto tokenizer = *model == "llama"
                       ? make_sentencepiece_tokenizer(read_llama(metadata, ids), metadata.path)
                       : make_bpe_tokenizer(read_gpt2(metadata, ids), metadata.path);
  if (ids.bos) tokenizer->bos = ids.bos;
  if (ids.eos) tokenizer->eos = ids.eos;
  if (ids.unk) tokenizer->unk = ids.unk;
  if (ids.pad) tokenizer->pad = ids.pad;
  const bool usual_bos = *model == "llama" || pre_tokenizer_name(metadata) == "llama-bpe";
  tokenizer->adds_bos = tokenizer->bos.has_value() &&
                        metadata.get_bool("tokenizer.ggml.add_bos_token").value_or(usual_bos);
  if (const std::string* chat = metadata.get_string("tokenizer.chat_template")) {
    tokenizer->chat_template = *chat;
  }
  set_end_of_generation(*tokenizer, listed({ids.eot, ids.eom}));
  return tokenizer;
}

void write_entries(const Entries& entries, GgufMetadata& keys, std::int64_t n_tokens) {
  std::vector<std::string> texts = entries.texts;
  std::vector<std::int32_t> kinds;
  for (const TokenKind kind : entries.kinds) kinds.push_back(static_cast<std::int32_t>(kind));
  while (static_cast<std::int64_t>(texts.size()) < n_tokens) {
    texts.push_back(fmt::format("[PAD{}]", texts.size()));
    kinds.push_back(static_cast<std::int32_t>(TokenKind::unused));
  }
  keys.set("tokenizer.ggml.tokens", texts);
  keys.set("tokenizer.ggml.token_type", std::move(kinds));
}

void write_tokenizer_keys(const Tokenizer& tokenizer, GgufMetadata& keys, std::int64_t n_tokens) {
  tokenizer.write_vocabulary(keys, n_tokens);
  const auto set_id = [&](const char* name, const std::optional<TokenId>& id) {
    if (id)
      keys.set(fmt::format("tokenizer.ggml.{}_token_id", name), static_cast<std::uint32_t>(*id));
  };
  set_id("bos", tokenizer.bos);
  set_id("eos", tokenizer.eos);
  set_id("unknown", tokenizer.unk);
  set_id("padding", tokenizer.pad);
  for (const TokenId id : tokenizer.end_of_generation) {
    if (id == tokenizer.eos) continue;
    set_id("eot", id);
    break;
  }
  keys.set("tokenizer.ggml.add_bos_token", tokenizer.adds_bos);
  if (!tokenizer.chat_template.empty()) {
    keys.set("tokenizer.chat_template", tokenizer.chat_template);
  }
}

}  // namespace tenfold
