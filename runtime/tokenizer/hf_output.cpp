#include "runtime/tokenizer/hf_output.h"

#include <nlohmann/json.hpp>

#include "runtime/tokenizer/files.h"
#include "runtime/tokenizer/pre_tokenizer.h"
#include "runtime/tokenizer/sentencepiece_proto.h"

namespace tenfold {
namespace {

using Json = nlohmann::ordered_json;

std::string dump(const Json& json) {
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

Json byte_level(bool add_prefix_space, bool use_regex) {
  return {{"type", "ByteLevel"},
          {"add_prefix_space", add_prefix_space},
          {"trim_offsets", true},
          {"use_regex", use_regex}};
}

// null where tokenizer.json has no such pre-tokenizer.
Json pre_tokenizer(const BpeVocabulary& vocabulary) {
  const bool prefix = vocabulary.add_prefix_space;
  if (vocabulary.pre_tokenizer == "gpt-2") return byte_level(prefix, true);
  Json stages = Json::array();
  if (vocabulary.pre_tokenizer == "smollm") {
    stages.push_back({{"type", "Digits"}, {"individual_digits", true}});
    stages.push_back(byte_level(prefix, true));
  } else if (const std::string_view regex = hugging_face_regex(vocabulary.pre_tokenizer);
             !regex.empty()) {
    stages.push_back({{"type", "Split"},
                      {"pattern", {{"Regex", regex}}},
                      {"behavior", "Isolated"},
                      {"invert", false}});
    stages.push_back(byte_level(prefix, false));
  } else {
    return nullptr;
  }
  return {{"type", "Sequence"}, {"pretokenizers", stages}};
}

Json added_tokens(const Entries& entries) {
  Json added = Json::array();
  for (std::size_t i = 0; i < entries.texts.size(); ++i) {
    const TokenKind kind = entries.kinds[i];
    if (kind != TokenKind::control && kind != TokenKind::user_defined) continue;
    added.push_back({{"id", i},
                     {"content", entries.texts[i]},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", kind == TokenKind::control}});
  }
  return added;
}

Json post_processor(const Tokenizer& tokenizer, const Entries& entries) {
  if (!tokenizer.adds_bos || !tokenizer.bos) return nullptr;
  const std::string& bos = entries.texts[static_cast<std::size_t>(*tokenizer.bos)];
  const Json special = {{"SpecialToken", {{"id", bos}, {"type_id", 0}}}};
  const auto sequence = [](const char* id, int type) {
    return Json{{"Sequence", {{"id", id}, {"type_id", type}}}};
  };
  return {{"type", "TemplateProcessing"},
          {"single", {special, sequence("A", 0)}},
          {"pair", {special, sequence("A", 0), sequence("B", 1)}},
          {"special_tokens", {{bos, {{"id", bos}, {"ids", {*tokenizer.bos}}, {"tokens", {bos}}}}}}};
}

Json tokenizer_json(const Tokenizer& tokenizer, const BpeVocabulary& vocabulary, Json pieces) {
  Json json;
  json["version"] = "1.0";
  json["truncation"] = nullptr;
  json["padding"] = nullptr;
  json["added_tokens"] = added_tokens(vocabulary.entries);
  json["normalizer"] = nullptr;
  json["pre_tokenizer"] = std::move(pieces);
  json["post_processor"] = post_processor(tokenizer, vocabulary.entries);
  json["decoder"] = byte_level(true, true);
  Json& model = json["model"];
  model["type"] = "BPE";
  model["dropout"] = nullptr;
  model["unk_token"] = nullptr;
  model["continuing_subword_prefix"] = nullptr;
  model["end_of_word_suffix"] = nullptr;
  model["fuse_unk"] = false;
  model["byte_fallback"] = false;
  model["ignore_merges"] = vocabulary.ignore_merges;
  model["vocab"] = Json::object();
  // Appended: Json's own insertion looks through all entries.
  auto& vocab = model["vocab"].get_ref<Json::object_t&>();
  for (std::size_t i = 0; i < vocabulary.entries.texts.size(); ++i) {
    vocab.emplace_back(vocabulary.entries.texts[i], i);
  }
  model["merges"] = Json::array();
  for (const std::string_view merge : vocabulary.merges) model["merges"].push_back(merge);
  return json;
}

std::string config_json(const Tokenizer& tokenizer, const Entries& entries, const char* type,
                        std::int64_t max_tokens) {
  Json json;
  json["tokenizer_class"] = type;
  json["model_max_length"] = max_tokens;
  json["add_bos_token"] = tokenizer.adds_bos;
  json["clean_up_tokenization_spaces"] = false;
  const auto name = [&](const char* key, const std::optional<TokenId>& id) {
    if (id) json[key] = entries.texts[static_cast<std::size_t>(*id)];
  };
  name("bos_token", tokenizer.bos);
  name("eos_token", tokenizer.eos);
  name("unk_token", tokenizer.unk);
  name("pad_token", tokenizer.pad);
  if (!tokenizer.chat_template.empty()) json["chat_template"] = tokenizer.chat_template;
  return dump(json);
}

// Where an answer ends: eos, and what else ends a turn.
std::string generation_json(const Tokenizer& tokenizer) {
  Json json;
  if (tokenizer.bos) json["bos_token_id"] = *tokenizer.bos;
  if (!tokenizer.end_of_generation.empty()) json["eos_token_id"] = tokenizer.end_of_generation;
  if (tokenizer.pad) json["pad_token_id"] = *tokenizer.pad;
  return dump(json);
}

}  // namespace

HuggingFaceTokenizer hugging_face_tokenizer(const GgufMetadata& metadata, std::int64_t max_tokens) {
  HuggingFaceTokenizer result;
  const std::unique_ptr<Tokenizer> tokenizer = load_gguf_tokenizer(metadata);
  if (tokenizer == nullptr) {
    result.missing = "the model has none";
    return result;
  }
  result.files.emplace_back("generation_config.json", generation_json(*tokenizer));
  if (*metadata.get_string("tokenizer.ggml.model") == "llama") {
    const SentencePieceVocabulary vocabulary = read_gguf_sentencepiece(metadata);
    result.files.emplace_back("tokenizer.model", standalone_model_proto(vocabulary, metadata.path));
    result.files.emplace_back("tokenizer_config.json", config_json(*tokenizer, vocabulary.entries,
                                                                   "LlamaTokenizer", max_tokens));
    return result;
  }
  const BpeVocabulary vocabulary = read_gguf_bpe(metadata);
  Json pieces = pre_tokenizer(vocabulary);
  if (pieces.is_null()) {
    result.missing = "tokenizer.json has no word for how \"" + vocabulary.pre_tokenizer +
                     "\" cuts a text into words";
    return result;
  }
  result.files.emplace_back("tokenizer.json",
                            dump(tokenizer_json(*tokenizer, vocabulary, std::move(pieces))));
  result.files.emplace_back(
      "tokenizer_config.json",
      config_json(*tokenizer, vocabulary.entries, "PreTrainedTokenizerFast", max_tokens));
  return result;
}

}  // namespace tenfold
