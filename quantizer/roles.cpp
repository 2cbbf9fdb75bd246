#include "quantizer/roles.h"

#include <fmt/format.h>

#include <charconv>

#include "kernels/error.h"

namespace tenfold {
namespace {

struct Role {
  std::string_view short_name, name;
  LinearInput input;
  Dense LayerWeights::*dense;
};
constexpr Role kRoles[kLayerMatrices] = {
    {"q", ".attn_q.", LinearInput::qkv, &LayerWeights::q},
    {"k", ".attn_k.", LinearInput::qkv, &LayerWeights::k},
    {"v", ".attn_v.", LinearInput::qkv, &LayerWeights::v},
    {"output", ".attn_output.", LinearInput::attn_output, &LayerWeights::output},
    {"gate", ".ffn_gate.", LinearInput::mlp, &LayerWeights::gate},
    {"up", ".ffn_up.", LinearInput::mlp, &LayerWeights::up},
    {"down", ".ffn_down.", LinearInput::down, &LayerWeights::down}};

const Role& role(LayerMatrix matrix) { return kRoles[static_cast<std::size_t>(matrix)]; }

}  // namespace

LinearInput input_of(LayerMatrix matrix) noexcept { return role(matrix).input; }

Dense& dense_of(LayerWeights& layer, LayerMatrix matrix) noexcept {
  return layer.*role(matrix).dense;
}

const Dense& dense_of(const LayerWeights& layer, LayerMatrix matrix) noexcept {
  return layer.*role(matrix).dense;
}

Norm& norm_of(LayerWeights& layer, LayerNorm norm) noexcept {
  return norm == LayerNorm::attn ? layer.attn_norm : layer.ffn_norm;
}

const Norm& norm_of(const LayerWeights& layer, LayerNorm norm) noexcept {
  return norm == LayerNorm::attn ? layer.attn_norm : layer.ffn_norm;
}

std::string_view name_of(LayerMatrix matrix) noexcept { return role(matrix).short_name; }

std::string tensor_name(std::int64_t layer, LayerMatrix matrix) {
  const std::string_view name = role(matrix).name;
  return fmt::format("blk.{}{}", layer, name.substr(0, name.size() - 1));
}

std::string tensor_name(std::int64_t layer, LayerNorm norm) {
  return fmt::format("blk.{}.{}", layer, norm == LayerNorm::attn ? "attn_norm" : "ffn_norm");
}

std::optional<LayerMatrix> parse_layer_matrix(std::string_view name) noexcept {
  for (std::size_t i = 0; i < kLayerMatrices; ++i) {
    if (kRoles[i].short_name == name) return static_cast<LayerMatrix>(i);
  }
  return std::nullopt;
}

std::optional<LayerMatrix> find_layer_matrix(const std::string& name) noexcept {
  for (std::size_t i = 0; i < kLayerMatrices; ++i) {
    if (name.find(kRoles[i].name) != std::string::npos) return static_cast<LayerMatrix>(i);
  }
  return std::nullopt;
}

LayerMatrix layer_matrix(const std::string& name) {
  if (const std::optional<LayerMatrix> found = find_layer_matrix(name)) return *found;
  throw_error(ErrorCode::unsupported, "tensor \"{}\" has no place in a layer", name);
}

std::int64_t layer_of(const std::string& name) {
  constexpr std::string_view kPrefix = "blk.";
  std::int64_t layer = -1;
  if (name.starts_with(kPrefix)) {
    std::from_chars(name.data() + kPrefix.size(), name.data() + name.size(), layer);
  }
  return layer;
}

}  // namespace tenfold
