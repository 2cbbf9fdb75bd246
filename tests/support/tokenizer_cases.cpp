#include "tests/support/tokenizer_cases.h"

#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "runtime/files/json_file.h"
#include "runtime/tokenizer/json.h"

namespace tenfold {

namespace fs = std::filesystem;

std::vector<TokenizerCase> read_tokenizer_cases(const fs::path& path, const std::string& ids_key) {
  std::vector<TokenizerCase> cases;
  for (const auto& entry : read_json_file(path)) {
    cases.push_back(
        {entry.at("text").get<std::string>(), entry.at(ids_key).get<std::vector<TokenId>>()});
  }
  return cases;
}

BpeVocabulary tiny_bpe() {
  const fs::path folder = tokenizer_data() / "tiny-bpe";
  BpeVocabulary vocabulary;
  vocabulary.entries = read_vocab_object(read_json_file(folder / "vocab.json"), "vocab.json");
  for (std::size_t id = 0; id < 4; ++id) vocabulary.entries.kinds[id] = TokenKind::control;
  std::ifstream merges(folder / "merges.txt");
  std::string line;
  std::getline(merges, line);
  while (std::getline(merges, line)) vocabulary.merges.push_back(line);
  return vocabulary;
}

fs::path fresh_folder() {
  const auto* test = testing::UnitTest::GetInstance()->current_test_info();
  const fs::path folder = fs::path(testing::TempDir()) /
                          ("tenfold_" + std::string(test->test_suite_name()) + "_" + test->name());
  fs::remove_all(folder);
  fs::create_directories(folder);
  return folder;
}

void write_text(const fs::path& path, std::string_view text) {
  std::ofstream(path, std::ios::binary) << text;
}

std::string read_bytes(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace tenfold
