#pragma once
// The matrices of a decoder layer by the part they play.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "models/weights.h"
#include "runtime/workspace.h"

namespace tenfold {

enum class LayerMatrix { q, k, v, output, gate, up, down };
inline constexpr std::size_t kLayerMatrices = 7;
inline constexpr std::size_t kLayerInputs = 4;  // of LinearInput

LinearInput input_of(LayerMatrix matrix) noexcept;
Dense& dense_of(LayerWeights& layer, LayerMatrix matrix) noexcept;
const Dense& dense_of(const LayerWeights& layer, LayerMatrix matrix) noexcept;
// The norms whose outputs q, k and v, and gate and up read, where norms come before.
enum class LayerNorm { attn, ffn };
Norm& norm_of(LayerWeights& layer, LayerNorm norm) noexcept;
const Norm& norm_of(const LayerWeights& layer, LayerNorm norm) noexcept;
// "q", "k", "v", "output", "gate", "up", "down".
std::string_view name_of(LayerMatrix matrix) noexcept;
std::optional<LayerMatrix> parse_layer_matrix(std::string_view name) noexcept;
// "blk.7.attn_q", of its weight and bias.
std::string tensor_name(std::int64_t layer, LayerMatrix matrix);
std::string tensor_name(std::int64_t layer, LayerNorm norm);
// "blk.7.attn_q.weight" and its bias: q. Throws unsupported for other names.
LayerMatrix layer_matrix(const std::string& name);
std::optional<LayerMatrix> find_layer_matrix(const std::string& name) noexcept;
// "blk.7.attn_q.weight": 7; -1 for tensors outside the layers.
std::int64_t layer_of(const std::string& name);

}  // namespace tenfold
