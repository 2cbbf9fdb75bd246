#pragma once
// Quantizes a model as its recipe says, then searches (search.h), and writes the outcome.
//
// Both stages keep their work in OUT.gguf.work: the start, and every `checkpoint_every` steps the
// model as it stands, complete and of use by itself. An interrupted search resumes with the same
// steps to the same bytes.

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>

#include "quantizer/quantize.h"

namespace tenfold {

QuantizeResult search_model(const std::shared_ptr<const ModelSource>& source,
                            const std::filesystem::path& output, const QuantizeOptions& options,
                            const std::function<bool(std::uint64_t, std::uint64_t)>& progress);

}  // namespace tenfold
