#pragma once
// safetensors: 8-byte little-endian header length, JSON header, tensor data.
// Reading F32, F16, BF16, I32, I64 (others are refused by name when asked for).

#include <filesystem>
#include <string>
#include <vector>

#include "runtime/mapped_file.h"
#include "runtime/tensor_source.h"

namespace tenfold {

class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::filesystem::path& path);
  const std::vector<TensorSource>& tensors() const noexcept { return tensors_; }
  const TensorSource* find(std::string_view name) const noexcept;
  const std::string& path() const noexcept { return file_.path(); }

 private:
  MappedFile file_;
  std::vector<TensorSource> tensors_;
};

// Writes all tensors at once (temporary name, sync, rename). dtype: f32, f16, bf16, i32 or i64.
void write_safetensors(const std::filesystem::path& path, bool overwrite,
                       std::span<const TensorSource> tensors);

}  // namespace tenfold
