#include "quantizer/squeeze/aimed_rows.h"

#include <algorithm>

#include "kernels/cpu/isa.h"

namespace tenfold {
namespace {

constexpr std::size_t kColumns = 128;  // of a block of rows, that stay in the first cache

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
  pool.run(static_cast<int>((rows + kSideBySide - 1) / kSideBySide), [&](int block, int) {
    const std::size_t first = static_cast<std::size_t>(block) * kSideBySide;
    const std::size_t count = std::min(kSideBySide, rows - first);
    std::vector<SideBySide> columns(cols), shift(cols);
    for (std::size_t c = 0; c < cols; ++c) {
      for (std::size_t r = 0; r < count; ++r) {
        columns[c][r] = static_cast<double>(weights[(first + r) * cols + c]);
      }
    }
    for (std::size_t j = 0; j < cols; j += kColumns) {
      const auto n = static_cast<std::int64_t>(std::min(kColumns, cols - j));
      for (std::size_t i = 0; i < cols; ++i) {
        loops().add_products(missing.data() + i * cols + j, columns[j].data(), n, shift[i].data());
      }
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
