#include "runtime/tokenizer/json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sentencepiece_processor.h>

#include <map>
#include <nlohmann/json.hpp>

#include "kernels/error.h"
#include "runtime/files/json_file.h"
#include "tests/support/tokenizer_cases.h"

namespace tenfold {
namespace {

using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;

const json kByteLevel = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}};
const json kByteLevelNoRegex = {
    {"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}};
const json kDigits = {{"type", "Digits"}, {"individual_digits", true}};
const json kLlamaSplit = {
    {"type", "Split"},
    {"pattern",
     {{"Regex",
       R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"}}},
    {"behavior", "Isolated"},
    {"invert", false}};

json sequence(std::vector<json> parts) {
  return {{"type", "Sequence"}, {"pretokenizers", std::move(parts)}};
}

json tiny_json(json pre_tokenizer, bool pairs) {
  const BpeVocabulary tiny = tiny_bpe();
  json vocab = json::object(), merges = json::array(), added = json::array();
  for (std::size_t id = 0; id < tiny.entries.texts.size(); ++id) {
    vocab[tiny.entries.texts[id]] = id;
    if (id < 4) {
      added.push_back({{"id", id}, {"content", tiny.entries.texts[id]}, {"special", true}});
    }
  }
  for (const std::string_view merge : tiny.merges) {
    const auto [left, right] = split_merge(merge, "tiny");
    merges.push_back(pairs ? json::array({left, right}) : json(merge));
  }
  return {{"added_tokens", added},
          {"normalizer", nullptr},
          {"pre_tokenizer", std::move(pre_tokenizer)},
          {"post_processor", nullptr},
          {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", merges}}}};
}

// A tokenizer.json as Hugging Face's converter makes it from a SentencePiece model: the merges are
// all pairs of pieces that join into a piece, by descending score.
json json_from_sentencepiece(const std::filesystem::path& path) {
  sentencepiece::SentencePieceProcessor library;
  EXPECT_TRUE(library.Load(path.string()).ok());
  json vocab = json::object(), added = json::array();
  std::multimap<float, std::pair<std::string, std::string>, std::greater<>> merges;
  for (int id = 0; id < library.GetPieceSize(); ++id) {
    const std::string& piece = library.IdToPiece(id);
    vocab[piece] = id;
    if (library.IsControl(id) || library.IsUnknown(id)) {
      added.push_back({{"id", id}, {"content", piece}, {"special", true}});
      continue;
    }
    for (std::size_t cut = 1; cut < piece.size() && !library.IsByte(id); ++cut) {
      const std::string left = piece.substr(0, cut), right = piece.substr(cut);
      const bool known = !library.IsUnknown(library.PieceToId(left)) &&
                         !library.IsUnknown(library.PieceToId(right));
      if (known) merges.emplace(library.GetScore(id), std::pair(left, right));
    }
  }
  json list = json::array();
  for (const auto& [score, pair] : merges) list.push_back(pair.first + " " + pair.second);
  const json prepend = {{"type", "Prepend"}, {"prepend", "\u2581"}};
  const json replace = {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", "\u2581"}};
  return {{"added_tokens", added},
          {"normalizer", {{"type", "Sequence"}, {"normalizers", {prepend, replace}}}},
          {"pre_tokenizer", nullptr},
          {"model",
           {{"type", "BPE"},
            {"unk_token", "<unk>"},
            {"byte_fallback", true},
            {"vocab", vocab},
            {"merges", list}}}};
}

std::unique_ptr<Tokenizer> load(const json& root) {
  return make_tokenizer(read_tokenizer_json(root, "tokenizer.json"), "tokenizer.json");
}

void expect_refused(const json& root, ErrorCode code, const std::string& what) {
  try {
    load(root);
    ADD_FAILURE() << "accepted: " << what;
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    EXPECT_THAT(error.what(), HasSubstr(what));
    EXPECT_THAT(error.what(), HasSubstr("tokenizer.json"));
  }
}

TEST(TokenizerJson, RecognisesPreTokenizersByContent) {
  const std::pair<const char*, json> known[] = {
      {"gpt-2", kByteLevel},
      {"gpt-2", sequence({kByteLevel})},
      {"smollm", sequence({kDigits, kByteLevel})},
      {"llama-bpe", sequence({kLlamaSplit, kByteLevelNoRegex})},
  };
  for (const auto& [name, pre_tokenizer] : known) {
    for (const bool pairs : {false, true}) {
      const auto tokenizer = load(tiny_json(pre_tokenizer, pairs));
      EXPECT_EQ(tokenizer->kind, "byte-level BPE (" + std::string(name) + ")");
      for (const auto& tiny :
           read_tokenizer_cases(tokenizer_data() / "tiny-bpe/cases.json", name)) {
        EXPECT_EQ(tokenizer->encode(tiny.text, {}), tiny.ids) << name << ": " << tiny.text;
      }
    }
  }
  EXPECT_EQ(load(tiny_json(kByteLevelNoRegex, true))->kind, "byte-level BPE (none)");
}

TEST(TokenizerJson, RefusesUnknownPreTokenizersByName) {
  const auto refused = [](const json& pre_tokenizer, const std::string& what) {
    expect_refused(tiny_json(pre_tokenizer, true), ErrorCode::unsupported, what);
  };
  refused(nullptr, "(none)");
  refused({{"type", "BertPreTokenizer"}}, "BertPreTokenizer");
  refused(sequence({kDigits, kDigits, kByteLevel}), "Digits + Digits + ByteLevel");
  refused(sequence({{{"type", "Punctuation"}}, kByteLevel}), "Punctuation + ByteLevel");
  refused(sequence({kDigits, kByteLevelNoRegex}), "Digits + ByteLevel");
  json other_regex = kLlamaSplit;
  other_regex["pattern"]["Regex"] = "\\w+";
  refused(sequence({other_regex, kByteLevelNoRegex}), "\\w+");
  json removed = kLlamaSplit;
  removed["behavior"] = "Removed";
  refused(sequence({removed, kByteLevelNoRegex}), "Isolated");
  json prefix = kByteLevel;
  prefix["add_prefix_space"] = true;
  refused(sequence({kDigits, prefix}), "add_prefix_space");
}

TEST(TokenizerJson, RefusesOtherModelsAndNormalizersByName) {
  json root = tiny_json(kByteLevel, true);
  root["model"]["type"] = "WordPiece";
  expect_refused(root, ErrorCode::unsupported, "WordPiece");
  root = tiny_json(kByteLevel, true);
  root["model"]["end_of_word_suffix"] = "</w>";
  expect_refused(root, ErrorCode::unsupported, "end_of_word_suffix");
  root = tiny_json(kByteLevel, true);
  root["normalizer"] = {{"type", "NFC"}};
  expect_refused(root, ErrorCode::unsupported, "NFC");
}

TEST(TokenizerJson, RefusesMalformedParts) {
  const auto refused = [](const char* pointer, const json& value, const std::string& what) {
    json root = tiny_json(kByteLevel, true);
    root[json::json_pointer(pointer)] = value;
    expect_refused(root, ErrorCode::bad_file, what);
  };
  refused("/model", 5, "not an object");
  refused("/model/vocab", json::array(), "vocabulary");
  refused("/model/vocab/zz", -1, "id");
  refused("/model/vocab/zz", 1.5, "id");
  refused("/model/vocab/zz", 5, "share id 5");
  refused("/model/vocab/zz", 2000000000, "far outside");
  refused("/model/merges", 5, "merges");
  refused("/model/merges/0", json::array({"a"}), "merge 0");
  refused("/model/merges/0", "ab", "two tokens");
  refused("/model/merges/0", "q zz", "not in the vocabulary");
  refused("/added_tokens", 5, "added_tokens");
  refused("/added_tokens/0", "<s>", "added token");
  refused("/added_tokens/0/id", 1 << 30, "far outside");
  expect_refused(json::array(), ErrorCode::bad_file, "not an object");
}

TEST(TokenizerJson, AddedTokensBeyondTheVocabulary) {
  json root = tiny_json(kByteLevel, true);
  const auto next = static_cast<TokenId>(root["model"]["vocab"].size());
  root["added_tokens"].push_back({{"id", next}, {"content", "<|im_end|>"}, {"special", true}});
  root["added_tokens"].push_back({{"id", next + 1}, {"content", "<tool>"}, {"special", false}});
  const auto tokenizer = load(root);
  EXPECT_EQ(tokenizer->vocab_size, next + 2);
  EXPECT_THAT(tokenizer->encode("<tool><|im_end|>", {}), ElementsAre(next + 1, next));
  EXPECT_EQ(tokenizer->piece(next), "");
  EXPECT_EQ(tokenizer->piece(next + 1), "<tool>");
}

TEST(TokenizerJson, ReadsWhatThePostProcessorPutsFirst) {
  json root = tiny_json(kByteLevel, true);
  const json bos = {{"SpecialToken", {{"id", "<s>"}, {"type_id", 0}}}};
  const json text = {{"Sequence", {{"id", "A"}, {"type_id", 0}}}};
  const json wraps = {{"type", "TemplateProcessing"}, {"single", {bos, text}}};
  root["post_processor"] = wraps;
  EXPECT_EQ(read_tokenizer_json(root, "tokenizer.json").first_special, "<s>");
  root["post_processor"] = {{"type", "Sequence"}, {"processors", {kByteLevel, wraps}}};
  EXPECT_EQ(read_tokenizer_json(root, "tokenizer.json").first_special, "<s>");
  root["post_processor"] = kByteLevel;
  EXPECT_EQ(read_tokenizer_json(root, "tokenizer.json").first_special, "");
}

TEST(TokenizerJson, SentencePieceStyleEqualsTheModelItWasMadeFrom) {
  const auto path = tokenizer_data() / "tiny-sentencepiece-bpe.model";
  const auto tokenizer = load(json_from_sentencepiece(path));
  const auto original = load_sentencepiece(path);
  EXPECT_EQ(tokenizer->kind, "sentencepiece");
  for (const char* text :
       {"The other foxes", "  two  spaces ", "caf\u00E9 \u65E5 12\n", "<s>a</s>"}) {
    EXPECT_EQ(tokenizer->encode(text, {}), original->encode(text, {})) << text;
  }
}

TEST(TokenizerJson, SentencePieceStyleMatchesTheLlama2Goldens) {
  const auto path = shared_tokenizers() / "llama2" / "tokenizer.model";
  if (!std::filesystem::exists(path)) {
    GTEST_SKIP() << "NOT TESTED: " << path << " is not beside this checkout";
  }
  const auto tokenizer = load(json_from_sentencepiece(path));
  for (const auto& golden :
       read_tokenizer_cases(shared_tokenizers() / "llama2-sentencepiece.json")) {
    EXPECT_EQ(tokenizer->encode(golden.text, {}), golden.ids) << golden.text;
  }
}

TEST(TokenizerJson, MetaspaceSchemes) {
  const auto path = tokenizer_data() / "tiny-sentencepiece-bpe.model";
  json root = json_from_sentencepiece(path);
  root["normalizer"] = nullptr;
  const auto metaspace = [&](const char* scheme, bool split) {
    root["pre_tokenizer"] = {{"type", "Metaspace"},
                             {"replacement", "\u2581"},
                             {"prepend_scheme", scheme},
                             {"split", split}};
    std::string shown;
    const auto tokenizer = load(root);
    for (const TokenId id : tokenizer->encode("a</s>b", {})) shown += tokenizer->piece(id, true);
    return shown;
  };
  EXPECT_EQ(metaspace("always", false), " a</s> b");
  EXPECT_EQ(metaspace("first", false), " a</s>b");
  EXPECT_EQ(metaspace("never", false), "a</s>b");
  EXPECT_THROW(metaspace("always", true), Error);
  EXPECT_THROW(metaspace("sometimes", false), Error);
}

}  // namespace
}  // namespace tenfold
