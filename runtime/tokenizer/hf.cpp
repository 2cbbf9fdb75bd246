// A Hugging Face directory: the vocabulary's files, and the several JSON files that say which
// tokens are special.

#include <algorithm>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <unordered_map>

#include "kernels/error.h"
#include "runtime/files/json_file.h"
#include "runtime/files/mapped_file.h"
#include "runtime/files/quote.h"
#include "runtime/tokenizer/files.h"
#include "runtime/tokenizer/json.h"
#include "runtime/tokenizer/sentencepiece_proto.h"

namespace tenfold {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

// What tokenizer_config.json, special_tokens_map.json, added_tokens.json, generation_config.json
// and config.json say.
struct Declared {
  std::map<std::string, std::string, std::less<>> names;  // "bos_token" -> "<s>"
  std::vector<std::string> other_names;                   // additional special tokens
  std::vector<AddedToken> added;
  std::map<std::string, std::vector<TokenId>, std::less<>> ids;  // "eos_token_id" -> {2}
  std::optional<bool> add_bos;
  std::string model_type, chat_template;
};

json read_optional(const fs::path& path) {
  if (!fs::exists(path)) return nullptr;
  json value = read_json_file(path);
  if (!value.is_object()) throw_file_error(path.string(), "expected a JSON object");
  return value;
}

std::string read_text(const fs::path& path) {
  const MappedFile file(path);
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

// A token is written as "<s>" or as {"content": "<s>", ...}; null is none.
std::string token_text(const json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_object()) {
    const auto content = value.find("content");
    if (content != value.end() && content->is_string()) return content->get<std::string>();
  }
  return "";
}

void read_names(const json& object, Declared& declared) {
  if (!object.is_object()) return;
  for (const char* key : {"bos_token", "eos_token", "unk_token", "pad_token", "sep_token",
                          "cls_token", "mask_token"}) {
    const auto value = object.find(key);
    if (value == object.end()) continue;
    std::string text = token_text(*value);
    if (!text.empty()) declared.names[key] = std::move(text);
  }
  const auto additional = object.find("additional_special_tokens");
  if (additional == object.end() || !additional->is_array()) return;
  for (const json& value : *additional) {
    std::string text = token_text(value);
    if (!text.empty()) declared.other_names.push_back(std::move(text));
  }
}

bool is_named(std::string_view text, const Declared& declared) {
  return std::ranges::find(declared.other_names, text) != declared.other_names.end() ||
         std::ranges::any_of(declared.names, [&](const auto& name) { return name.second == text; });
}

std::optional<TokenId> as_id(const json& value) {
  if (!value.is_number_integer() || value < 0 || value > std::numeric_limits<TokenId>::max()) {
    return std::nullopt;
  }
  return value.get<TokenId>();
}

// A number, or a list of numbers; null and -1 are none.
void read_ids(const json& object, Declared& declared) {
  if (!object.is_object()) return;
  for (const char* key : {"bos_token_id", "eos_token_id", "unk_token_id", "pad_token_id"}) {
    const auto value = object.find(key);
    if (value == object.end()) continue;
    std::vector<TokenId>& ids = declared.ids[key];
    const json list = value->is_array() ? *value : json::array({*value});
    for (const json& entry : list) {
      if (const auto id = as_id(entry)) ids.push_back(*id);
    }
  }
}

// {"32000": {"content": "<pad>", "special": true}, ...}
void read_added_decoder(const json& config, Declared& declared, std::string_view name) {
  const auto decoder = config.find("added_tokens_decoder");
  if (decoder == config.end() || !decoder->is_object()) return;
  for (const auto& [key, value] : decoder->items()) {
    const bool digits = !key.empty() && key.size() <= 9 &&
                        std::ranges::all_of(key, [](char c) { return c >= '0' && c <= '9'; });
    const std::string text = token_text(value);
    if (!digits || text.empty()) {
      throw_file_error(name, "added_tokens_decoder entry {} is not a token", quote(key));
    }
    declared.added.push_back(
        {static_cast<TokenId>(std::stol(key)), text, json_bool_or(value, "special", false, name)});
  }
}

// One template, or a list of named ones of which "default" is the chat's.
std::string read_chat_template(const json& config) {
  const auto value = config.find("chat_template");
  if (value == config.end()) return "";
  if (value->is_string()) return value->get<std::string>();
  if (!value->is_array()) return "";
  for (const json& entry : *value) {
    if (!entry.is_object() || !entry.contains("name") || !entry.contains("template")) continue;
    if (entry["name"] == "default" && entry["template"].is_string()) {
      return entry["template"].get<std::string>();
    }
  }
  return "";
}

Declared read_declared(const fs::path& directory, const json& config) {
  Declared declared;
  read_names(read_optional(directory / "special_tokens_map.json"), declared);
  const fs::path path = directory / "tokenizer_config.json";
  if (const json tokenizer_config = read_optional(path); tokenizer_config.is_object()) {
    read_names(tokenizer_config, declared);
    read_added_decoder(tokenizer_config, declared, path.string());
    const auto add_bos = tokenizer_config.find("add_bos_token");
    if (add_bos != tokenizer_config.end() && add_bos->is_boolean()) {
      declared.add_bos = add_bos->get<bool>();
    }
    declared.chat_template = read_chat_template(tokenizer_config);
  }
  if (fs::exists(directory / "chat_template.jinja")) {
    declared.chat_template = read_text(directory / "chat_template.jinja");
  }
  const fs::path added_path = directory / "added_tokens.json";
  if (const json added = read_optional(added_path); added.is_object() && declared.added.empty()) {
    for (const auto& [text, value] : added.items()) {
      const auto id = as_id(value);
      if (!id) throw_file_error(added_path.string(), "token {} has no id", quote(text));
      declared.added.push_back({*id, text, is_named(text, declared)});
    }
  }
  read_ids(config, declared);
  read_ids(read_optional(directory / "generation_config.json"), declared);
  if (config.is_object()) declared.model_type = json_string_or(config, "model_type", "", "config");
  return declared;
}

StringArray read_merges(const fs::path& path) {
  const std::string text = read_text(path);
  StringArray merges;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    std::string_view line = std::string_view(text).substr(begin, end - begin);
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (!line.empty() && !(begin == 0 && line.starts_with("#version"))) merges.push_back(line);
    begin = end + 1;
  }
  return merges;
}

// Special by name, or, where no file names any, by config.json's ids.
void mark_declared(BpeVocabulary& vocabulary, const Declared& declared) {
  Entries& entries = vocabulary.entries;
  if (declared.names.empty() && declared.other_names.empty()) {
    for (const auto& [key, ids] : declared.ids) mark_control(vocabulary, ids);
    return;
  }
  for (std::size_t i = 0; i < entries.texts.size(); ++i) {
    if (is_named(entries.texts[i], declared)) entries.kinds[i] = TokenKind::control;
  }
}

std::unique_ptr<Tokenizer> load_vocab_and_merges(const fs::path& directory,
                                                 const Declared& declared) {
  const fs::path vocab_path = directory / "vocab.json";
  BpeVocabulary vocabulary;
  vocabulary.entries = read_vocab_object(read_json_file(vocab_path), vocab_path.string());
  vocabulary.merges = read_merges(directory / "merges.txt");
  for (const AddedToken& token : declared.added) vocabulary.entries.add(token, directory.string());
  mark_declared(vocabulary, declared);
  return make_bpe_tokenizer(std::move(vocabulary), directory.string());
}

std::unique_ptr<Tokenizer> load_model_file(const fs::path& path, const std::string& bytes,
                                           const Declared& declared) {
  SentencePieceVocabulary vocabulary = read_model_proto(bytes, path.string());
  for (const AddedToken& token : declared.added) {
    // The model's own control, unknown and byte pieces are listed again; their kinds stay.
    const auto index = static_cast<std::size_t>(token.id);
    if (index < vocabulary.scores.size() && vocabulary.entries.kinds[index] != TokenKind::normal) {
      continue;
    }
    vocabulary.entries.add(token, path.string());
  }
  return make_sentencepiece_tokenizer(std::move(vocabulary), path.string());
}

std::unique_ptr<Tokenizer> load_json_file(const fs::path& path, const Declared& declared,
                                          std::string& first_special) {
  TokenizerJson parsed = read_tokenizer_json(read_json_file(path), path.string());
  first_special = parsed.first_special;
  if (auto* bpe = std::get_if<BpeVocabulary>(&parsed.vocabulary)) {
    if (parsed.added.empty()) mark_declared(*bpe, declared);
  }
  return make_tokenizer(std::move(parsed), path.string());
}

std::optional<TokenId> declared_id(const Tokenizer& tokenizer, const Declared& declared,
                                   std::string_view key) {
  if (const auto name = declared.names.find(key); name != declared.names.end()) {
    if (const auto id = tokenizer.token_to_id(name->second)) return id;
  }
  const auto ids = declared.ids.find(std::string(key) + "_id");
  if (ids == declared.ids.end() || ids->second.empty()) return std::nullopt;
  const TokenId id = ids->second.front();
  return id < tokenizer.vocab_size ? std::optional(id) : std::nullopt;
}

bool bos_rule(const Tokenizer& tokenizer, const Declared& declared,
              std::string_view first_special) {
  if (!tokenizer.bos) return false;
  if (declared.add_bos) return *declared.add_bos;
  if (declared.model_type == "opt") return true;
  if (!first_special.empty()) return tokenizer.token_to_id(first_special) == tokenizer.bos;
  return tokenizer.kind == "sentencepiece";
}

void apply(Tokenizer& tokenizer, const Declared& declared, std::string_view first_special) {
  const auto set = [&](std::optional<TokenId>& field, std::string_view key) {
    if (const auto id = declared_id(tokenizer, declared, key)) field = id;
  };
  set(tokenizer.bos, "bos_token");
  set(tokenizer.eos, "eos_token");
  set(tokenizer.unk, "unk_token");
  set(tokenizer.pad, "pad_token");
  tokenizer.adds_bos = bos_rule(tokenizer, declared, first_special);
  tokenizer.chat_template = declared.chat_template;
  std::vector<TokenId> ends;
  if (const auto ids = declared.ids.find("eos_token_id"); ids != declared.ids.end()) {
    for (const TokenId id : ids->second) {
      if (id < tokenizer.vocab_size) ends.push_back(id);
    }
  }
  set_end_of_generation(tokenizer, ends);
}

}  // namespace

std::unique_ptr<Tokenizer> load_directory_tokenizer(const fs::path& directory, const json& config) {
  const Declared declared = read_declared(directory, config);
  const fs::path model_path = directory / "tokenizer.model";
  const fs::path json_path = directory / "tokenizer.json";
  std::string model_bytes;
  if (fs::exists(model_path)) model_bytes = read_text(model_path);
  // LLaMA 3's original tokenizer.model is tiktoken's text format; a SentencePiece model starts with
  // the tag of its first piece.
  const bool is_sentencepiece = model_bytes.starts_with('\n');

  std::unique_ptr<Tokenizer> tokenizer;
  std::string first_special;
  if (is_sentencepiece) {
    tokenizer = load_model_file(model_path, model_bytes, declared);
  } else if (fs::exists(json_path)) {
    tokenizer = load_json_file(json_path, declared, first_special);
  } else if (fs::exists(directory / "vocab.json") && fs::exists(directory / "merges.txt")) {
    tokenizer = load_vocab_and_merges(directory, declared);
  } else if (!model_bytes.empty()) {
    throw_error(ErrorCode::unsupported, "{}: not a SentencePiece model", model_path.string());
  } else {
    return nullptr;
  }
  apply(*tokenizer, declared, first_special);
  return tokenizer;
}

}  // namespace tenfold
