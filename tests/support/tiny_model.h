#pragma once
// A model with random weights and a tokenizer whose tokens are the 256 bytes: enough to run every
// command on text without any file from outside the repository.

#include <filesystem>

#include "tests/support/scratch_folder.h"

namespace tenfold::testing {

// tests/data/models/<name>: no tokenizer.
std::filesystem::path data_model(std::string_view name);

// A copy of a data_model (vocabulary 384, context 256 or more) in the folder, with vocab.json and
// merges.txt. Id of byte b: b + 4; "</s>" is 2.
std::filesystem::path tiny_model(const ScratchFolder& folder, std::string_view name = "opt-pre-ln");

}  // namespace tenfold::testing
