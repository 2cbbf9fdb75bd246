#pragma once
// Turns a model's residual stream: another model that computes the same, whose weights have no
// channels that stand out (QuaRot, Ashkboos et al. 2024; QuIP#, Tseng et al. 2024). With U
// orthogonal, the stream is U x instead of x: embeddings and what writes to the stream are
// multiplied by U, what reads it by U^T, and the weights and biases of norms, which would stand in
// between, go into their readers. U leaves the vector of ones where it is, so that a LayerNorm's
// mean is what it was and the same U serves for both kinds of norm.

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "kernels/thread_pool.h"
#include "models/tensors.h"

namespace tenfold {

// U = B^T P B: B is a Hadamard matrix times a small orthogonal one of the odd factor of n, its
// first row constant; P reorders the other coordinates and changes signs, as the seed decides.
class ResidualRotation {
 public:
  ResidualRotation(std::int64_t n, std::uint64_t seed);
  void apply(float* x) const;  // [n], in place: U x

 private:
  void spread(std::vector<float>& x) const;  // B x
  void gather(std::vector<float>& x) const;  // B^T x
  std::int64_t n_, odd_;                     // n = 2^k odd
  std::vector<float> small_;                 // [odd, odd]
  std::vector<std::int32_t> order_;          // [n]
  std::vector<float> sign_;
};

class RotatedModel {
 public:
  // Throws unsupported where norms come after the residual sums or the embedding is narrower than
  // the stream. Both outlive this.
  RotatedModel(const DecoderSpec& spec, const std::vector<ModelTensor>& tensors,
               std::uint64_t seed);

  // Of the turned model, in file order: its head has its own matrix and, as the readers of a
  // LayerNorm do, a bias.
  const std::vector<TensorShape>& tensors() const noexcept { return shapes_; }
  // Calls write(values) for one piece of the tensor after another.
  void read(const TensorShape& tensor, ThreadPool& pool,
            const std::function<void(std::span<const float>)>& write) const;

 private:
  struct NormValues {
    std::vector<float> weight, bias;
  };
  const RowReader* find(const std::string& name) const;
  std::vector<float> vector_of(const std::string& name) const;
  const RowReader& matrix_of(const std::string& stem) const;
  NormValues norm_before(const std::string& stem) const;
  void read_rows(const RowReader& rows, std::span<const float> factors, ThreadPool& pool,
                 const std::function<void(std::span<const float>)>& write) const;
  std::vector<float> turned_columns(const RowReader& rows, ThreadPool& pool) const;
  std::vector<float> bias_of(const std::string& stem) const;

  const DecoderSpec& spec_;
  const std::vector<ModelTensor>& tensors_;
  ResidualRotation rotation_;
  std::vector<TensorShape> shapes_;
};

}  // namespace tenfold
