#pragma once
// The weights of a decoder in memory: matrices as MatrixViews, vectors as float32. Packed bands and
// aligned F32, F16 or BF16 are used where they lie in the mapped file; Q4_0, Q4_1 and Q8_0 are
// repacked without loss; other block types become F16, or F32 where a value does not fit.

#include <vector>

#include "kernels/matrix.h"
#include "models/family.h"
#include "models/spec.h"
#include "models/tensors.h"

namespace tenfold {

// What loading does with a weight, as its file holds it.
enum class LoadedAs { is, repacked, f16 };  // `is`: mapped, or copied where it is not aligned
LoadedAs loaded_as(const SourceWeight& weight);

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
  std::string types;  // "F16"; "Q4_1 and Q8_0 repacked"; "q4 g128 zero, q8 g128 zero"
};

// Of q and k where they are rotated: as the source has them, or as GGUF does.
enum class RowOrder { source, gguf };

// Matrices that read the same input (q, k, v; gate, up) point to one map where theirs are equal, so
// that the input is prepared once.
DecoderWeights load_weights(const Family& family, const DecoderSpec& spec,
                            const ModelSource& source, RowOrder order = RowOrder::source);

}  // namespace tenfold
