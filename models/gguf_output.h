#pragma once
// What every GGUF that Tenfold writes has in common: the keys of family and tokenizer, the divisors
// of scaled rotary frequencies, and tensors of plain numbers. The same source gives the same bytes:
// no times, paths or host names.

#include <cstdint>
#include <span>
#include <vector>

#include "models/tensors.h"
#include "runtime/files/gguf.h"

namespace tenfold {

inline constexpr const char* kRopeDivisorsName = "rope_freqs.weight";

GgufMetadata model_metadata(const Family& family, const DecoderSpec& spec,
                            const ModelSource& source);

// llama3 scaling travels as the divisor of each frequency, as llama.cpp wants it. Empty: none.
std::vector<float> rope_divisors(const DecoderSpec& spec);

// Appends the values as `type` (f32, f16 or bf16). Returns how many lay outside F16's range and
// were written as +-65504.
std::int64_t append_values(std::span<const float> values, DType type, std::vector<std::byte>& out);

// Writes the rows as `type` and releases the source's pages. Returns what append_values() does.
std::int64_t write_rows(const RowReader& rows, DType type, GgufWriter& writer);

}  // namespace tenfold
