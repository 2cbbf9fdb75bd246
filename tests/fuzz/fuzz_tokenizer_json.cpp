// tokenizer.json -> tokenizer -> a short text and back. Only Error may come out of loading, and
// nothing out of encoding.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <string_view>

#include "kernels/error.h"
#include "runtime/files/json_file.h"
#include "runtime/tokenizer/json.h"

namespace {

std::unique_ptr<tenfold::Tokenizer> load(std::string_view text) {
  try {
    const auto json = tenfold::parse_json(text, "tokenizer.json");
    return tenfold::make_tokenizer(tenfold::read_tokenizer_json(json, "tokenizer.json"),
                                   "tokenizer.json");
  } catch (const tenfold::Error&) {
    return nullptr;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto tokenizer = load({reinterpret_cast<const char*>(data), size});
  if (!tokenizer) return 0;
  for (const bool parse_special : {false, true}) {
    const auto ids = tokenizer->encode("The a b\xFF <s>ab ba\xC3\xA9 12\n",
                                       {.add_bos = true, .parse_special = parse_special});
    const std::string text = tokenizer->decode(ids, parse_special);
    tokenizer->encode(text, {.parse_special = parse_special});
  }
  return 0;
}
