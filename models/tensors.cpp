#include "models/tensors.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "kernels/error.h"
#include "kernels/formats/codec.h"

namespace tenfold {
namespace {

std::string shape_text(const std::vector<std::int64_t>& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

void check_shape(const ModelSource& source, const std::string& name,
                 const std::vector<std::int64_t>& found, const TensorShape& expected) {
  if (found == expected.shape) return;
  throw_file_error(source.file_of(name), "tensor \"{}\": shape {}, expected {}", name,
                   shape_text(found), shape_text(expected.shape));
}

}  // namespace

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
  list.push_back({"token_embd.weight", {spec.vocab, spec.embed_dim}, true, true});
  if (spec.learned_positions) {
    list.push_back(
        {"position_embd.weight", {spec.max_context + spec.position_offset, spec.dim}, true, true});
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

std::int64_t SourceWeight::elements() const noexcept {
  return tensor != nullptr ? tensor->elements() : packed->rows * packed->cols;
}

std::uint64_t SourceWeight::bytes() const noexcept {
  return tensor != nullptr ? tensor->data.size() : packed->bytes();
}

bool SourceWeight::quantized() const noexcept {
  return tensor == nullptr || !is_float(tensor->dtype);
}

std::string SourceWeight::type_text() const {
  return tensor != nullptr ? std::string(dtype_traits(tensor->dtype).name) : layout_text(*packed);
}

std::optional<SourceWeight> find_weight(const Family& family, const ModelSource& source,
                                        const TensorShape& expected) {
  if (const MatrixView* matrix = source.find_matrix(expected.name)) {
    check_shape(source, expected.name, {matrix->rows, matrix->cols}, expected);
    if (expected.by_row && !(matrix->map == InputMap{})) {
      throw_file_error(source.path(), "tensor \"{}\" has an input map, but its rows are looked up",
                       expected.name);
    }
    return SourceWeight{nullptr, matrix};
  }
  const TensorSource* tensor = find_tensor(family, source, expected.name);
  if (tensor == nullptr) {
    if (expected.required) {
      throw_file_error(source.path(), "tensor \"{}\" is missing", expected.name);
    }
    return std::nullopt;
  }
  check_shape(source, tensor->name, tensor->shape, expected);
  if (!dtype_traits(tensor->dtype).dequantizable) {
    throw_file_error(source.file_of(tensor->name), "tensor \"{}\": type {} cannot be a weight",
                     tensor->name, dtype_traits(tensor->dtype).name);
  }
  return SourceWeight{tensor, nullptr};
}

RowReader::RowReader(SourceWeight weight, std::int64_t interleave_heads)
    : weight_(weight), interleave_heads_(interleave_heads) {
  if (weight_.packed != nullptr) {
    rows_ = weight_.packed->rows;
    cols_ = weight_.packed->cols;
    return;
  }
  // Block types cannot be cut into single elements, so a vector is one row; those whose elements
  // are permuted come from Hugging Face and are floats.
  const bool one_row = weight_.tensor->shape.size() == 1 && interleave_heads == 0;
  rows_ = one_row ? 1 : weight_.tensor->shape.front();
  cols_ = weight_.tensor->elements() / rows_;
}

std::int64_t RowReader::source_row(std::int64_t row) const noexcept {
  if (interleave_heads_ == 0) return row;
  const std::int64_t head_dim = rows_ / interleave_heads_;
  const std::int64_t head = row / head_dim;
  const std::int64_t i = row % head_dim;
  return head * head_dim + (i % 2) * (head_dim / 2) + i / 2;
}

void RowReader::read(std::int64_t row, float* out, float* scratch) const noexcept {
  const auto n = static_cast<std::size_t>(cols_);
  if (weight_.tensor != nullptr) {
    const std::size_t row_bytes = weight_.tensor->data.size() / static_cast<std::size_t>(rows_);
    const auto from = static_cast<std::size_t>(source_row(row)) * row_bytes;
    dequantize(weight_.tensor->dtype, weight_.tensor->data.subspan(from, row_bytes), {out, n});
    return;
  }
  const InputMap& map = weight_.packed->map;
  if (map == InputMap{}) return dequantize_row(*weight_.packed, row, out);
  dequantize_row(*weight_.packed, row, scratch);
  std::fill(out, out + n, 0.0f);
  for (std::size_t c = 0; c < n; ++c) {
    const auto source = map.source == nullptr ? c : static_cast<std::size_t>(map.source[c]);
    out[source] += scratch[c] * (map.factor == nullptr ? 1.0f : map.factor[c]);
  }
}

void RowReader::release() const noexcept {
  if (weight_.tensor != nullptr) return release_pages(weight_.tensor->data);
  for (const auto& part : parts(*weight_.packed)) release_pages(part);
}

void read_all(const RowReader& rows, float* out) {
  std::vector<float> scratch(static_cast<std::size_t>(rows.cols()));
  for (std::int64_t r = 0; r < rows.rows(); ++r) {
    rows.read(r, out + r * rows.cols(), scratch.data());
  }
}

std::int64_t rotated_heads(const Family& family, const DecoderSpec& spec, std::string_view name) {
  if (!family.gguf_interleaves_rope) return 0;
  if (name.find(".attn_q.") != std::string_view::npos) return spec.heads;
  return name.find(".attn_k.") != std::string_view::npos ? spec.kv_heads : 0;
}

std::int64_t interleave_heads(const Family& family, const DecoderSpec& spec,
                              const ModelSource& source, const std::string& name) {
  return source.is_gguf() ? 0 : rotated_heads(family, spec, name);
}

std::vector<ModelTensor> read_tensors(const Family& family, const DecoderSpec& spec,
                                      const ModelSource& source) {
  std::vector<ModelTensor> tensors;
  for (TensorShape& tensor : decoder_tensors(spec)) {
    const auto found = find_weight(family, source, tensor);
    if (!found) continue;
    const std::int64_t heads = interleave_heads(family, spec, source, tensor.name);
    tensors.push_back({std::move(tensor), RowReader(*found, heads)});
  }
  return tensors;
}

}  // namespace tenfold
