#include "tests/support/smollm2.h"

#include <cstdlib>

namespace tenfold {

std::optional<std::filesystem::path> find_smollm2() {
  namespace fs = std::filesystem;
  const auto variable = [](const char* name) -> fs::path {
    const char* value = std::getenv(name);
    return value == nullptr ? "" : value;
  };
  const fs::path named = variable("TENFOLD_SMOLLM2");
  if (!named.empty()) return fs::exists(named) ? std::optional(named) : std::nullopt;
  fs::path cache = variable("XDG_CACHE_HOME");
  if (cache.empty()) cache = variable("HOME") / ".cache";
  const fs::path cached = cache / "tenfold" / "SmolLM2-135M-Instruct.Q4_1.gguf";
  return fs::exists(cached) ? std::optional(cached) : std::nullopt;
}

}  // namespace tenfold
