#pragma once
// The weights of a decoder in memory: matrices as MatrixViews (mapped where the file holds aligned
// F32, F16 or BF16; otherwise dequantized to F16, or F32 where a value does not fit), vectors as
// float32. Missing tensors and wrong shapes are bad_file naming the tensor, expected and found.

#include <vector>

#include "kernels/matrix.h"
#include "models/family.h"
#include "models/spec.h"

namespace tenfold {

struct Dense {
  QuantizedMatrix weight;   // [out, in]
  std::vector<float> bias;  // [out] or empty
};

struct Norm {
  std::vector<float> weight;  // [dim]
  std::vector<float> bias;    // [dim] or empty
};

struct LayerWeights {
  Norm attn_norm, ffn_norm;
  Dense q, k, v, output, gate, up, down;  // gate: gated MLP only
};

struct DecoderWeights {
  QuantizedMatrix token_embedding;     // [vocab, embed_dim]
  QuantizedMatrix position_embedding;  // [max_context + offset, dim]; learned positions only
  QuantizedMatrix project_in;          // [dim, embed_dim]; embed_dim != dim only
  QuantizedMatrix project_out;         // [embed_dim, dim]
  Norm final_norm;
  Dense head;  // empty where tied
  std::vector<LayerWeights> layers;
  std::int64_t parameters = 0;
  std::uint64_t bytes = 0, copied_bytes = 0;
  std::string types;  // "F16"; "Q4_1 and Q8_0 as F16"
};

DecoderWeights load_weights(const Family& family, const DecoderSpec& spec,
                            const ModelSource& source);

// All tensors a decoder of this spec may have, in file order, by GGUF name and with their shapes.
struct TensorShape {
  std::string name;
  std::vector<std::int64_t> shape;
  bool required;
};
std::vector<TensorShape> decoder_tensors(const DecoderSpec& spec);

// The tensor, its shape and type checked; nullptr where it is absent and not required.
const TensorSource* find_weight(const Family& family, const ModelSource& source,
                                const TensorShape& expected);

}  // namespace tenfold
