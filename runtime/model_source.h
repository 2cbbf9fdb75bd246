#pragma once
// MODEL on the command line: a GGUF file or a Hugging Face directory. Opening maps and checks the
// files; nothing is dequantized. Which tensors and keys mean what is up to models/.

#include <cstdint>
#include <filesystem>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/files/gguf.h"
#include "runtime/files/packed_matrix.h"
#include "runtime/files/pytorch_file.h"
#include "runtime/files/safetensors.h"
#include "runtime/files/tensor_source.h"

namespace tenfold {

class ModelSource {
 public:
  // Directory: config.json, then model.safetensors[.index.json] or pytorch_model.bin[.index.json]
  // (safetensors preferred). A shard listed in the index must exist and hold the tensors the index
  // says. weights = false opens config and metadata only (for `tokenize`): a directory may then
  // lack config.json and weights. Also refused here, by name: a quantization_config in config.json.
  explicit ModelSource(const std::filesystem::path& path, bool weights = true);

  const std::string& path() const noexcept { return path_; }
  bool is_gguf() const noexcept { return gguf_ != nullptr; }
  const GgufFile& gguf() const noexcept { return *gguf_; }            // is_gguf() only
  const nlohmann::json& config() const noexcept { return *config_; }  // null where there is none
  const std::vector<const TensorSource*>& tensors() const noexcept { return tensors_; }
  const TensorSource* find(std::string_view name) const noexcept;  // nullptr: absent
  // Quantized matrices of our own GGUF, sorted by name; tensors() has their parts.
  const std::vector<StoredMatrix>& matrices() const noexcept { return matrices_; }
  const MatrixView* find_matrix(std::string_view name) const noexcept;  // nullptr: absent
  // Of a plain tensor or a quantized matrix; empty: absent.
  std::vector<std::int64_t> shape_of(std::string_view name) const;
  std::uint64_t file_bytes() const noexcept { return file_bytes_; }  // all weight files
  // The file a tensor comes from, for messages; MODEL itself for a name that is absent.
  std::string file_of(std::string_view name) const;

 private:
  enum class Kind { safetensors, pytorch };
  struct OpenedFile {
    const std::vector<TensorSource>& tensors;
    std::span<const std::string> skipped;  // in the file, but not weights
  };
  void open_directory(const std::filesystem::path& directory, bool weights);
  void open_weights(const std::filesystem::path& directory);
  void open_shards(const std::filesystem::path& index_path, Kind kind);
  OpenedFile open_file(const std::filesystem::path& path, Kind kind);
  void sort_names();

  std::string path_;
  std::shared_ptr<const nlohmann::json> config_;  // shared_ptr: json_fwd.hpp is enough here
  std::unique_ptr<GgufFile> gguf_;
  std::vector<std::unique_ptr<SafetensorsFile>> safetensors_;
  std::vector<std::unique_ptr<PytorchFile>> pytorch_;
  std::vector<const TensorSource*> tensors_;  // in file order
  std::vector<const TensorSource*> by_name_;  // the same, sorted
  std::vector<StoredMatrix> matrices_;
  std::uint64_t file_bytes_ = 0;
};

}  // namespace tenfold
