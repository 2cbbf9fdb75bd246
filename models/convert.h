#pragma once
// Writes any model Tenfold reads as our GGUF, unquantized: 2-D tensors as F32, F16 or BF16, vectors
// as F32. For `llama` the result is an ordinary GGUF that llama.cpp runs: q/k rows permuted for
// interleaved rotation, llama3 scaling as rope_freqs.weight. Tensors are streamed one by one, those
// that write to a turned residual stream whole.

#include <filesystem>
#include <functional>
#include <optional>

#include "runtime/model_source.h"

namespace tenfold {

struct ConvertOptions {
  DType type = DType::f16;  // f32, f16 or bf16
  bool overwrite = false;
  std::optional<std::uint64_t> rotate = {};  // the residual stream, by this seed (rotate.h)
};

struct ConvertResult {
  std::int64_t tensors = 0;
  std::uint64_t bytes = 0;   // of tensor data
  std::int64_t clipped = 0;  // values beyond F16's range, written as +-65504
};

// progress(done, total) in bytes after each tensor; false cancels (nothing is left behind).
ConvertResult convert_to_gguf(const ModelSource& source, const std::filesystem::path& output,
                              const ConvertOptions& options,
                              const std::function<bool(std::uint64_t, std::uint64_t)>& progress);

}  // namespace tenfold
