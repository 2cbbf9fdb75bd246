#include "quantizer/squeeze/aimed_rows.h"

namespace tenfold {
namespace {

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
  pool.run(static_cast<int>(source.rows()), [&](int r, int) {
    float* row = weights.data() + static_cast<std::size_t>(r) * cols;
    std::vector<double> shift(cols);
    for (std::size_t i = 0; i < cols; ++i) {
      double sum = 0;
      for (std::size_t j = 0; j < cols; ++j) {
        sum += missing[i * cols + j] * static_cast<double>(row[j]);
      }
      shift[i] = sum;
    }
    solve(feedback, shift);
    for (std::size_t c = 0; c < cols; ++c) row[c] += static_cast<float>(shift[c]);
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
