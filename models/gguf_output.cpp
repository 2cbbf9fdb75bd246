#include "models/gguf_output.h"

#include <cmath>

#include "kernels/half.h"
#include "runtime/tokenizer.h"

namespace tenfold {
namespace {

void append_value(float value, DType type, std::vector<std::byte>& out, std::int64_t& clipped) {
  const auto put = [&](const auto& bits) {
    const auto* p = reinterpret_cast<const std::byte*>(&bits);
    out.insert(out.end(), p, p + sizeof bits);
  };
  if (type == DType::f32) return put(value);
  if (type == DType::bf16) return put(f32_to_bf16(value));
  if (std::fabs(value) > kMaxF16) {
    ++clipped;
    value = std::copysign(kMaxF16, value);
  }
  put(f32_to_f16(value));
}

}  // namespace

GgufMetadata model_metadata(const Family& family, const DecoderSpec& spec,
                            const ModelSource& source) {
  GgufMetadata keys;
  keys.set("general.architecture", std::string(family.architecture));
  keys.set("general.type", std::string("model"));
  keys.set("general.name", spec.name);
  keys.set("general.alignment", std::uint32_t{64});
  family.to_gguf(spec, keys);
  if (source.is_gguf()) {
    for (const auto& [key, value] : source.gguf().metadata().entries) {
      if (key.rfind("tokenizer.", 0) == 0) keys.set(key, value);
    }
  } else if (const auto tokenizer = load_tokenizer(source)) {
    write_tokenizer_keys(*tokenizer, keys, spec.vocab);
  }
  return keys;
}

std::vector<float> rope_divisors(const DecoderSpec& spec) {
  if (spec.rope.scaling != RopeScaling::llama3) return spec.rope.divisors;
  RopeSpec plain;
  plain.theta = spec.rope.theta;
  const std::vector<double> base = plain.frequencies(spec.head_dim);
  const std::vector<double> scaled = spec.rope.frequencies(spec.head_dim);
  std::vector<float> divisors;
  for (std::size_t i = 0; i < base.size(); ++i) {
    divisors.push_back(static_cast<float>(base[i] / scaled[i]));
  }
  return divisors;
}

std::int64_t append_values(std::span<const float> values, DType type, std::vector<std::byte>& out) {
  std::int64_t clipped = 0;
  for (const float value : values) append_value(value, type, out, clipped);
  return clipped;
}

std::int64_t write_rows(const RowReader& rows, DType type, GgufWriter& writer) {
  std::vector<float> row(static_cast<std::size_t>(rows.cols()));
  std::vector<float> scratch(row.size());
  std::vector<std::byte> out;
  std::int64_t clipped = 0;
  for (std::int64_t r = 0; r < rows.rows(); ++r) {
    rows.read(r, row.data(), scratch.data());
    out.clear();
    clipped += append_values(row, type, out);
    writer.write(out);
  }
  rows.release();
  return clipped;
}

}  // namespace tenfold
