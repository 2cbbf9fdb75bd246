#pragma once
// What distinguishes one decoder from another. Families fill it from config.json or GGUF keys; the
// decoder runs it and knows no family.

#include <cstdint>
#include <string>
#include <vector>

namespace tenfold {

enum class NormKind { rms, layer };
enum class RopeScaling { none, linear, llama3 };

struct RopeSpec {
  bool enabled = false;
  bool interleaved = false;  // pairs (2i, 2i+1), as GGUF's llama rows; else (i, i + head_dim / 2)
  double theta = 10000.0;
  RopeScaling scaling = RopeScaling::none;
  double factor = 1.0;                                   // linear, llama3
  double low_freq_factor = 1.0, high_freq_factor = 4.0;  // llama3
  double original_context = 8192.0;                      // llama3
  std::vector<float> divisors;  // GGUF's rope_freqs.weight: divides each frequency; may be empty

  // Angle per position of each pair: [head_dim / 2].
  std::vector<double> frequencies(std::int64_t head_dim) const;
};

struct DecoderSpec {
  std::string architecture, name;
  std::int64_t layers = 0, dim = 0, ffn = 0, heads = 0, kv_heads = 0, head_dim = 0, vocab = 0;
  std::int64_t max_context = 0;
  std::int64_t embed_dim = 0;  // width of the embedding table; != dim: project_in and project_out
  NormKind norm = NormKind::rms;
  float norm_eps = 1e-5f;
  bool post_norm = false;  // norms after the residual sums (OPT-350m)
  bool final_norm = true;
  bool gated_mlp = false;            // down(silu(gate) * up), else down(relu(up))
  std::int64_t position_offset = 0;  // learned positions: row = position + offset
  bool learned_positions = false;
  RopeSpec rope;
  bool tied_head = false;

  // Throws unsupported or bad_file (naming `file`) where a field is out of range or inconsistent.
  void validate(const std::string& file) const;
};

}  // namespace tenfold
