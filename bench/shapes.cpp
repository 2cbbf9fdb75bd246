#include "bench/shapes.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <array>

#include "kernels/error.h"

namespace tenfold {
namespace {

struct LlamaShape {
  const char* name;
  std::int64_t layers, dim, ffn, heads, kv_heads, vocab, context;
  double theta;
  bool tied;
};

struct OptShape {
  const char* name;
  std::int64_t layers, dim, heads;
};

constexpr std::array<LlamaShape, 6> kLlamaShapes = {{
    {"smollm2-135m", 30, 576, 1536, 9, 3, 49152, 8192, 1e5, true},
    {"smollm2-1.7b", 24, 2048, 8192, 32, 32, 49152, 8192, 1.3e5, true},
    {"tinyllama-1.1b", 22, 2048, 5632, 32, 4, 32000, 2048, 1e4, false},
    {"llama2-7b", 32, 4096, 11008, 32, 32, 32000, 4096, 1e4, false},
    {"llama2-13b", 40, 5120, 13824, 40, 40, 32000, 4096, 1e4, false},
    {"llama3-8b", 32, 4096, 14336, 32, 8, 128256, 8192, 5e5, false},
}};

constexpr std::array<OptShape, 5> kOptShapes = {{
    {"opt-125m", 12, 768, 12},
    {"opt-1.3b", 24, 2048, 32},
    {"opt-2.7b", 32, 2560, 32},
    {"opt-6.7b", 32, 4096, 32},
    {"opt-13b", 40, 5120, 40},
}};

DecoderSpec to_spec(const LlamaShape& shape) {
  DecoderSpec spec;
  spec.architecture = "llama";
  spec.layers = shape.layers;
  spec.dim = spec.embed_dim = shape.dim;
  spec.ffn = shape.ffn;
  spec.heads = shape.heads;
  spec.kv_heads = shape.kv_heads;
  spec.head_dim = shape.dim / shape.heads;
  spec.vocab = shape.vocab;
  spec.max_context = shape.context;
  spec.gated_mlp = true;
  spec.rope.enabled = true;
  spec.rope.theta = shape.theta;
  spec.tied_head = shape.tied;
  return spec;
}

DecoderSpec to_spec(const OptShape& shape) {
  DecoderSpec spec;
  spec.architecture = "opt";
  spec.layers = shape.layers;
  spec.dim = spec.embed_dim = shape.dim;
  spec.ffn = 4 * shape.dim;
  spec.heads = spec.kv_heads = shape.heads;
  spec.head_dim = shape.dim / shape.heads;
  spec.vocab = 50272;
  spec.max_context = 2048;
  spec.norm = NormKind::layer;
  spec.learned_positions = true;
  spec.position_offset = 2;
  spec.tied_head = true;
  return spec;
}

}  // namespace

DecoderSpec published_shape(std::string_view name) {
  for (const LlamaShape& shape : kLlamaShapes) {
    if (name == shape.name) return to_spec(shape);
  }
  for (const OptShape& shape : kOptShapes) {
    if (name == shape.name) return to_spec(shape);
  }
  throw_error(ErrorCode::bad_request, "--shape {} is unknown; choose one of {}", name,
              fmt::join(published_shapes(), ", "));
}

std::vector<std::string> published_shapes() {
  std::vector<std::string> names;
  for (const LlamaShape& shape : kLlamaShapes) names.emplace_back(shape.name);
  for (const OptShape& shape : kOptShapes) names.emplace_back(shape.name);
  return names;
}

}  // namespace tenfold
