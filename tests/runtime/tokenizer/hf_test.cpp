#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "kernels/error.h"
#include "runtime/tokenizer/files.h"
#include "tests/support/tokenizer_cases.h"

namespace tenfold {
namespace {

using nlohmann::json;
using testing::Contains;
using testing::ElementsAre;
namespace fs = std::filesystem;

fs::path tiny_folder() {
  fs::path folder = fresh_folder();
  for (const char* name : {"vocab.json", "merges.txt"}) {
    fs::copy_file(tokenizer_data() / "tiny-bpe" / name, folder / name);
  }
  return folder;
}

const json kOptConfig = {
    {"model_type", "opt"}, {"bos_token_id", 2}, {"eos_token_id", 2}, {"pad_token_id", 1}};

TEST(TokenizerHf, NoTokenizerFiles) {
  EXPECT_EQ(load_directory_tokenizer(fresh_folder(), nullptr), nullptr);
}

TEST(TokenizerHf, OptPrependsItsBosWithoutBeingTold) {
  const fs::path folder = tiny_folder();
  auto tokenizer = load_directory_tokenizer(folder, kOptConfig);
  EXPECT_TRUE(tokenizer->adds_bos);
  EXPECT_EQ(tokenizer->bos, 2);
  EXPECT_EQ(tokenizer->pad, 1);
  EXPECT_THAT(tokenizer->end_of_generation, ElementsAre(2));
  write_text(folder / "tokenizer_config.json", R"({"add_bos_token": false, "bos_token": "</s>"})");
  EXPECT_FALSE(load_directory_tokenizer(folder, kOptConfig)->adds_bos);
  EXPECT_FALSE(load_directory_tokenizer(tiny_folder(), {{"bos_token_id", 2}})->adds_bos);
}

TEST(TokenizerHf, AConfigIdOfAnOrdinaryTokenDoesNotMakeItSpecial) {
  const auto plain = load_directory_tokenizer(tiny_folder(), nullptr);
  const TokenId bang = plain->token_to_id("!").value();
  const TokenId the = plain->token_to_id("\u0120the").value();
  const auto tokenizer = load_directory_tokenizer(
      tiny_folder(), {{"pad_token_id", bang}, {"eos_token_id", json::array({2, the, 99999})}});
  EXPECT_EQ(tokenizer->piece(bang), "!");
  EXPECT_EQ(tokenizer->piece(the), " the");
  EXPECT_EQ(tokenizer->piece(2), "");
  EXPECT_EQ(tokenizer->eos, 2);
  EXPECT_THAT(tokenizer->end_of_generation, ElementsAre(2, the));
}

TEST(TokenizerHf, NamesComeFromTokenizerConfigThenSpecialTokensMap) {
  const fs::path folder = tiny_folder();
  write_text(folder / "special_tokens_map.json",
             R"({"bos_token": "<pad>", "eos_token": {"content": "</s>", "lstrip": false},
                 "additional_special_tokens": ["<unk>"]})");
  write_text(folder / "tokenizer_config.json", R"({"bos_token": "<s>", "pad_token": null})");
  const auto tokenizer = load_directory_tokenizer(folder, {{"bos_token_id", 3}});
  EXPECT_EQ(tokenizer->bos, 0);
  EXPECT_EQ(tokenizer->eos, 2);
  EXPECT_EQ(tokenizer->piece(3), "");       // <unk>, special by name
  EXPECT_EQ(tokenizer->piece(1), "<pad>");  // no longer named
}

TEST(TokenizerHf, AddedTokensFromEitherFile) {
  const fs::path folder = tiny_folder();
  const auto size = static_cast<TokenId>(load_directory_tokenizer(folder, nullptr)->vocab_size);
  write_text(folder / "special_tokens_map.json", R"({"eos_token": "<|im_end|>"})");
  write_text(folder / "added_tokens.json",
             json({{"<|im_end|>", size}, {"<tool>", size + 1}}).dump());
  const auto check = [&] {
    const auto tokenizer = load_directory_tokenizer(folder, nullptr);
    EXPECT_EQ(tokenizer->vocab_size, size + 2);
    EXPECT_EQ(tokenizer->eos, size);
    EXPECT_EQ(tokenizer->piece(size), "");
    EXPECT_EQ(tokenizer->piece(size + 1), "<tool>");
    EXPECT_THAT(tokenizer->encode("<tool><|im_end|>", {}), ElementsAre(size + 1, size));
  };
  check();
  fs::remove(folder / "added_tokens.json");
  const json decoder = {{std::to_string(size), {{"content", "<|im_end|>"}, {"special", true}}},
                        {std::to_string(size + 1), {{"content", "<tool>"}, {"special", false}}}};
  write_text(folder / "tokenizer_config.json", json({{"added_tokens_decoder", decoder}}).dump());
  check();
}

TEST(TokenizerHf, EndOfGenerationFromGenerationConfig) {
  const fs::path folder = tiny_folder();
  write_text(folder / "generation_config.json", R"({"eos_token_id": [3, 1]})");
  const auto tokenizer = load_directory_tokenizer(folder, {{"eos_token_id", 2}});
  EXPECT_EQ(tokenizer->eos, 2);
  EXPECT_THAT(tokenizer->end_of_generation, ElementsAre(1, 2, 3));
}

TEST(TokenizerHf, ChatTemplateForms) {
  const fs::path folder = tiny_folder();
  const auto chat_template = [&] {
    return load_directory_tokenizer(folder, nullptr)->chat_template;
  };
  EXPECT_EQ(chat_template(), "");
  write_text(folder / "tokenizer_config.json", R"({"chat_template": "one"})");
  EXPECT_EQ(chat_template(), "one");
  write_text(folder / "tokenizer_config.json",
             R"({"chat_template": [{"name": "tool_use", "template": "tools"},
                                   {"name": "default", "template": "two"}]})");
  EXPECT_EQ(chat_template(), "two");
  write_text(folder / "chat_template.jinja", "three");
  EXPECT_EQ(chat_template(), "three");
}

TEST(TokenizerHf, TokenizerModelComesFirst) {
  const fs::path folder = tiny_folder();
  fs::copy_file(tokenizer_data() / "tiny-sentencepiece-bpe.model", folder / "tokenizer.model");
  write_text(folder / "tokenizer_config.json",
             R"({"bos_token": "<s>", "eos_token": "</s>", "added_tokens_decoder": {
                 "1": {"content": "<s>", "special": true},
                 "420": {"content": "[PAD]", "special": true}}, "pad_token": "[PAD]"})");
  const auto tokenizer = load_directory_tokenizer(folder, {{"model_type", "llama"}});
  EXPECT_EQ(tokenizer->kind, "sentencepiece");
  EXPECT_EQ(tokenizer->bos, 1);
  EXPECT_TRUE(tokenizer->adds_bos);
  EXPECT_EQ(tokenizer->pad, 420);
  EXPECT_EQ(tokenizer->vocab_size, 421);
  EXPECT_THAT(tokenizer->encode("the[PAD]", {}), Contains(420));
  EXPECT_EQ(tokenizer->decode(tokenizer->encode("the[PAD]", {})), "the");
}

TEST(TokenizerHf, ATiktokenFileIsNotASentencePieceModel) {
  const fs::path folder = fresh_folder();
  write_text(folder / "tokenizer.model", "IQ== 0\nIg== 1\n");
  try {
    load_directory_tokenizer(folder, nullptr);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::unsupported);
  }
  for (const char* name : {"vocab.json", "merges.txt"}) {
    fs::copy_file(tokenizer_data() / "tiny-bpe" / name, folder / name);
  }
  EXPECT_EQ(load_directory_tokenizer(folder, nullptr)->kind, "byte-level BPE (gpt-2)");
}

TEST(TokenizerHf, MergesMayHaveWindowsLineEndsAndNoVersion) {
  const fs::path folder = tiny_folder();
  const std::string merges = read_bytes(folder / "merges.txt");
  std::string windows;
  for (const char c : merges.substr(merges.find('\n') + 1)) {
    if (c == '\n') windows += '\r';
    windows += c;
  }
  write_text(folder / "merges.txt", windows);
  const auto expected = load_directory_tokenizer(tokenizer_data() / "tiny-bpe", nullptr);
  const auto tokenizer = load_directory_tokenizer(folder, nullptr);
  EXPECT_EQ(tokenizer->encode("The other foxes", {}), expected->encode("The other foxes", {}));
}

TEST(TokenizerHf, RefusesBrokenFilesByName) {
  const auto refused = [](const char* name, const char* text) {
    const fs::path folder = tiny_folder();
    write_text(folder / name, text);
    try {
      load_directory_tokenizer(folder, nullptr);
      ADD_FAILURE() << name << " " << text;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::bad_file) << error.what();
      EXPECT_THAT(error.what(), testing::HasSubstr(folder.string()));
    }
  };
  refused("vocab.json", "[]");
  refused("vocab.json", "{\"a\": \"b\"}");
  refused("merges.txt", "a b c\n");
  refused("merges.txt", "abc\n");
  refused("tokenizer_config.json", "[]");
  refused("tokenizer_config.json", "{");
  refused("tokenizer_config.json", R"({"added_tokens_decoder": {"x": {"content": "a"}}})");
  refused("tokenizer_config.json", R"({"added_tokens_decoder": {"999999999": {"content": "a"}}})");
  refused("added_tokens.json", R"({"a": "b"})");
  refused("tokenizer.model", "\n\xFF");
}

TEST(TokenizerHf, LoadTokenizerTakesAModelSource) {
  const ModelSource source(tokenizer_data() / "tiny-bpe", false);
  const auto tokenizer = load_tokenizer(source);
  ASSERT_NE(tokenizer, nullptr);
  EXPECT_EQ(tokenizer->decode(tokenizer->encode("The fox", {})), "The fox");
}

}  // namespace
}  // namespace tenfold
