#include "runtime/model_source.h"

#include <algorithm>
#include <array>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <system_error>

#include "kernels/error.h"
#include "runtime/files/json_file.h"
#include "runtime/files/quote.h"
#include "runtime/files/shard_index.h"

namespace tenfold {
namespace {

namespace fs = std::filesystem;

constexpr std::uintmax_t kMaxConfigBytes = 4u << 20;
constexpr std::string_view kWhatModelIs =
    "MODEL is a GGUF file or a Hugging Face directory (config.json and model*.safetensors or "
    "pytorch_model*.bin)";

bool may_be_gguf(const fs::path& path) {
  std::array<char, 4> magic{};
  std::ifstream file(path, std::ios::binary);
  if (!file) return true;  // the reader will say why
  file.read(magic.data(), magic.size());
  return file.gcount() == 4 && std::string_view(magic.data(), magic.size()) == "GGUF";
}

bool is_present(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

// "; did you mean DIR/model.gguf?" where the directory has such a file, else nothing.
std::string gguf_hint(const fs::path& directory) {
  std::error_code error;
  std::optional<fs::path> first;
  for (fs::directory_iterator it(directory, error), end; !error && it != end; it.increment(error)) {
    const fs::path& path = it->path();
    if (path.extension() == ".gguf" && (!first || path < *first)) first = path;
  }
  return first ? fmt::format("; did you mean {}?", quote(first->string())) : std::string();
}

void refuse_quantized(const nlohmann::json& config, const std::string& path) {
  const auto found = config.find("quantization_config");
  if (found == config.end() || found->is_null()) return;
  std::string method = "quantized";
  if (found->is_object()) {
    const auto named = found->find("quant_method");
    if (named != found->end() && named->is_string()) method = quote(named->get<std::string>());
  }
  throw_error(ErrorCode::unsupported,
              "{}: is a {} model (quantization_config in config.json); Tenfold reads Hugging Face "
              "models with f32, f16 or bf16 weights, use the unquantized checkpoint",
              path, method);
}

nlohmann::json read_config(const fs::path& path, const std::string& directory) {
  std::error_code ignored;
  const std::uintmax_t size = fs::file_size(path, ignored);
  if (!ignored && size > kMaxConfigBytes) {
    throw_file_error(path.string(), "{} bytes, expected at most {}", size, kMaxConfigBytes);
  }
  nlohmann::json config = read_json_file(path);
  if (!config.is_object()) throw_file_error(path.string(), "expected a JSON object");
  refuse_quantized(config, directory);
  return config;
}

bool name_less(const TensorSource* a, const TensorSource* b) { return a->name < b->name; }

bool owns(const std::vector<TensorSource>& tensors, const TensorSource* tensor) {
  const std::less<const TensorSource*> before;
  return !before(tensor, tensors.data()) && before(tensor, tensors.data() + tensors.size());
}

}  // namespace

ModelSource::ModelSource(const fs::path& path, bool weights)
    : path_(path.string()), config_(std::make_shared<nlohmann::json>()) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (status.type() == fs::file_type::not_found) {
    throw_file_error(path_, "no such file or directory; {}", kWhatModelIs);
  }
  if (status.type() == fs::file_type::none) {
    throw_file_error(path_, "cannot be opened: {}", error.message());
  }
  if (fs::is_directory(status)) {
    open_directory(path, weights);
  } else {
    if (!fs::is_regular_file(status) || !may_be_gguf(path)) {
      throw_file_error(path_, "not a GGUF file; {}", kWhatModelIs);
    }
    gguf_ = std::make_unique<GgufFile>(path);
    file_bytes_ = gguf_->file_bytes();
    for (const TensorSource& tensor : gguf_->tensors()) tensors_.push_back(&tensor);
    matrices_ = read_packed_matrices(gguf_->metadata(), gguf_->tensors());
  }
  sort_names();
}

void ModelSource::open_directory(const fs::path& directory, bool weights) {
  const fs::path config = directory / "config.json";
  if (is_present(config)) {
    config_ = std::make_shared<nlohmann::json>(read_config(config, path_));
  } else if (weights) {
    throw_file_error(path_, "has no config.json, so it is not a Hugging Face model directory{}",
                     gguf_hint(directory));
  }
  if (weights) open_weights(directory);
}

void ModelSource::open_weights(const fs::path& directory) {
  struct Candidate {
    const char* file;
    Kind kind;
    bool is_index;
  };
  constexpr std::array kCandidates{
      Candidate{"model.safetensors", Kind::safetensors, false},
      Candidate{"model.safetensors.index.json", Kind::safetensors, true},
      Candidate{"pytorch_model.bin", Kind::pytorch, false},
      Candidate{"pytorch_model.bin.index.json", Kind::pytorch, true},
  };
  for (const Candidate& candidate : kCandidates) {
    const fs::path path = directory / candidate.file;
    if (!is_present(path)) continue;
    if (candidate.is_index) {
      open_shards(path, candidate.kind);
    } else {
      for (const TensorSource& tensor : open_file(path, candidate.kind).tensors) {
        tensors_.push_back(&tensor);
      }
    }
    return;
  }
  throw_file_error(path_,
                   "has no weights: no model.safetensors, pytorch_model.bin or .index.json of "
                   "either{}",
                   gguf_hint(directory));
}

void ModelSource::open_shards(const fs::path& index_path, Kind kind) {
  const ShardIndex index = read_shard_index(index_path);
  const std::string index_name = index_path.string();
  std::vector<bool> found(index.entries.size());
  for (std::uint32_t shard = 0; shard < index.shards.size(); ++shard) {
    const fs::path path = index_path.parent_path() / index.shards[shard];
    if (!is_present(path)) {
      throw_file_error(index_name,
                       "lists the shard {}, which is missing; the download is incomplete",
                       quote(index.shards[shard]));
    }
    const OpenedFile file = open_file(path, kind);
    const auto entry_of = [&](const std::string& tensor) {
      const ShardIndex::Entry* entry = index.find(tensor);
      if (entry != nullptr && entry->shard != shard) {
        throw_file_error(index_name, "tensor {} is in the shard {}, but the index says {}",
                         quote(tensor), quote(index.shards[shard]),
                         quote(index.shards[entry->shard]));
      }
      if (entry != nullptr) found[static_cast<std::size_t>(entry - index.entries.data())] = true;
      return entry;
    };
    for (const TensorSource& tensor : file.tensors) {
      if (entry_of(tensor.name) != nullptr) tensors_.push_back(&tensor);
    }
    for (const std::string& tensor : file.skipped) entry_of(tensor);
  }
  const auto missing = std::find(found.begin(), found.end(), false);
  if (missing != found.end()) {
    const auto& entry = index.entries[static_cast<std::size_t>(missing - found.begin())];
    throw_file_error(index_name, "lists tensor {} in {}, which does not hold it",
                     quote(entry.tensor), quote(index.shards[entry.shard]));
  }
}

ModelSource::OpenedFile ModelSource::open_file(const fs::path& path, Kind kind) {
  if (kind == Kind::safetensors) {
    const auto& file = *safetensors_.emplace_back(std::make_unique<SafetensorsFile>(path));
    file_bytes_ += file.file_bytes();
    return {file.tensors(), {}};
  }
  const auto& file = *pytorch_.emplace_back(std::make_unique<PytorchFile>(path));
  file_bytes_ += file.file_bytes();
  return {file.tensors(), file.skipped()};
}

void ModelSource::sort_names() {
  by_name_ = tensors_;
  std::sort(by_name_.begin(), by_name_.end(), name_less);
}

const TensorSource* ModelSource::find(std::string_view name) const noexcept {
  const auto found = std::lower_bound(
      by_name_.begin(), by_name_.end(), name,
      [](const TensorSource* tensor, std::string_view wanted) { return tensor->name < wanted; });
  return found == by_name_.end() || (*found)->name != name ? nullptr : *found;
}

const MatrixView* ModelSource::find_matrix(std::string_view name) const noexcept {
  const auto found = std::lower_bound(
      matrices_.begin(), matrices_.end(), name,
      [](const StoredMatrix& matrix, std::string_view wanted) { return matrix.name < wanted; });
  return found == matrices_.end() || found->name != name ? nullptr : &found->view;
}

std::vector<std::int64_t> ModelSource::shape_of(std::string_view name) const {
  if (const TensorSource* tensor = find(name)) return tensor->shape;
  if (const MatrixView* matrix = find_matrix(name)) return {matrix->rows, matrix->cols};
  return {};
}

std::string ModelSource::file_of(std::string_view name) const {
  const TensorSource* tensor = find(name);
  if (tensor == nullptr) return path_;
  for (const auto& file : safetensors_) {
    if (owns(file->tensors(), tensor)) return file->path();
  }
  for (const auto& file : pytorch_) {
    if (owns(file->tensors(), tensor)) return file->path();
  }
  return path_;
}

}  // namespace tenfold
