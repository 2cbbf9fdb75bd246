#pragma once
// Second moments of the inputs of a linear layer, H = X^T X / n, and what error compensation needs
// of them.

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/backend.h"
#include "kernels/buffer.h"
#include "kernels/cpu/loops.h"
#include "kernels/thread_pool.h"

namespace tenfold {

// Sums in double over blocks of tokens added up in float32, in the order in which they come: the
// same for any number of threads.
class Hessian {
 public:
  explicit Hessian(std::int64_t cols);
  // x: [tokens, cols].
  void add(const float* x, std::int64_t tokens, Backend& backend);
  std::int64_t cols() const noexcept { return cols_; }
  std::int64_t tokens() const noexcept { return tokens_; }
  // Of these inputs (of all, where `columns` is empty), each times its factor (empty: 1).
  Hessian of(std::span<const std::int32_t> columns, std::span<const float> factors) const;
  // As if inputs i and i + 1 had been turned: to (cos a - sin b, sin a + cos b).
  void turn(std::int64_t i, float angle);
  // (1 - share) of these moments and share of the other's.
  void blend(const Hessian& other, double share);
  // Throws bad_request where an input was not: everything after it would be chosen by chance.
  void require_finite() const;
  double mean(std::int64_t i, std::int64_t j) const noexcept;
  std::vector<float> means() const;           // of all, [cols, cols]
  std::vector<float> diagonal() const;        // mean square of each input
  std::vector<float> mean_magnitude() const;  // mean |x| of each input

 private:
  std::int64_t cols_, tokens_ = 0;
  std::vector<double> sum_;        // [cols, cols]
  std::vector<double> magnitude_;  // [cols]
  Scratch transposed_, product_;
};

// Mean of x y^T over pairs of inputs of the same tokens.
class CrossMoments {
 public:
  explicit CrossMoments(std::int64_t cols);
  // x, y: [tokens, cols].
  void add(const float* x, const float* y, std::int64_t tokens, Backend& backend);
  void require_finite() const;  // as Hessian's
  double mean(std::int64_t i, std::int64_t j) const noexcept;

 private:
  std::int64_t cols_, tokens_ = 0;
  std::vector<double> sum_;  // [cols, cols]
  Scratch x_, y_, product_;
};

// H (1 + damping on the diagonal) = U D U^T with U unit upper triangular. Each input is damped by a
// share of its own power, not of the mean: a few channels of real models are so strong that a
// hundredth of the mean would drown all others. With e = w - q the loss of a row is
// sum_j D_j (e_j + sum_{i<j} e_i U_ij)^2: quantizing w_j + sum_{i<j} e_i U_ij to the nearest value,
// column after column, is GPTQ (the form of QuIP's LDLQ, which needs no inverse).
struct Feedback {
  std::vector<float> u;  // [cols, cols], of which i < j counts
  std::vector<float> d;  // [cols]
  double damping = 0;    // the share that was added to each diagonal element
};

// order: H's column at each place; empty: as they are. Damping grows tenfold until the matrix is
// positive definite. Throws bad_request where it never is.
Feedback factor(const Hessian& hessian, const std::vector<std::int32_t>& order, double damping,
                ThreadPool& pool);

// x of (H, damped) x = b, in place, in the order of the feedback; of as many right-hand sides as x
// holds numbers for each column.
using SideBySide = std::array<double, kSideBySide>;
void solve(const Feedback& feedback, std::span<SideBySide> x);
void solve(const Feedback& feedback, std::span<double> x);

}  // namespace tenfold
