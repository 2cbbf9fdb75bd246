#pragma once
// pytorch_model.bin: a zip archive (stored entries) with data.pkl and data/N storages. The pickle
// is run by a restricted machine (unpickler.h) and refused by name where it wants more than
// tensors; nothing is ever executed. Tensor data stays mapped.
// Float, half and bfloat16 storages, contiguous tensors. Integer and boolean tensors are buffers
// (masks, counters), not weights: they are skipped. Doubles and the legacy (pre-1.6) format are
// refused by name.

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/files/mapped_file.h"
#include "runtime/files/tensor_source.h"

namespace tenfold {

struct PytorchTensors {
  std::vector<TensorSource> tensors;  // in the dict's order, names unique
  std::vector<std::string> skipped;   // names of integer and boolean tensors
};

// The state dict in a file's bytes: the top-level dict, or its "state_dict" or "model" entry.
// Tensor data points into `file`. Memory stays below twice the file's size plus 8 MiB.
PytorchTensors parse_pytorch(std::span<const std::byte> file, std::string_view name);

class PytorchFile {
 public:
  explicit PytorchFile(const std::filesystem::path& path);
  const std::vector<TensorSource>& tensors() const noexcept { return contents_.tensors; }
  const std::vector<std::string>& skipped() const noexcept { return contents_.skipped; }
  const std::string& path() const noexcept { return file_.path(); }
  std::uint64_t file_bytes() const noexcept { return file_.bytes().size(); }

 private:
  MappedFile file_;
  PytorchTensors contents_;
};

}  // namespace tenfold
