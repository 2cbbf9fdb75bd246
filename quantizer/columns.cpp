#include "quantizer/columns.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace tenfold {
namespace {

// A fixed cut of the rows, whose sums are added in order: threads do not change the result.
constexpr std::int64_t kRowsPerSum = 256;
constexpr std::int64_t kEdge = 16;

}  // namespace

void add_column_scores(const RowReader& rows, ThreadPool& pool, std::vector<double>& scores) {
  const auto cols = static_cast<std::size_t>(rows.cols());
  const auto n_sums = static_cast<std::size_t>((rows.rows() + kRowsPerSum - 1) / kRowsPerSum);
  std::vector<std::vector<double>> sums(n_sums, std::vector<double>(cols));
  std::vector<std::vector<float>> scratch(static_cast<std::size_t>(pool.size()),
                                          std::vector<float>(2 * cols));
  pool.run(static_cast<int>(n_sums), [&](int chunk, int thread) {
    float* row = scratch[static_cast<std::size_t>(thread)].data();
    std::vector<double>& sum = sums[static_cast<std::size_t>(chunk)];
    const std::int64_t begin = chunk * kRowsPerSum;
    for (std::int64_t r = begin; r < std::min(begin + kRowsPerSum, rows.rows()); ++r) {
      rows.read(r, row, row + cols);
      for (std::size_t c = 0; c < cols; ++c) {
        sum[c] += static_cast<double>(row[c]) * static_cast<double>(row[c]);
      }
    }
  });
  scores.resize(cols);
  for (const std::vector<double>& sum : sums) {
    for (std::size_t c = 0; c < cols; ++c) scores[c] += sum[c];
  }
}

std::int64_t mixed_columns(double share, std::int64_t cols) {
  const std::int64_t most = (cols - 1) / kEdge * kEdge;
  const auto wanted = std::llround(share * static_cast<double>(cols) / kEdge) * kEdge;
  return std::min<std::int64_t>(std::max<std::int64_t>(wanted, kEdge), most);
}

std::vector<std::int32_t> column_order(const std::vector<double>& scores, std::int64_t first) {
  std::vector<std::int32_t> order(scores.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) {
    return scores[static_cast<std::size_t>(a)] > scores[static_cast<std::size_t>(b)];
  });
  std::sort(order.begin(), order.begin() + first);
  std::sort(order.begin() + first, order.end());
  return order;
}

std::vector<float> in_order(std::span<const float> values, const std::vector<std::int32_t>& order) {
  if (order.empty()) return {values.begin(), values.end()};
  std::vector<float> result;
  for (const std::int32_t c : order) result.push_back(values[static_cast<std::size_t>(c)]);
  return result;
}

}  // namespace tenfold
