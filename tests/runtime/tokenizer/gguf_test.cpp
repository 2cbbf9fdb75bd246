#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sentencepiece_processor.h>

#include "kernels/error.h"
#include "runtime/tokenizer/files.h"
#include "runtime/tokenizer/hf_output.h"
#include "tests/support/scratch_folder.h"
#include "tests/support/tokenizer_cases.h"

namespace tenfold {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
namespace fs = std::filesystem;

// The vocabulary of a tokenizer.model as llama.cpp's converter stores it.
GgufMetadata llama_metadata(const fs::path& model) {
  sentencepiece::SentencePieceProcessor library;
  EXPECT_TRUE(library.Load(model.string()).ok());
  std::vector<std::string> tokens;
  std::vector<float> scores;
  std::vector<std::int32_t> types;
  for (int id = 0; id < library.GetPieceSize(); ++id) {
    tokens.push_back(library.IdToPiece(id));
    scores.push_back(library.GetScore(id));
    types.push_back(library.IsUnknown(id)   ? 2
                    : library.IsControl(id) ? 3
                    : library.IsUnused(id)  ? 5
                    : library.IsByte(id)    ? 6
                                            : 1);
    if (tokens.back() == "<sep>") types.back() = 4;
  }
  GgufMetadata metadata;
  metadata.path = "model.gguf";
  metadata.set("general.architecture", std::string("llama"));
  metadata.set("tokenizer.ggml.model", std::string("llama"));
  metadata.set("tokenizer.ggml.tokens", tokens);
  metadata.set("tokenizer.ggml.scores", scores);
  metadata.set("tokenizer.ggml.token_type", types);
  metadata.set("tokenizer.ggml.bos_token_id", std::uint32_t{1});
  metadata.set("tokenizer.ggml.eos_token_id", std::uint32_t{2});
  return metadata;
}

// Through a file, as a user's GGUF comes.
std::unique_ptr<Tokenizer> load_written(GgufMetadata metadata) {
  const fs::path path = fresh_folder() / "vocabulary.gguf";
  GgufWriter(path, false, std::move(metadata), {}).finish();
  const GgufFile file(path);
  return load_gguf_tokenizer(file.metadata());
}

GgufMetadata gpt2_metadata(const char* pre) {
  const BpeVocabulary tiny = tiny_bpe();
  GgufMetadata metadata;
  metadata.path = "model.gguf";
  metadata.set("general.architecture", std::string("llama"));
  metadata.set("tokenizer.ggml.model", std::string("gpt2"));
  if (pre != nullptr) metadata.set("tokenizer.ggml.pre", std::string(pre));
  metadata.set("tokenizer.ggml.tokens", tiny.entries.texts);
  std::vector<std::int32_t> types;
  for (const TokenKind kind : tiny.entries.kinds) types.push_back(static_cast<std::int32_t>(kind));
  metadata.set("tokenizer.ggml.token_type", types);
  metadata.set("tokenizer.ggml.merges", tiny.merges);
  metadata.set("tokenizer.ggml.bos_token_id", std::uint32_t{0});
  metadata.set("tokenizer.ggml.eos_token_id", std::uint32_t{2});
  return metadata;
}

void expect_refused(const GgufMetadata& metadata, ErrorCode code, const char* what) {
  try {
    load_gguf_tokenizer(metadata);
    ADD_FAILURE() << "accepted: " << what;
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    EXPECT_THAT(error.what(), HasSubstr(what));
    EXPECT_THAT(error.what(), HasSubstr("model.gguf"));
  }
}

TEST(TokenizerGguf, EmbeddedSentencePieceEqualsTokenizerModel) {
  const fs::path model = shared_tokenizers() / "llama2" / "tokenizer.model";
  if (!fs::exists(model)) GTEST_SKIP() << "NOT TESTED: " << model << " is not beside this checkout";
  const auto embedded = load_written(llama_metadata(model));
  const auto original = load_sentencepiece(model);
  for (const auto& golden :
       read_tokenizer_cases(shared_tokenizers() / "llama2-sentencepiece.json")) {
    const auto ids = embedded->encode(golden.text, {});
    EXPECT_EQ(ids, golden.ids) << golden.text;
    EXPECT_EQ(ids, original->encode(golden.text, {}));
    EXPECT_EQ(embedded->decode(ids), golden.text);
  }
  EXPECT_EQ(embedded->vocab_size, original->vocab_size);
  EXPECT_EQ(embedded->bos, original->bos);
  EXPECT_EQ(embedded->eos, original->eos);
  EXPECT_EQ(embedded->unk, original->unk);
  EXPECT_TRUE(embedded->adds_bos);
}

TEST(TokenizerGguf, EmbeddedTinySentencePieceEqualsItsModel) {
  const fs::path model = tokenizer_data() / "tiny-sentencepiece-bpe.model";
  const auto embedded = load_written(llama_metadata(model));
  const auto original = load_sentencepiece(model);
  for (const char* text : {"The other foxes", "a<sep>b", "  12 caf\u00E9\n", "<s>x</s>y", "\xFF"}) {
    EXPECT_EQ(embedded->encode(text, {}), original->encode(text, {})) << text;
  }
}

TEST(TokenizerGguf, KindsAreInferredWithoutTokenTypes) {
  GgufMetadata metadata = llama_metadata(tokenizer_data() / "tiny-sentencepiece-bpe.model");
  std::erase_if(metadata.entries,
                [](const auto& entry) { return entry.first == "tokenizer.ggml.token_type"; });
  const auto tokenizer = load_gguf_tokenizer(metadata);
  EXPECT_THAT(tokenizer->encode("<s>", {}), ElementsAre(1));
  EXPECT_EQ(tokenizer->decode(tokenizer->encode("fox \U0001F642", {})), "fox \U0001F642");
}

TEST(TokenizerGguf, AddSpacePrefixOff) {
  GgufMetadata metadata = llama_metadata(tokenizer_data() / "tiny-sentencepiece-bpe.model");
  metadata.set("tokenizer.ggml.add_space_prefix", false);
  const auto tokenizer = load_gguf_tokenizer(metadata);
  EXPECT_FALSE(tokenizer->adds_space_prefix);
  const auto ids = tokenizer->encode(" fox", {});
  EXPECT_EQ(tokenizer->decode(ids), " fox");
  EXPECT_NE(ids, tokenizer->encode("fox", {}));
}

// tokenizer.model as other programs read it: it says itself that a space comes first.
TEST(TokenizerGguf, ExportedSentencePieceEqualsItsModel) {
  const fs::path model = tokenizer_data() / "tiny-sentencepiece-bpe.model";
  const auto original = load_sentencepiece(model);
  const HuggingFaceTokenizer files = hugging_face_tokenizer(llama_metadata(model), 128);
  const testing::ScratchFolder folder;
  for (const auto& [name, text] : files.files) folder.write(name, text);
  const auto exported = load_sentencepiece(folder / "tokenizer.model");
  EXPECT_TRUE(exported->adds_space_prefix);
  for (const char* text : {"The other foxes", "a<sep>b", "  12 caf\u00E9\n", "<s>x</s>y", "\xFF"}) {
    EXPECT_EQ(exported->encode(text, {}), original->encode(text, {})) << text;
  }
  EXPECT_NE(testing::read_file(folder / "tokenizer_config.json").find("LlamaTokenizer"),
            std::string::npos);
}

TEST(TokenizerGguf, ExportedBytePairsEqualTheirVocabulary) {
  for (const char* pre : {"gpt-2", "llama-bpe", "smollm"}) {
    const GgufMetadata metadata = gpt2_metadata(pre);
    const HuggingFaceTokenizer files = hugging_face_tokenizer(metadata, 128);
    const testing::ScratchFolder folder;
    for (const auto& [name, text] : files.files) folder.write(name, text);
    folder.write("config.json", R"({"model_type": "llama"})");
    const auto exported = load_tokenizer(ModelSource(folder.path(), false));
    ASSERT_NE(exported, nullptr);
    const auto original = load_gguf_tokenizer(metadata);
    EXPECT_EQ(exported->kind, original->kind);
    EXPECT_EQ(exported->bos, original->bos);
    EXPECT_EQ(exported->eos, original->eos);
    for (const auto& tiny : read_tokenizer_cases(tokenizer_data() / "tiny-bpe/cases.json", pre)) {
      EXPECT_EQ(exported->encode(tiny.text, {}), tiny.ids) << pre << ": " << tiny.text;
    }
  }
  EXPECT_NE(hugging_face_tokenizer(gpt2_metadata("default"), 128).missing, "");
}

TEST(TokenizerGguf, EachPreTokenizer) {
  const std::pair<const char*, const char*> known[] = {{"gpt-2", "gpt-2"},
                                                       {"llama-bpe", "llama-bpe"},
                                                       {"llama-v3", "llama-bpe"},
                                                       {"llama3", "llama-bpe"},
                                                       {"smollm", "smollm"}};
  for (const auto& [pre, name] : known) {
    const auto tokenizer = load_written(gpt2_metadata(pre));
    for (const auto& tiny : read_tokenizer_cases(tokenizer_data() / "tiny-bpe/cases.json", name)) {
      EXPECT_EQ(tokenizer->encode(tiny.text, {}), tiny.ids) << pre << ": " << tiny.text;
    }
    EXPECT_EQ(tokenizer->adds_bos, std::string_view(name) == "llama-bpe") << pre;
    EXPECT_EQ(tokenizer->bos, 0);
    EXPECT_THAT(tokenizer->end_of_generation, ElementsAre(2));
  }
  EXPECT_EQ(load_gguf_tokenizer(gpt2_metadata(nullptr))->kind, "byte-level BPE (default)");
  expect_refused(gpt2_metadata("viking"), ErrorCode::unsupported, "viking");
}

TEST(TokenizerGguf, AddBosTokenIsObeyed) {
  GgufMetadata metadata = gpt2_metadata("gpt-2");
  metadata.set("tokenizer.ggml.add_bos_token", true);
  EXPECT_TRUE(load_gguf_tokenizer(metadata)->adds_bos);
  metadata = gpt2_metadata("llama-bpe");
  metadata.set("tokenizer.ggml.add_bos_token", false);
  EXPECT_FALSE(load_gguf_tokenizer(metadata)->adds_bos);
}

TEST(TokenizerGguf, EndOfTurnTokens) {
  GgufMetadata metadata = gpt2_metadata("gpt-2");
  std::vector<std::string> tokens = tiny_bpe().entries.texts;
  std::vector<std::int32_t> types(tokens.size(), 1);
  const auto size = static_cast<std::int32_t>(tokens.size());
  for (const char* text : {"<|im_end|>", "<|eot_id|>", "<|end|>", "<|other|>"}) {
    tokens.push_back(text);
    types.push_back(std::string_view(text) == "<|end|>" ? 4 : 3);
  }
  metadata.set("tokenizer.ggml.tokens", tokens);
  metadata.set("tokenizer.ggml.token_type", types);
  metadata.set("tokenizer.ggml.eot_token_id", static_cast<std::uint32_t>(size + 3));
  // "</s>" (2) is eos though its type is normal; "<|end|>" is not a control token.
  EXPECT_THAT(load_gguf_tokenizer(metadata)->end_of_generation,
              ElementsAre(2, size, size + 1, size + 3));
}

TEST(TokenizerGguf, DuplicateTokensAndBrokenBytesAreTolerated) {
  GgufMetadata metadata = llama_metadata(tokenizer_data() / "tiny-sentencepiece-bpe.model");
  const auto* strings = metadata.get_strings("tokenizer.ggml.tokens");
  std::vector<std::string> tokens;
  for (const std::string_view text : *strings) tokens.emplace_back(text);
  for (std::string& token : tokens) {
    if (token == "<0x0A>") token = "<0x-1>";
    if (token == "<0x0B>") token = "<0xZZ>";
  }
  tokens.back() = tokens[tokens.size() - 2];
  metadata.set("tokenizer.ggml.tokens", tokens);
  const auto tokenizer = load_gguf_tokenizer(metadata);
  EXPECT_EQ(tokenizer->decode(tokenizer->encode("the fox", {})), "the fox");
  EXPECT_THAT(tokenizer->encode("\n", {}), ::testing::Contains(0));  // no full set of bytes: unk
}

TEST(TokenizerGguf, RefusesInconsistentMetadata) {
  const fs::path model = tokenizer_data() / "tiny-sentencepiece-bpe.model";
  const auto refused = [](GgufMetadata metadata, const char* key, GgufValue value,
                          const char* what) {
    metadata.set(key, std::move(value));
    expect_refused(metadata, ErrorCode::bad_file, what);
  };
  for (const GgufMetadata& good : {llama_metadata(model), gpt2_metadata("gpt-2")}) {
    refused(good, "tokenizer.ggml.tokens", StringArray(), "tokens");
    refused(good, "tokenizer.ggml.tokens", std::string("x"), "tokens");
    refused(good, "tokenizer.ggml.token_type", std::vector<std::int32_t>{1}, "token_type");
    refused(good, "tokenizer.ggml.bos_token_id", std::uint32_t{4000}, "bos_token_id");
    refused(good, "tokenizer.ggml.eos_token_id", std::int32_t{-1}, "eos_token_id");
    refused(good, "tokenizer.ggml.padding_token_id", 0xFFFFFFFFu, "padding_token_id");
    GgufMetadata bad = good;
    bad.set("tokenizer.ggml.model", std::string("rwkv"));
    expect_refused(bad, ErrorCode::unsupported, "rwkv");
  }
  refused(llama_metadata(model), "tokenizer.ggml.scores", std::vector<float>{1}, "scores");
  refused(llama_metadata(model), "tokenizer.ggml.token_type", std::vector<std::int32_t>(420, 7),
          "token_type");
  const std::vector<std::string> merges = {"q zz"};
  refused(gpt2_metadata("gpt-2"), "tokenizer.ggml.merges", StringArray(merges), "zz");
}

TEST(TokenizerGguf, NoTokenizer) {
  GgufMetadata metadata;
  EXPECT_EQ(load_gguf_tokenizer(metadata), nullptr);
  metadata.set("tokenizer.ggml.model", std::string("no_vocab"));
  EXPECT_EQ(load_gguf_tokenizer(metadata), nullptr);
}

}  // namespace
}  // namespace tenfold
