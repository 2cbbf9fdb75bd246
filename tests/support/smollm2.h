#pragma once
// SmolLM2-135M-Instruct.Q4_1.gguf is too large for the repository: tests that want it look for it.

#include <filesystem>
#include <optional>

namespace tenfold {

// $TENFOLD_SMOLLM2, or ${XDG_CACHE_HOME:-~/.cache}/tenfold/SmolLM2-135M-Instruct.Q4_1.gguf.
std::optional<std::filesystem::path> find_smollm2();

}  // namespace tenfold

#define TENFOLD_SMOLLM2_OR_SKIP(path)                                            \
  const auto path##_found = tenfold::find_smollm2();                             \
  if (!path##_found) {                                                           \
    GTEST_SKIP() << "NOT TESTED: SmolLM2-135M-Instruct.Q4_1.gguf is neither at " \
                    "$TENFOLD_SMOLLM2 nor in the cache (~/.cache/tenfold)";      \
  }                                                                              \
  const std::filesystem::path path = *path##_found
