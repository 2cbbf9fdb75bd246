#pragma once
// safetensors: 8-byte little-endian header length, JSON header, tensor data.
// Reading F32, F16, BF16, I32, I64; a file with a tensor of another type is refused by name.

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/files/mapped_file.h"
#include "runtime/files/output_file.h"
#include "runtime/files/tensor_source.h"

namespace tenfold {

inline constexpr std::uint64_t kMaxSafetensorsHeader = 100'000'000;  // the format's own limit
inline constexpr std::size_t kMaxFileTensors = 1u << 18;             // per weight file
inline constexpr std::size_t kMaxTensorRank = 8;

// The tensors of a file's bytes, in header order; their data points into `file`. `name` is what
// messages call it. Names are unique and no two tensors overlap.
std::vector<TensorSource> parse_safetensors(std::span<const std::byte> file, std::string_view name);

class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::filesystem::path& path);
  const std::vector<TensorSource>& tensors() const noexcept { return tensors_; }
  const TensorSource* find(std::string_view name) const noexcept;  // nullptr: absent; linear
  const std::string& path() const noexcept { return file_.path(); }
  std::uint64_t file_bytes() const noexcept { return file_.bytes().size(); }

 private:
  MappedFile file_;
  std::vector<TensorSource> tensors_;
};

struct SafetensorsDecl {
  std::string name;
  std::vector<std::int64_t> shape;
  DType dtype = DType::f32;  // f32, f16, bf16, i32 or i64
};

// Writes the header at once, then the tensors' bytes in the declared order. The file appears under
// its name only when finish() returns (OutputFile).
class SafetensorsWriter {
 public:
  SafetensorsWriter(const std::filesystem::path& path, bool overwrite,
                    std::span<const SafetensorsDecl> tensors);
  void write(std::span<const std::byte> data);
  void finish();  // Error where bytes are missing or too many

 private:
  OutputFile file_;
  std::uint64_t end_ = 0;  // of the file, when it is complete
};

// Writes all tensors at once.
void write_safetensors(const std::filesystem::path& path, bool overwrite,
                       std::span<const TensorSource> tensors);

}  // namespace tenfold
