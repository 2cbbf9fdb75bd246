#pragma once
// The activations of one step. Buffers grow to the largest step seen and stay, so a token loop
// allocates nothing once warm. Shapes are [tokens of the step, channels], float32.

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "kernels/backend.h"

namespace tenfold {

// The inputs of a layer's products, and of the head.
enum class LinearInput { qkv, attn_output, mlp, down, head };
// Sees an input [tokens, cols] before its products run; false ends the layer (or the head) there.
using InputTap =
    std::function<bool(LinearInput, const float* x, std::int64_t tokens, std::int64_t cols)>;

struct Workspace {
  explicit Workspace(std::unique_ptr<Backend> device) : backend(std::move(device)) {}

  std::unique_ptr<Backend> backend;
  Scratch x;  // the residual stream
  Scratch normed, q, k, v, attended, gate, up, narrow;
  Scratch rope_cos, rope_sin;     // [tokens, head_dim / 2]
  Scratch logits;                 // [logit rows, vocab]
  std::vector<std::int32_t> ids;  // row indices for embed_rows
  std::vector<const std::int32_t*> page_tables;
  InputTap input_tap;  // of calibration; empty otherwise

  bool goes_on(LinearInput input, const float* linear_input, std::int64_t tokens,
               std::int64_t cols) const {
    return !input_tap || input_tap(input, linear_input, tokens, cols);
  }
};

}  // namespace tenfold
