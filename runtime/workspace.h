#pragma once
// The activations of one step. Buffers grow to the largest step seen and stay, so a token loop
// allocates nothing once warm. Shapes are [tokens of the step, channels], float32.

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "kernels/backend.h"

namespace tenfold {

struct Workspace {
  explicit Workspace(std::unique_ptr<Backend> device) : backend(std::move(device)) {}

  std::unique_ptr<Backend> backend;
  Scratch x;  // the residual stream
  Scratch normed, q, k, v, attended, gate, up, narrow;
  Scratch rope_cos, rope_sin;     // [tokens, head_dim / 2]
  Scratch logits;                 // [logit rows, vocab]
  std::vector<std::int32_t> ids;  // row indices for embed_rows
  std::vector<const std::int32_t*> page_tables;
};

}  // namespace tenfold
