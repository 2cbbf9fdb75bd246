#include "models/weights.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cmath>
#include <cstring>
#include <set>

#include "kernels/error.h"
#include "kernels/half.h"

namespace tenfold {
namespace {

constexpr float kMaxF16 = 65504.0f;

std::string shape_text(const std::vector<std::int64_t>& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

// Dequantizes in slices and rounds to f16; false where a value does not fit.
bool dequantize_to_f16(const TensorSource& tensor, std::uint16_t* out) {
  const DTypeTraits traits = dtype_traits(tensor.dtype);
  const std::size_t blocks_per_slice = std::max<std::size_t>(1, 8192 / traits.block);
  std::vector<float> slice(blocks_per_slice * traits.block);
  const std::size_t n_blocks = tensor.data.size() / traits.bytes;
  for (std::size_t b = 0; b < n_blocks; b += blocks_per_slice) {
    const std::size_t n = std::min(blocks_per_slice, n_blocks - b);
    const std::span<float> values(slice.data(), n * traits.block);
    dequantize(tensor.dtype, tensor.data.subspan(b * traits.bytes, n * traits.bytes), values);
    for (const float value : values) {
      if (std::fabs(value) > kMaxF16) return false;
      *out++ = f32_to_f16(value);
    }
  }
  return true;
}

Format format_of(DType type) {
  return type == DType::f32 ? Format::f32 : type == DType::bf16 ? Format::bf16 : Format::f16;
}

class Loader {
 public:
  Loader(const Family& family, const ModelSource& source, DecoderWeights& weights)
      : family_(family), source_(source), weights_(weights) {}

  QuantizedMatrix matrix(const std::string& name, std::int64_t rows, std::int64_t cols) {
    const TensorSource& tensor = *find_weight(family_, source_, {name, {rows, cols}, true});
    QuantizedMatrix result;
    result.view = float_matrix(tensor.data.data(), format_of(tensor.dtype), rows, cols);
    const auto address = reinterpret_cast<std::uintptr_t>(tensor.data.data());
    const bool aligned = address % (tensor.dtype == DType::f32 ? 4 : 2) == 0;
    if (!is_float(tensor.dtype) || !aligned) copy_matrix(tensor, result);
    types_.insert(std::string(dtype_traits(tensor.dtype).name));
    weights_.parameters += rows * cols;
    weights_.bytes += result.view.bytes();
    weights_.copied_bytes += result.storage.bytes();
    return result;
  }

  std::vector<float> vector(const std::string& name, std::int64_t size, bool required) {
    const TensorSource* tensor = find_weight(family_, source_, {name, {size}, required});
    if (tensor == nullptr) return {};
    std::vector<float> values(static_cast<std::size_t>(size));
    dequantize(tensor->dtype, tensor->data, values);
    weights_.parameters += size;
    weights_.bytes += values.size() * sizeof(float);
    return values;
  }

  Dense dense(const std::string& stem, std::int64_t rows, std::int64_t cols) {
    return {matrix(stem + ".weight", rows, cols), vector(stem + ".bias", rows, false)};
  }

  Norm norm(const std::string& stem, const DecoderSpec& spec) {
    return {vector(stem + ".weight", spec.dim, true),
            vector(stem + ".bias", spec.dim, spec.norm == NormKind::layer)};
  }

  void describe_types() {
    std::set<std::string> direct;
    for (const char* name : {"F32", "F16", "BF16"}) {
      if (types_.erase(name) != 0) direct.insert(name);
    }
    weights_.types = fmt::format("{}", fmt::join(direct, ", "));
    if (types_.empty()) return;
    if (!direct.empty()) weights_.types += ", ";
    weights_.types += fmt::format("{} as F16", fmt::join(types_, " and "));
  }

 private:
  void copy_matrix(const TensorSource& tensor, QuantizedMatrix& result) const {
    const auto elements = static_cast<std::size_t>(tensor.elements());
    if (is_float(tensor.dtype)) {  // unaligned in its file
      result.storage = Buffer(tensor.data.size());
      std::memcpy(result.storage.data(), tensor.data.data(), tensor.data.size());
    } else {
      result.storage = Buffer(elements * 2);
      result.view.bands[0].format = Format::f16;
      if (!dequantize_to_f16(tensor, result.storage.as<std::uint16_t>())) {
        result.storage = Buffer(elements * 4);
        result.view.bands[0].format = Format::f32;
        dequantize(tensor.dtype, tensor.data, {result.storage.as<float>(), elements});
      }
    }
    result.view.bands[0].codes = result.storage.data();
  }

  const Family& family_;
  const ModelSource& source_;
  DecoderWeights& weights_;
  std::set<std::string> types_;
};

LayerWeights load_layer(Loader& load, const DecoderSpec& spec, std::int64_t index) {
  const std::string block = fmt::format("blk.{}.", index);
  const std::int64_t q_dim = spec.heads * spec.head_dim;
  const std::int64_t kv_dim = spec.kv_heads * spec.head_dim;
  LayerWeights layer;
  layer.attn_norm = load.norm(block + "attn_norm", spec);
  layer.q = load.dense(block + "attn_q", q_dim, spec.dim);
  layer.k = load.dense(block + "attn_k", kv_dim, spec.dim);
  layer.v = load.dense(block + "attn_v", kv_dim, spec.dim);
  layer.output = load.dense(block + "attn_output", spec.dim, q_dim);
  layer.ffn_norm = load.norm(block + "ffn_norm", spec);
  if (spec.gated_mlp) layer.gate = load.dense(block + "ffn_gate", spec.ffn, spec.dim);
  layer.up = load.dense(block + "ffn_up", spec.ffn, spec.dim);
  layer.down = load.dense(block + "ffn_down", spec.dim, spec.ffn);
  return layer;
}

}  // namespace

DecoderWeights load_weights(const Family& family, const DecoderSpec& spec,
                            const ModelSource& source) {
  DecoderWeights weights;
  Loader load(family, source, weights);
  weights.token_embedding = load.matrix("token_embd.weight", spec.vocab, spec.embed_dim);
  if (spec.learned_positions) {
    weights.position_embedding =
        load.matrix("position_embd.weight", spec.max_context + spec.position_offset, spec.dim);
  }
  if (spec.embed_dim != spec.dim) {
    weights.project_in = load.matrix("token_embd_proj.weight", spec.dim, spec.embed_dim);
    weights.project_out = load.matrix("output_proj.weight", spec.embed_dim, spec.dim);
  }
  for (std::int64_t i = 0; i < spec.layers; ++i) {
    weights.layers.push_back(load_layer(load, spec, i));
  }
  if (spec.final_norm) weights.final_norm = load.norm("output_norm", spec);
  if (!spec.tied_head) weights.head = load.dense("output", spec.vocab, spec.embed_dim);
  load.describe_types();
  return weights;
}

std::vector<TensorShape> decoder_tensors(const DecoderSpec& spec) {
  std::vector<TensorShape> list;
  const auto dense = [&](const std::string& stem, std::int64_t rows, std::int64_t cols) {
    list.push_back({stem + ".weight", {rows, cols}, true});
    list.push_back({stem + ".bias", {rows}, false});
  };
  const auto norm = [&](const std::string& stem) {
    list.push_back({stem + ".weight", {spec.dim}, true});
    if (spec.norm == NormKind::layer) list.push_back({stem + ".bias", {spec.dim}, true});
  };
  list.push_back({"token_embd.weight", {spec.vocab, spec.embed_dim}, true});
  if (spec.learned_positions) {
    list.push_back(
        {"position_embd.weight", {spec.max_context + spec.position_offset, spec.dim}, true});
  }
  if (spec.embed_dim != spec.dim) {
    list.push_back({"token_embd_proj.weight", {spec.dim, spec.embed_dim}, true});
    list.push_back({"output_proj.weight", {spec.embed_dim, spec.dim}, true});
  }
  const std::int64_t q_dim = spec.heads * spec.head_dim;
  const std::int64_t kv_dim = spec.kv_heads * spec.head_dim;
  for (std::int64_t i = 0; i < spec.layers; ++i) {
    const std::string block = fmt::format("blk.{}.", i);
    norm(block + "attn_norm");
    dense(block + "attn_q", q_dim, spec.dim);
    dense(block + "attn_k", kv_dim, spec.dim);
    dense(block + "attn_v", kv_dim, spec.dim);
    dense(block + "attn_output", spec.dim, q_dim);
    norm(block + "ffn_norm");
    if (spec.gated_mlp) dense(block + "ffn_gate", spec.ffn, spec.dim);
    dense(block + "ffn_up", spec.ffn, spec.dim);
    dense(block + "ffn_down", spec.dim, spec.ffn);
  }
  if (spec.final_norm) norm("output_norm");
  if (!spec.tied_head) dense("output", spec.vocab, spec.embed_dim);
  return list;
}

const TensorSource* find_weight(const Family& family, const ModelSource& source,
                                const TensorShape& expected) {
  const TensorSource* tensor = find_tensor(family, source, expected.name);
  if (tensor == nullptr) {
    if (expected.required) {
      throw_file_error(source.path(), "tensor \"{}\" is missing", expected.name);
    }
    return nullptr;
  }
  const std::string file = source.file_of(tensor->name);
  if (tensor->shape != expected.shape) {
    throw_file_error(file, "tensor \"{}\": shape {}, expected {}", tensor->name,
                     shape_text(tensor->shape), shape_text(expected.shape));
  }
  if (!dtype_traits(tensor->dtype).dequantizable) {
    throw_file_error(file, "tensor \"{}\": type {} cannot be a weight", tensor->name,
                     dtype_traits(tensor->dtype).name);
  }
  return tensor;
}

}  // namespace tenfold
