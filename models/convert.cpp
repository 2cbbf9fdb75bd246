#include "models/convert.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/error.h"
#include "kernels/half.h"
#include "models/family.h"
#include "models/weights.h"
#include "runtime/tokenizer.h"

namespace tenfold {
namespace {

constexpr float kMaxF16 = 65504.0f;

struct Plan {
  GgufTensorDecl decl;
  const TensorSource* source = nullptr;
  std::int64_t interleave_heads = 0;  // > 0: rows are permuted per head
};

std::uint32_t file_type(DType type) {
  return type == DType::f32 ? 0u : type == DType::f16 ? 1u : 32u;  // llama.cpp's LLAMA_FTYPE_*
}

// Row of the source that becomes output row `row`: GGUF stores (i, i + half) as (2i, 2i + 1).
std::int64_t source_row(const Plan& plan, std::int64_t row) {
  if (plan.interleave_heads == 0) return row;
  const std::int64_t head_dim = plan.decl.shape.front() / plan.interleave_heads;
  const std::int64_t head = row / head_dim;
  const std::int64_t i = row % head_dim;
  return head * head_dim + (i % 2) * (head_dim / 2) + i / 2;
}

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

void write_tensor(const Plan& plan, GgufWriter& writer, std::int64_t& clipped) {
  const std::int64_t rows = plan.decl.shape.front();
  const std::int64_t cols = plan.source->elements() / rows;
  const std::size_t row_bytes = plan.source->data.size() / static_cast<std::size_t>(rows);
  // A vector is one row: block types cannot be cut into single elements.
  const bool whole = plan.decl.shape.size() == 1 && plan.interleave_heads == 0;
  std::vector<float> row(static_cast<std::size_t>(whole ? rows : cols));
  std::vector<std::byte> out;
  for (std::int64_t r = 0; r < (whole ? 1 : rows); ++r) {
    const auto from = static_cast<std::size_t>(source_row(plan, r)) * row_bytes;
    dequantize(plan.source->dtype,
               whole ? plan.source->data : plan.source->data.subspan(from, row_bytes), row);
    out.clear();
    for (const float value : row) append_value(value, plan.decl.dtype, out, clipped);
    writer.write(out);
  }
}

std::vector<Plan> plan_tensors(const Family& family, const DecoderSpec& spec,
                               const ModelSource& source, DType type) {
  std::vector<Plan> plans;
  for (const TensorShape& tensor : decoder_tensors(spec)) {
    const TensorSource* found = find_weight(family, source, tensor);
    if (found == nullptr) continue;
    Plan plan;
    plan.decl = {tensor.name, tensor.shape, tensor.shape.size() == 1 ? DType::f32 : type};
    plan.source = found;
    if (family.gguf_interleaves_rope && !source.is_gguf()) {
      if (tensor.name.find(".attn_q.") != std::string::npos) plan.interleave_heads = spec.heads;
      if (tensor.name.find(".attn_k.") != std::string::npos) plan.interleave_heads = spec.kv_heads;
    }
    plans.push_back(std::move(plan));
  }
  return plans;
}

// llama3 scaling travels as the divisor of each frequency, as llama.cpp wants it.
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

GgufMetadata make_metadata(const Family& family, const DecoderSpec& spec, const ModelSource& source,
                           DType type) {
  GgufMetadata keys;
  keys.set("general.architecture", std::string(family.architecture));
  keys.set("general.type", std::string("model"));
  keys.set("general.name", spec.name);
  keys.set("general.alignment", std::uint32_t{64});
  keys.set("general.file_type", file_type(type));
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

}  // namespace

ConvertResult convert_to_gguf(const ModelSource& source, const std::filesystem::path& output,
                              const ConvertOptions& options,
                              const std::function<bool(std::uint64_t, std::uint64_t)>& progress) {
  const Family& family = find_family(source);
  const DecoderSpec spec = read_spec(family, source);
  const std::vector<Plan> plans = plan_tensors(family, spec, source, options.type);
  const std::vector<float> divisors = rope_divisors(spec);
  ConvertResult result;
  std::vector<GgufTensorDecl> decls;
  for (const Plan& plan : plans) {
    decls.push_back(plan.decl);
    result.bytes +=
        static_cast<std::uint64_t>(plan.source->elements()) * dtype_traits(plan.decl.dtype).bytes;
  }
  if (!divisors.empty()) {
    decls.push_back(
        {"rope_freqs.weight", {static_cast<std::int64_t>(divisors.size())}, DType::f32});
    result.bytes += divisors.size() * sizeof(float);
  }
  result.tensors = static_cast<std::int64_t>(decls.size());
  GgufWriter writer(output, options.overwrite, make_metadata(family, spec, source, options.type),
                    std::move(decls));
  std::uint64_t done = 0;
  for (const Plan& plan : plans) {
    write_tensor(plan, writer, result.clipped);
    done +=
        static_cast<std::uint64_t>(plan.source->elements()) * dtype_traits(plan.decl.dtype).bytes;
    if (progress && !progress(done, result.bytes)) {
      throw_error(ErrorCode::cancelled, "interrupted; {} was not written", output.string());
    }
  }
  if (!divisors.empty()) writer.write(std::as_bytes(std::span(divisors)));
  writer.finish();
  return result;
}

}  // namespace tenfold
