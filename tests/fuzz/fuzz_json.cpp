// Any bytes as JSON: an Error, or a value that prints and parses back to itself.

#include <cstdint>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string_view>

#include "kernels/error.h"
#include "runtime/files/json_file.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  nlohmann::json value;
  try {
    value = tenfold::parse_json({reinterpret_cast<const char*>(data), size}, "fuzz.json");
  } catch (const tenfold::Error&) {
    return 0;
  }
  if (tenfold::parse_json(value.dump(), "again") != value) std::abort();
  return 0;
}
