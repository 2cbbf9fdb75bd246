#pragma once
// Writes a model as a Hugging Face directory that transformers loads: config.json,
// model.safetensors (dequantized) and the tokenizer's files. Tensors are streamed one by one.

#include <filesystem>
#include <functional>
#include <string>

#include "runtime/model_source.h"

namespace tenfold {

struct ExportOptions {
  DType type = DType::f16;  // f32, f16 or bf16, of all tensors
};

struct ExportResult {
  std::int64_t tensors = 0;
  std::uint64_t bytes = 0;
  std::int64_t clipped = 0;       // values beyond F16's range, written as +-65504
  std::string without_tokenizer;  // why it has none, where it has none
};

// The directory must not exist; it appears when it is complete. progress(done, total) in bytes;
// false cancels. Throws unsupported where Hugging Face has no name for what the model does.
ExportResult export_hugging_face(const ModelSource& source, const std::filesystem::path& directory,
                                 const ExportOptions& options,
                                 const std::function<bool(std::uint64_t, std::uint64_t)>& progress);

}  // namespace tenfold
