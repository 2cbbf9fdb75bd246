#pragma once
// One decoder layer in float32, forward and backward, for methods that train a layer against its
// own full-precision output. Activations are not rounded and no cache is kept: a sequence goes
// through at once, from position 0. Gradients are those of the matrices alone, written by hand;
// tests compare them with differences.
//
// Memory for a sequence of T tokens: some 10 T dim + 6 T ffn + heads T^2 floats, and twice the
// largest matrix.

#include <array>
#include <cstdint>
#include <vector>

#include "kernels/backend.h"
#include "kernels/buffer.h"
#include "kernels/thread_pool.h"
#include "models/decoder.h"
#include "quantizer/roles.h"

namespace tenfold {

// [out, in] in the row order of the decoder; null for gate where there is none.
using BlockWeights = std::array<const float*, kLayerMatrices>;
using BlockGradients = std::array<float*, kLayerMatrices>;

struct MatrixShape {
  std::int64_t rows = 0, cols = 0;
  std::size_t elements() const noexcept { return static_cast<std::size_t>(rows * cols); }
};
MatrixShape shape_of(const DecoderSpec& spec, LayerMatrix matrix);

// dx += the gradient through a norm of the model. All [tokens, dim].
void norm_back(const DecoderSpec& spec, const Norm& norm, const float* x, const float* dy,
               std::int64_t tokens, float* dx, ThreadPool& pool);

class Block {
 public:
  Block(const DecoderSpec& spec, std::int64_t tokens, Backend& backend, ThreadPool& pool);

  // Norms and biases are those of `layer`. x, y: [tokens, dim]. Keeps what backward() needs.
  void forward(const LayerWeights& layer, const BlockWeights& weights, const float* x, float* y);
  // Of the last forward(). dy: [tokens, dim], the loss's gradient; dw: written.
  void backward(const LayerWeights& layer, const BlockWeights& weights, const float* dy,
                const BlockGradients& dw) {
    backward(layer, weights, dy, dw, nullptr, {});
  }
  // dx: written, too. squares: to each, [rows] of its matrix, the sum over tokens of the squares of
  // the gradient with respect to the matrix's outputs is added. Those of dw and squares that are
  // null are not wanted.
  void backward(const LayerWeights& layer, const BlockWeights& weights, const float* dy,
                const BlockGradients& dw, float* dx, const BlockGradients& squares);

 private:
  float* get(Scratch& scratch, std::int64_t cols) const {
    return scratch.get<float>(static_cast<std::size_t>(tokens_ * cols));
  }
  void normalize(const Norm& norm, const float* x, float* y);
  void rotate(float* x, std::int64_t heads, float direction);
  // y[m, n] = a[m, k] b[n, k]^T
  void multiply(const float* a, const float* b, float* y, std::int64_t m, std::int64_t n,
                std::int64_t k);
  void product(const float* w, MatrixShape shape, const Dense& dense, const float* x, float* y);
  void product_back_input(const float* w, MatrixShape shape, const float* dy, float* dx, bool add);
  void product_back_weight(MatrixShape shape, const float* x, const float* dy, float* dw);
  const float* transposed(Scratch& scratch, const float* x, std::int64_t rows, std::int64_t cols);
  void attend();
  void attend_back(const float* d_attended);

  const DecoderSpec& spec_;
  std::int64_t tokens_;
  Backend& backend_;
  ThreadPool& pool_;
  std::vector<float> cos_, sin_;  // [tokens, head_dim / 2]
  const float* x_ = nullptr;
  Scratch attn_in_, q_, k_, v_, attended_, attn_sum_, middle_, mlp_in_, gate_, up_, hidden_,
      mlp_sum_;
  Scratch probabilities_;  // [heads, tokens, tokens]
  Scratch d_sum_, d_middle_, d_hidden_, d_gate_, d_up_, d_in_, d_attended_, d_q_, d_k_, d_v_;
  Scratch left_, right_;                                      // transposed operands
  Scratch head_q_, head_k_, head_v_, head_o_, scores_, d_p_;  // of one head
};

}  // namespace tenfold
