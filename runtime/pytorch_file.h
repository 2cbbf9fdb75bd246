#pragma once
// pytorch_model.bin: a zip archive (stored entries) with data.pkl and data/N storages. The pickle
// is run by a restricted machine that can build tensors, dicts and numbers from an allow-list of
// globals and refuses everything else by name; nothing is ever executed. Tensor data stays mapped.
// Float, half and bfloat16 storages, contiguous tensors; the legacy (pre-1.6) format is refused
// by name.

#include <filesystem>
#include <vector>

#include "runtime/mapped_file.h"
#include "runtime/tensor_source.h"

namespace tenfold {

class PytorchFile {
 public:
  explicit PytorchFile(const std::filesystem::path& path);
  const std::vector<TensorSource>& tensors() const noexcept { return tensors_; }

 private:
  MappedFile file_;
  std::vector<TensorSource> tensors_;
};

}  // namespace tenfold
