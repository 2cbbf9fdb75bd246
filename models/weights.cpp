#include "models/weights.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <initializer_list>
#include <optional>
#include <set>

#include "kernels/half.h"
#include "kernels/thread_pool.h"
#include "models/block_import.h"

namespace tenfold {
namespace {

constexpr std::size_t kSlice = 8192;  // weights dequantized at a time by a thread

Format float_format(DType dtype) {
  return dtype == DType::f32 ? Format::f32 : dtype == DType::f16 ? Format::f16 : Format::bf16;
}

// Dequantizes in slices and rounds to f16; false where a value does not fit.
bool dequantize_to_f16(const TensorSource& tensor, std::uint16_t* out, ThreadPool& pool) {
  const DTypeTraits traits = dtype_traits(tensor.dtype);
  const std::size_t slice_blocks = std::max<std::size_t>(1, kSlice / traits.block);
  const std::size_t slice = slice_blocks * traits.block;
  const std::size_t n_blocks = tensor.data.size() / traits.bytes;
  std::vector<float> scratch(slice * static_cast<std::size_t>(pool.size()));
  std::atomic<bool> fits{true};
  pool.run(static_cast<int>((n_blocks + slice_blocks - 1) / slice_blocks), [&](int i, int thread) {
    const std::size_t begin = static_cast<std::size_t>(i) * slice_blocks;
    const std::size_t n = std::min(slice_blocks, n_blocks - begin);
    const std::span<float> values(scratch.data() + static_cast<std::size_t>(thread) * slice,
                                  n * traits.block);
    dequantize(tensor.dtype, tensor.data.subspan(begin * traits.bytes, n * traits.bytes), values);
    for (std::size_t v = 0; v < values.size(); ++v) {
      if (std::fabs(values[v]) > kMaxF16) fits = false;
      out[begin * traits.block + v] = f32_to_f16(values[v]);
    }
  });
  return fits;
}

// A plain tensor that is not used where it lies.
QuantizedMatrix copy_matrix(const TensorSource& tensor, ThreadPool& pool) {
  const std::int64_t rows = tensor.shape[0];
  const std::int64_t cols = tensor.shape[1];
  const auto elements = static_cast<std::size_t>(tensor.elements());
  QuantizedMatrix result;
  Format format = Format::f16;
  if (is_float(tensor.dtype)) {  // unaligned in its file
    format = float_format(tensor.dtype);
    result.storage = Buffer(tensor.data.size());
    std::memcpy(result.storage.data(), tensor.data.data(), tensor.data.size());
  } else {
    result.storage = Buffer(elements * 2);
    if (!dequantize_to_f16(tensor, result.storage.as<std::uint16_t>(), pool)) {
      format = Format::f32;
      result.storage = Buffer(elements * 4);
      dequantize(tensor.dtype, tensor.data, {result.storage.as<float>(), elements});
    }
  }
  result.view = float_matrix(result.storage.data(), format, rows, cols);
  return result;
}

// pool(): made where it is needed.
template <typename Pool>
QuantizedMatrix load_matrix(const TensorSource& tensor, Pool&& pool) {
  if (const auto layout = exact_layout(tensor)) return import_blocks(tensor, *layout, pool());
  const auto address = reinterpret_cast<std::uintptr_t>(tensor.data.data());
  const bool aligned = address % (tensor.dtype == DType::f32 ? 4 : 2) == 0;
  if (!is_float(tensor.dtype) || !aligned) return copy_matrix(tensor, pool());
  QuantizedMatrix mapped;
  mapped.view = float_matrix(tensor.data.data(), float_format(tensor.dtype), tensor.shape[0],
                             tensor.shape[1]);
  return mapped;
}

// In f32: what is calibrated on does not change by it.
QuantizedMatrix copy_rows(const RowReader& rows) {
  QuantizedMatrix result;
  result.storage = Buffer(static_cast<std::size_t>(rows.rows() * rows.cols()) * sizeof(float));
  read_all(rows, result.storage.as<float>());
  result.view = float_matrix(result.storage.data(), Format::f32, rows.rows(), rows.cols());
  return result;
}

class Loader {
 public:
  Loader(const Family& family, const DecoderSpec& spec, const ModelSource& source, RowOrder order,
         DecoderWeights& weights)
      : family_(family), spec_(spec), source_(source), order_(order), weights_(weights) {}

  QuantizedMatrix matrix(const TensorShape& expected) {
    const SourceWeight weight = *find_weight(family_, source_, expected);
    QuantizedMatrix result;
    const std::int64_t heads = heads_to_interleave(expected.name);
    if (heads > 0) {
      result = copy_rows(RowReader(weight, heads));
    } else if (weight.packed != nullptr) {
      result.view = *weight.packed;
    } else {
      result = load_matrix(*weight.tensor, [this]() -> ThreadPool& { return pool(); });
      if (result.storage.bytes() > 0) release_pages(weight.tensor->data);
    }
    note_type(weight);
    weights_.parameters += weight.elements();
    weights_.bytes += result.view.bytes();
    weights_.copied_bytes += result.storage.bytes();
    return result;
  }

  QuantizedMatrix matrix(const std::string& name, std::int64_t rows, std::int64_t cols) {
    return matrix({name, {rows, cols}, true});
  }

  std::vector<float> vector(const std::string& name, std::int64_t size, bool required) {
    const auto weight = find_weight(family_, source_, {name, {size}, required});
    if (!weight) return {};
    std::vector<float> values(static_cast<std::size_t>(size));
    if (const std::int64_t heads = heads_to_interleave(name); heads > 0) {
      read_all(RowReader(*weight, heads), values.data());
    } else {
      dequantize(weight->tensor->dtype, weight->tensor->data, values);
    }
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
    std::vector<std::string> list(direct_.begin(), direct_.end());
    if (!repacked_.empty()) {
      list.push_back(fmt::format("{} repacked", fmt::join(repacked_, " and ")));
    }
    if (!widened_.empty()) list.push_back(fmt::format("{} as F16", fmt::join(widened_, " and ")));
    weights_.types = fmt::format("{}", fmt::join(list, ", "));
  }

 private:
  std::int64_t heads_to_interleave(const std::string& name) const {
    return order_ == RowOrder::gguf ? interleave_heads(family_, spec_, source_, name) : 0;
  }

  // Most models are mapped and need none.
  ThreadPool& pool() {
    if (!pool_) pool_.emplace(default_thread_count());
    return *pool_;
  }

  void note_type(const SourceWeight& weight) {
    const LoadedAs as = loaded_as(weight);
    auto& types = as == LoadedAs::is ? direct_ : as == LoadedAs::repacked ? repacked_ : widened_;
    types.insert(weight.type_text());
  }

  const Family& family_;
  const DecoderSpec& spec_;
  const ModelSource& source_;
  RowOrder order_;
  DecoderWeights& weights_;
  std::set<std::string> direct_, repacked_, widened_;
  std::optional<ThreadPool> pool_;
};

template <typename T>
void share(const T*& map, const T* first, std::int64_t cols) {
  if (map == nullptr || first == nullptr) return;
  if (std::memcmp(map, first, static_cast<std::size_t>(cols) * sizeof(T)) == 0) map = first;
}

// For matrices of one input.
void share_maps(std::initializer_list<Dense*> matrices) {
  const MatrixView& first = (*matrices.begin())->weight.view;
  for (Dense* dense : matrices) {
    MatrixView& view = dense->weight.view;
    share(view.map.source, first.map.source, first.cols);
    share(view.map.factor, first.map.factor, first.cols);
  }
}

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
  share_maps({&layer.q, &layer.k, &layer.v});
  if (spec.gated_mlp) share_maps({&layer.gate, &layer.up});
  return layer;
}

}  // namespace

LoadedAs loaded_as(const SourceWeight& weight) {
  if (!weight.quantized() || weight.packed != nullptr) return LoadedAs::is;
  return exact_layout(*weight.tensor) ? LoadedAs::repacked : LoadedAs::f16;
}

DecoderWeights load_weights(const Family& family, const DecoderSpec& spec,
                            const ModelSource& source, RowOrder order) {
  DecoderWeights weights;
  Loader load(family, spec, source, order, weights);
  weights.token_embedding =
      load.matrix({"token_embd.weight", {spec.vocab, spec.embed_dim}, true, true});
  if (spec.learned_positions) {
    weights.position_embedding = load.matrix(
        {"position_embd.weight", {spec.max_context + spec.position_offset, spec.dim}, true, true});
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

}  // namespace tenfold
