#include "models/export.h"

#include <unistd.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "kernels/error.h"
#include "models/gguf_output.h"
#include "runtime/files/output_file.h"
#include "runtime/tokenizer.h"
#include "runtime/tokenizer/hf_output.h"

namespace tenfold {
namespace {

// A folder that goes away unless it is given its name.
class NewFolder {
 public:
  explicit NewFolder(const std::filesystem::path& target) : target_(target.lexically_normal()) {
    if (!target_.has_filename()) target_ = target_.parent_path();  // "model/"
    if (std::filesystem::exists(std::filesystem::symlink_status(target_))) {
      throw_error(ErrorCode::io, "{}: exists already", target_.string());
    }
    const std::filesystem::path temporary = target_.string() + ".tmp-" + std::to_string(getpid());
    std::error_code error;
    const bool made = std::filesystem::create_directory(temporary, error);
    if (!made) {
      throw_error(ErrorCode::io, "{}: cannot be made: {}", temporary.string(),
                  error ? error.message() : "exists already");
    }
    temporary_ = temporary;
  }
  NewFolder(const NewFolder&) = delete;
  NewFolder& operator=(const NewFolder&) = delete;
  ~NewFolder() {
    std::error_code ignored;
    if (!temporary_.empty()) std::filesystem::remove_all(temporary_, ignored);
  }
  const std::filesystem::path& path() const noexcept { return temporary_; }
  void commit() {
    std::error_code error;
    std::filesystem::rename(temporary_, target_, error);
    if (error) throw_error(ErrorCode::io, "{}: {}", target_.string(), error.message());
    temporary_.clear();
  }

 private:
  std::filesystem::path target_, temporary_;
};

void write_text(const std::filesystem::path& path, std::string_view text) {
  OutputFile file(path, true);
  file.write(text);
  file.commit();
}

// The row of GGUF's order that Hugging Face has at `row`.
std::int64_t gguf_row(std::int64_t row, std::int64_t rows, std::int64_t heads) {
  if (heads == 0) return row;
  const std::int64_t size = rows / heads;
  const std::int64_t within = row % size;
  const std::int64_t half = size / 2;
  return row - within + (within < half ? 2 * within : 2 * (within - half) + 1);
}

// Values in Hugging Face's order, row after row.
template <typename Use>
void for_each_row(const ModelTensor& tensor, std::int64_t heads, Use&& use) {
  const RowReader& rows = tensor.rows;
  if (tensor.info.is_matrix()) {
    std::vector<float> row(static_cast<std::size_t>(rows.cols()));
    std::vector<float> scratch(row.size());
    for (std::int64_t r = 0; r < rows.rows(); ++r) {
      rows.read(gguf_row(r, rows.rows(), heads), row.data(), scratch.data());
      use(row);
    }
    return;
  }
  std::vector<float> all(static_cast<std::size_t>(rows.rows() * rows.cols()));
  read_all(rows, all.data());
  const auto count = static_cast<std::int64_t>(all.size());
  std::vector<float> ordered;
  for (std::int64_t i = 0; i < count; ++i) {
    ordered.push_back(all[static_cast<std::size_t>(gguf_row(i, count, heads))]);
  }
  use(ordered);
}

std::string write_tokenizer(const ModelSource& source, const DecoderSpec& spec,
                            const std::filesystem::path& folder) {
  if (!source.is_gguf()) {
    int copied = 0;
    for (const char* name : kHuggingFaceTextFiles) {
      const std::filesystem::path from = std::filesystem::path(source.path()) / name;
      if (std::filesystem::exists(from) && std::filesystem::copy_file(from, folder / name)) {
        ++copied;
      }
    }
    return copied > 0 ? "" : "the model has none";
  }
  HuggingFaceTokenizer tokenizer =
      hugging_face_tokenizer(source.gguf().metadata(), spec.max_context);
  for (const auto& [name, text] : tokenizer.files) write_text(folder / name, text);
  return tokenizer.missing;
}

nlohmann::ordered_json config_of(const Family& family, const DecoderSpec& spec,
                                 const ModelSource& source, const std::vector<ModelTensor>& tensors,
                                 DType type) {
  nlohmann::ordered_json config = family.to_config(spec, [&](std::string_view name) {
    return std::any_of(tensors.begin(), tensors.end(),
                       [&](const ModelTensor& tensor) { return tensor.info.name == name; });
  });
  config["torch_dtype"] = type == DType::f32   ? "float32"
                          : type == DType::f16 ? "float16"
                                               : "bfloat16";
  if (const std::unique_ptr<Tokenizer> tokenizer = load_tokenizer(source)) {
    if (tokenizer->bos) config["bos_token_id"] = *tokenizer->bos;
    if (tokenizer->eos) config["eos_token_id"] = *tokenizer->eos;
    if (tokenizer->pad) config["pad_token_id"] = *tokenizer->pad;
  }
  return config;
}

}  // namespace

ExportResult export_hugging_face(
    const ModelSource& source, const std::filesystem::path& directory, const ExportOptions& options,
    const std::function<bool(std::uint64_t, std::uint64_t)>& progress) {
  const Family& family = find_family(source);
  const DecoderSpec spec = read_spec(family, source);
  const std::vector<ModelTensor> tensors = read_tensors(family, spec, source);
  ExportResult result;
  std::vector<SafetensorsDecl> decls;
  for (const ModelTensor& tensor : tensors) {
    decls.push_back({hugging_face_name(family, tensor.info.name), tensor.info.shape, options.type});
    result.bytes += static_cast<std::uint64_t>(tensor.rows.rows() * tensor.rows.cols()) *
                    dtype_traits(options.type).bytes;
  }
  result.tensors = static_cast<std::int64_t>(decls.size());
  const std::string config = config_of(family, spec, source, tensors, options.type).dump(2) + "\n";
  NewFolder folder(directory);
  write_text(folder.path() / "config.json", config);
  result.without_tokenizer = write_tokenizer(source, spec, folder.path());
  SafetensorsWriter writer(folder.path() / "model.safetensors", true, decls);
  std::uint64_t done = 0;
  std::vector<std::byte> bytes;
  for (const ModelTensor& tensor : tensors) {
    for_each_row(tensor, rotated_heads(family, spec, tensor.info.name),
                 [&](const std::vector<float>& row) {
                   bytes.clear();
                   result.clipped += append_values(row, options.type, bytes);
                   writer.write(bytes);
                   done += bytes.size();
                 });
    tensor.rows.release();
    if (progress && !progress(done, result.bytes)) {
      throw_error(ErrorCode::cancelled, "interrupted; {} was not written", directory.string());
    }
  }
  writer.finish();
  folder.commit();
  return result;
}

}  // namespace tenfold
