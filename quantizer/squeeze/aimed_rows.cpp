#include "quantizer/squeeze/aimed_rows.h"

#include <algorithm>
#include <array>

namespace tenfold {
namespace {

constexpr std::size_t kRowsTogether = 16;  // side by side, for vectors
using Together = std::array<double, kRowsTogether>;

// w + H^-1 (C - H) w: damped, it stays near w.
std::vector<float> aimed(const RowReader& source, const Hessian& inputs, const CrossMoments& cross,
                         const Feedback& feedback, ThreadPool& pool) {
  const auto cols = static_cast<std::size_t>(source.cols());
  std::vector<float> weights(static_cast<std::size_t>(source.rows()) * cols);
  read_all(source, weights.data());
  std::vector<double> missing(cols * cols);  // C - H
  for (std::size_t i = 0; i < cols; ++i) {
    for (std::size_t j = 0; j < cols; ++j) {
      const auto a = static_cast<std::int64_t>(i), b = static_cast<std::int64_t>(j);
      missing[i * cols + j] = cross.mean(a, b) - inputs.mean(a, b);
    }
  }
  const auto rows = static_cast<std::size_t>(source.rows());
  pool.run(static_cast<int>((rows + kRowsTogether - 1) / kRowsTogether), [&](int block, int) {
    const std::size_t first = static_cast<std::size_t>(block) * kRowsTogether;
    const std::size_t count = std::min(kRowsTogether, rows - first);
    std::vector<Together> columns(cols), shift(cols);
    for (std::size_t c = 0; c < cols; ++c) {
      for (std::size_t r = 0; r < count; ++r) {
        columns[c][r] = static_cast<double>(weights[(first + r) * cols + c]);
      }
    }
    for (std::size_t i = 0; i < cols; ++i) {
      Together sums{};
      for (std::size_t j = 0; j < cols; ++j) {
        const double by = missing[i * cols + j];
        for (std::size_t r = 0; r < kRowsTogether; ++r) sums[r] += by * columns[j][r];
      }
      shift[i] = sums;
    }
    solve(feedback, std::span(shift));
    for (std::size_t c = 0; c < cols; ++c) {
      for (std::size_t r = 0; r < count; ++r) {
        weights[(first + r) * cols + c] += static_cast<float>(shift[c][r]);
      }
    }
  });
  return weights;
}

TensorSource as_tensor(const RowReader& source, const std::vector<float>& weights) {
  return {"", {source.rows(), source.cols()}, DType::f32, std::as_bytes(std::span(weights))};
}

}  // namespace

AimedRows::AimedRows(const RowReader& source, const Hessian& inputs, const CrossMoments& cross,
                     const Feedback& feedback, ThreadPool& pool)
    : weights_(aimed(source, inputs, cross, feedback, pool)),
      tensor_(as_tensor(source, weights_)),
      reader_(SourceWeight{&tensor_, nullptr}, 0) {}

}  // namespace tenfold
