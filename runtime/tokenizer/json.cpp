#include "runtime/tokenizer/json.h"

#include <limits>
#include <nlohmann/json.hpp>
#include <unordered_map>

#include "kernels/error.h"
#include "runtime/files/json_file.h"
#include "runtime/files/quote.h"
#include "runtime/tokenizer/pre_tokenizer.h"
#include "runtime/tokenizer/sentencepiece_proto.h"
#include "runtime/utf8.h"

namespace tenfold {
namespace {

using nlohmann::json;

constexpr std::string_view kSpaceSymbol = "\xE2\x96\x81";  // U+2581

// null where absent, so that the two read the same.
const json& member(const json& object, const char* key) {
  static const json kNull;
  if (!object.is_object()) return kNull;
  const auto found = object.find(key);
  return found == object.end() ? kNull : *found;
}

std::string type_of(const json& part, std::string_view name) {
  if (!part.is_object()) throw_file_error(name, "a tokenizer part is not an object");
  return json_string_or(part, "type", "", name);
}

[[noreturn]] void refuse(std::string_view name, std::string_view what, const std::string& found) {
  throw_error(ErrorCode::unsupported, "{}: {} {} is not supported", name, what, quote(found));
}

// A part, or the parts of a Sequence; null is an empty list.
std::vector<json> flatten(const json& part, const char* list_key, std::string_view name) {
  if (part.is_null()) return {};
  if (type_of(part, name) != "Sequence") return {part};
  const json& list = member(part, list_key);
  if (!list.is_array()) throw_file_error(name, "a Sequence lacks its list {}", quote(list_key));
  return {list.begin(), list.end()};
}

TokenId read_id(const json& value, std::string_view token, std::string_view name) {
  if (!value.is_number_integer() || value < 0 || value > std::numeric_limits<TokenId>::max()) {
    throw_file_error(name, "the id of token {} is not a token id", quote(token));
  }
  return value.get<TokenId>();
}

StringArray read_merges(const json& merges, std::string_view name) {
  if (!merges.is_array()) throw_file_error(name, "model.merges is not an array");
  StringArray out;
  for (const json& merge : merges) {
    if (merge.is_string()) {
      out.push_back(merge.get_ref<const std::string&>());
    } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() &&
               merge[1].is_string()) {
      out.push_back(merge[0].get<std::string>() + ' ' + merge[1].get<std::string>());
    } else {
      throw_file_error(name, "merge {} is neither \"a b\" nor [\"a\", \"b\"]", out.size());
    }
  }
  return out;
}

// The pre-tokenizer of a byte-level vocabulary.
void read_byte_level(const json& pre_tokenizer, BpeVocabulary& vocabulary, std::string_view name) {
  const std::vector<json> parts = flatten(pre_tokenizer, "pretokenizers", name);
  std::string types;
  for (const json& part : parts) types += (types.empty() ? "" : " + ") + type_of(part, name);
  if (parts.empty() || parts.size() > 2 || type_of(parts.back(), name) != "ByteLevel") {
    refuse(name, "pre-tokenizer", types);
  }
  const bool use_regex = json_bool_or(parts.back(), "use_regex", true, name);
  vocabulary.add_prefix_space = json_bool_or(parts.back(), "add_prefix_space", false, name);
  if (parts.size() == 1) {
    vocabulary.pre_tokenizer = use_regex ? "gpt-2" : "none";
    return;
  }
  if (vocabulary.add_prefix_space) refuse(name, "pre-tokenizer", types + " with add_prefix_space");
  if (type_of(parts[0], name) == "Digits" && use_regex &&
      json_bool_or(parts[0], "individual_digits", false, name)) {
    vocabulary.pre_tokenizer = "smollm";
    return;
  }
  if (type_of(parts[0], name) != "Split" || use_regex) refuse(name, "pre-tokenizer", types);
  const std::string regex = json_string_or(member(parts[0], "pattern"), "Regex", "", name);
  vocabulary.pre_tokenizer = pre_tokenizer_for_regex(regex);
  if (vocabulary.pre_tokenizer.empty()) refuse(name, "pre-tokenizer regex", regex);
  if (json_string_or(parts[0], "behavior", "", name) != "Isolated" ||
      json_bool_or(parts[0], "invert", false, name)) {
    refuse(name, "pre-tokenizer", "Split that is not Isolated");
  }
}

// Metaspace, or Prepend and Replace normalizers. nullopt: neither, so not SentencePiece-style.
std::optional<SpacePrefix> read_space_prefix(const json& root, std::string_view name) {
  std::optional<SpacePrefix> found;
  for (const json& part : flatten(member(root, "normalizer"), "normalizers", name)) {
    const std::string type = type_of(part, name);
    if (type == "Prepend" && json_string_or(part, "prepend", "", name) == kSpaceSymbol) {
      found = SpacePrefix::always;
    } else if (type == "Replace" && member(member(part, "pattern"), "String") == " " &&
               json_string_or(part, "content", "", name) == kSpaceSymbol) {
      found = found.value_or(SpacePrefix::none);
    } else {
      refuse(name, "normalizer", type);
    }
  }
  for (const json& part : flatten(member(root, "pre_tokenizer"), "pretokenizers", name)) {
    if (type_of(part, name) != "Metaspace") {
      if (!found) return std::nullopt;
      refuse(name, "pre-tokenizer", type_of(part, name));
    }
    const std::string scheme = json_string_or(part, "prepend_scheme", "", name);
    if (json_bool_or(part, "split", true, name) ||
        json_string_or(part, "replacement", "", name) != kSpaceSymbol) {
      refuse(name, "pre-tokenizer", "Metaspace with split");
    }
    if (scheme != "always" && scheme != "first" && scheme != "never") {
      refuse(name, "Metaspace prepend_scheme", scheme);
    }
    found = scheme == "always"  ? SpacePrefix::always
            : scheme == "first" ? SpacePrefix::first
                                : SpacePrefix::none;
  }
  return found;
}

// SentencePiece joins the pair whose result scores best, Hugging Face the pair of best rank, and
// its ranks come from those scores: minus the rank is a score that orders the merges alike.
SentencePieceVocabulary make_sentencepiece(Entries entries, const StringArray& merges,
                                           const std::string& unknown, std::string_view name) {
  SentencePieceVocabulary vocabulary;
  vocabulary.scores.assign(entries.texts.size(), 0);
  std::unordered_map<std::string_view, std::size_t> by_text;
  for (std::size_t i = 0; i < entries.texts.size(); ++i) by_text.emplace(entries.texts[i], i);

  std::vector<bool> reachable(entries.texts.size(), false);
  for (std::size_t rank = 0; rank < merges.size(); ++rank) {
    const auto [left, right] = split_merge(merges[rank], name);
    const auto merged = by_text.find(std::string(left).append(right));
    if (merged == by_text.end()) {
      throw_file_error(name, "the result of merge {} is not in the vocabulary",
                       quote(merges[rank]));
    }
    if (reachable[merged->second]) continue;
    reachable[merged->second] = true;
    vocabulary.scores[merged->second] = -static_cast<float>(rank + 1);
  }
  for (std::size_t i = 0; i < entries.texts.size(); ++i) {
    const std::string& text = entries.texts[i];
    if (text.empty()) continue;
    if (text == unknown) {
      entries.kinds[i] = TokenKind::unknown;
    } else if (byte_of_piece(text) >= 0) {
      entries.kinds[i] = TokenKind::byte;
    } else if (!reachable[i] && decode_utf8(text, 0).length < text.size()) {
      entries.kinds[i] = TokenKind::control;  // no merge makes it, so no text may
    }
  }
  vocabulary.entries = std::move(entries);
  return vocabulary;
}

// "<s> $A": the first thing in the template that a text is wrapped in.
std::string read_first_special(const json& post_processor, std::string_view name) {
  for (const json& part : flatten(post_processor, "processors", name)) {
    if (type_of(part, name) != "TemplateProcessing") continue;
    const json& single = member(part, "single");
    if (!single.is_array() || single.empty()) continue;
    const json& id = member(member(single[0], "SpecialToken"), "id");
    if (id.is_string()) return id.get<std::string>();
  }
  return "";
}

void check_model(const json& model, std::string_view name) {
  const std::string type = type_of(model, name);
  // Files from before "type" was written are BPE if they have merges.
  if (type != "BPE" && !(type.empty() && model.contains("merges"))) refuse(name, "model", type);
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (!json_string_or(model, key, "", name).empty()) refuse(name, "BPE option", key);
  }
}

BpeVocabulary make_byte_level(const json& root, Entries entries, StringArray merges,
                              std::string_view name) {
  if (!flatten(member(root, "normalizer"), "normalizers", name).empty()) {
    refuse(name, "normalizer", type_of(member(root, "normalizer"), name));
  }
  BpeVocabulary vocabulary;
  vocabulary.entries = std::move(entries);
  vocabulary.merges = std::move(merges);
  vocabulary.ignore_merges = json_bool_or(member(root, "model"), "ignore_merges", false, name);
  read_byte_level(member(root, "pre_tokenizer"), vocabulary, name);
  return vocabulary;
}

}  // namespace

Entries read_vocab_object(const json& vocab, std::string_view name) {
  if (!vocab.is_object()) throw_file_error(name, "the vocabulary is not an object");
  if (vocab.size() > kMaxVocabulary) {
    throw_error(ErrorCode::unsupported, "{}: more than {} tokens", name, kMaxVocabulary);
  }
  Entries entries;
  entries.texts.resize(vocab.size());
  entries.kinds.resize(vocab.size(), TokenKind::unused);
  for (const auto& [text, value] : vocab.items()) {
    const TokenId id = read_id(value, text, name);
    const auto index = static_cast<std::size_t>(id);
    if (index < entries.kinds.size() && entries.kinds[index] != TokenKind::unused) {
      throw_file_error(name, "tokens {} and {} share id {}", quote(entries.texts[index]),
                       quote(text), id);
    }
    entries.set(id, text, TokenKind::normal, name);
  }
  return entries;
}

std::vector<AddedToken> read_added_tokens(const json& root, std::string_view name) {
  std::vector<AddedToken> tokens;
  const json& list = member(root, "added_tokens");
  if (list.is_null()) return tokens;
  if (!list.is_array()) throw_file_error(name, "added_tokens is not an array");
  for (const json& entry : list) {
    if (!entry.is_object()) throw_file_error(name, "an added token is not an object");
    AddedToken token;
    token.text = json_string_or(entry, "content", "", name);
    token.id = read_id(member(entry, "id"), token.text, name);
    token.special = json_bool_or(entry, "special", false, name);
    tokens.push_back(std::move(token));
  }
  return tokens;
}

TokenizerJson read_tokenizer_json(const json& root, std::string_view name) {
  if (!root.is_object()) throw_file_error(name, "the tokenizer is not an object");
  const json& model = member(root, "model");
  check_model(model, name);
  Entries entries = read_vocab_object(member(model, "vocab"), name);
  StringArray merges = read_merges(member(model, "merges"), name);

  TokenizerJson out;
  out.added = read_added_tokens(root, name);
  out.first_special = read_first_special(member(root, "post_processor"), name);
  const bool byte_level = [&] {
    const auto parts = flatten(member(root, "pre_tokenizer"), "pretokenizers", name);
    return !parts.empty() && type_of(parts.back(), name) == "ByteLevel";
  }();
  if (byte_level) {
    auto& vocabulary = out.vocabulary.emplace<BpeVocabulary>(
        make_byte_level(root, std::move(entries), std::move(merges), name));
    for (const AddedToken& token : out.added) vocabulary.entries.add(token, name);
    return out;
  }
  const auto prefix = read_space_prefix(root, name);
  if (!prefix) {
    const auto parts = flatten(member(root, "pre_tokenizer"), "pretokenizers", name);
    refuse(name, "pre-tokenizer", parts.empty() ? "(none)" : type_of(parts.back(), name));
  }
  const std::string unknown = json_string_or(model, "unk_token", "", name);
  auto& vocabulary = out.vocabulary.emplace<SentencePieceVocabulary>(
      make_sentencepiece(std::move(entries), merges, unknown, name));
  vocabulary.space_prefix = *prefix;
  for (const AddedToken& token : out.added) {
    if (token.text != unknown) vocabulary.entries.add(token, name);
  }
  return out;
}

std::unique_ptr<Tokenizer> make_tokenizer(TokenizerJson json, std::string_view path) {
  if (auto* bpe = std::get_if<BpeVocabulary>(&json.vocabulary)) {
    return make_bpe_tokenizer(std::move(*bpe), path);
  }
  return make_sentencepiece_tokenizer(std::move(std::get<SentencePieceVocabulary>(json.vocabulary)),
                                      path);
}

}  // namespace tenfold
