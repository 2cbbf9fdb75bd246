// The input is a JSON schema where it begins with {, else GBNF: an Error, or a grammar that can be
// followed for a while. Only Error may come out, and soon.

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string_view>

#include "kernels/error.h"
#include "runtime/grammar/gbnf.h"
#include "runtime/grammar/json_schema.h"
#include "runtime/grammar/matcher.h"

namespace {

using namespace tenfold;

// Some text of the grammar, the bytes taken in turn from where `seed` says.
void follow(GrammarMatcher matcher, std::size_t seed) {
  for (int step = 0; step < 24 && matcher.can_continue(); ++step) {
    bool found = false;
    for (int i = 0; i < 256 && !found; ++i) {
      const char byte = static_cast<char>((seed + static_cast<std::size_t>(37 * i)) % 256);
      found = matcher.accepts({&byte, 1});
      if (found) matcher.advance({&byte, 1});
    }
    if (!found) std::abort();  // every state can go on or is an end
    seed = seed * 31 + 7;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    follow(GrammarMatcher(text.starts_with('{')
                              ? json_schema_grammar(parse_json_schema(text, "schema"))
                              : parse_gbnf(text)),
           size);
  } catch (const Error&) {
  }
  return 0;
}
