#pragma once
// Tokenizer fixtures: {text, ids} cases from a file, and a small byte-level vocabulary.

#include <filesystem>
#include <string>
#include <vector>

#include "runtime/tokenizer/vocabulary.h"

namespace tenfold {

struct TokenizerCase {
  std::string text;
  std::vector<TokenId> ids;
};

// ids_key: which of several id lists to take.
std::vector<TokenizerCase> read_tokenizer_cases(const std::filesystem::path& path,
                                                const std::string& ids_key = "ids");

// tests/data/tokenizers/tiny-bpe: 4 special tokens, every byte but 0x7F, and 100 merges.
BpeVocabulary tiny_bpe();

inline std::filesystem::path tokenizer_data() {
  return std::filesystem::path(TENFOLD_TEST_DATA) / "tokenizers";
}
inline std::filesystem::path shared_tokenizers() {
  return std::filesystem::path(TENFOLD_SHARED) / "goldens" / "tokenizers";
}

// An empty folder of this test's own.
std::filesystem::path fresh_folder();
void write_text(const std::filesystem::path& path, std::string_view text);
std::string read_bytes(const std::filesystem::path& path);

}  // namespace tenfold
