#include "tests/support/tiny_model.h"

#include <nlohmann/json.hpp>

#include "runtime/utf8.h"

namespace tenfold::testing {
namespace {

// GPT-2's stand-ins for bytes: printable ones stand for themselves, the rest from U+0100 on.
std::string byte_symbol(int byte, int& n_hidden) {
  const bool printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte != 0xad);
  std::string text;
  append_utf8(text, static_cast<char32_t>(printable ? byte : 256 + n_hidden++));
  return text;
}

}  // namespace

std::filesystem::path data_model(std::string_view name) {
  return std::filesystem::path(TENFOLD_TEST_DATA) / "models" / name;
}

std::filesystem::path tiny_model(const ScratchFolder& folder, std::string_view name) {
  const std::filesystem::path model = folder / "tiny";
  std::filesystem::create_directories(model);
  std::filesystem::copy(data_model(name), model);
  nlohmann::json vocabulary = {{"<s>", 0}, {"<pad>", 1}, {"</s>", 2}, {"<unk>", 3}};
  int n_hidden = 0;
  for (int byte = 0; byte < 256; ++byte) vocabulary[byte_symbol(byte, n_hidden)] = byte + 4;
  folder.write("tiny/vocab.json", vocabulary.dump());
  folder.write("tiny/merges.txt", "#version: 0.2\n");
  return model;
}

}  // namespace tenfold::testing
