// Parts of a quantized matrix made again.

#include "quantizer/search/remake.h"

#include <gtest/gtest.h>

#include <numeric>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/formats/codec.h"
#include "quantizer/panel.h"
#include "quantizer/search/compensation.h"
#include "runtime/files/packed_matrix.h"
#include "tests/support/packed_matrix.h"
#include "tests/support/random.h"

namespace tenfold {
namespace {

constexpr std::int64_t kRows = 37, kCols = 160;

std::vector<float> row_of(const MatrixView& view, std::int64_t row) {
  std::vector<float> values(static_cast<std::size_t>(view.cols));
  dequantize_row(view, row, values.data());
  return values;
}

// Sum over rows of e H e^T: what the outputs miss.
double output_error(const float* weights, const MatrixView& quantized, const Hessian& moments,
                    ThreadPool& pool) {
  const auto cols = static_cast<std::size_t>(quantized.cols);
  std::vector<float> h(cols * cols);
  for (std::size_t i = 0; i < h.size(); ++i) {
    h[i] = static_cast<float>(
        moments.mean(static_cast<std::int64_t>(i / cols), static_cast<std::int64_t>(i % cols)));
  }
  std::vector<double> sums(static_cast<std::size_t>(quantized.rows));
  pool.run(static_cast<int>(quantized.rows), [&](int row, int) {
    std::vector<float> missed(cols), product(cols);
    dequantize_row(quantized, row, missed.data());
    const float* w = weights + static_cast<std::size_t>(row) * cols;
    for (std::size_t c = 0; c < cols; ++c) missed[c] = w[c] - missed[c];
    for (std::size_t i = 0; i < cols; ++i) {
      const float* from = h.data() + i * cols;
      for (std::size_t j = 0; j < cols; ++j) product[j] += missed[i] * from[j];
    }
    double sum = 0;
    for (std::size_t c = 0; c < cols; ++c) sum += static_cast<double>(missed[c] * product[c]);
    sums[static_cast<std::size_t>(row)] = sum;
  });
  return std::accumulate(sums.begin(), sums.end(), 0.0);
}

// Inputs of which neighbours are alike.
Hessian correlated_moments() {
  constexpr std::int64_t kTokens = 400;
  std::vector<float> x = random_floats(static_cast<std::size_t>(kTokens * kCols), 5);
  for (std::size_t i = x.size(); i-- > 1;) x[i] = 0.7f * x[i] + 0.9f * x[i - 1];
  Hessian moments(kCols);
  moments.add(x.data(), kTokens, *make_cpu_backend({1, ""}));
  return moments;
}

class Remake : public ::testing::TestWithParam<MinKind> {
 protected:
  ThreadPool pool_{2};
  PackedMatrix matrix_{kRows, kCols, {{Format::q2, GetParam(), 0, kCols, 64}}};
};
INSTANTIATE_TEST_SUITE_P(Minima, Remake,
                         ::testing::Values(MinKind::zero, MinKind::midrise, MinKind::f16));

TEST_P(Remake, RowsTakeTheirCodesWithThem) {
  const MatrixView& start = matrix_.view;
  const QuantizedMatrix made = copy_matrix(start);
  const std::vector<RowMove> moves = {{3, 36, 1.0f}, {36, 3, 2.0f}, {20, 20, 0.5f}, {21, 5, 1.0f}};
  move_rows(start, moves, made, pool_);
  for (std::int64_t row = 0; row < kRows; ++row) {
    std::int64_t from = row;
    float factor = 1;
    for (const RowMove& move : moves) {
      if (move.place == row) from = move.from, factor = move.factor;
    }
    std::vector<float> expected = row_of(start, from);
    for (float& value : expected) value *= factor;  // powers of two: exact in f16 too
    EXPECT_EQ(row_of(made.view, row), expected) << row;
  }
}

TEST_P(Remake, OnlyTheGroupsAskedForChange) {
  const std::vector<float> weights = random_floats(kRows * kCols, 6);
  const QuantizedMatrix made = copy_matrix(matrix_.view);
  const Hessian moments = correlated_moments();
  const std::vector<std::size_t> middle = {1};
  round_groups(weights.data(), middle, {RangeKind::mse, true, &moments, {}}, made, pool_);
  for (std::int64_t row = 0; row < kRows; ++row) {
    const std::vector<float> before = row_of(matrix_.view, row), after = row_of(made.view, row);
    for (std::size_t c = 0; c < kCols; ++c) {
      if (c < 64 || c >= 128) {
        ASSERT_EQ(after[c], before[c]) << row << ' ' << c;
      } else {
        ASSERT_NEAR(after[c], weights[static_cast<std::size_t>(row * kCols) + c], 0.7) << row;
      }
    }
  }
}

// Of rows past the last, too.
TEST_P(Remake, BytesDoNotDependOnThreads) {
  const std::vector<float> weights = random_floats(kRows * kCols, 6);
  const Hessian moments = correlated_moments();
  const std::vector<std::size_t> groups = {0, 2};
  std::vector<std::vector<std::byte>> bytes;
  for (const int threads : {1, 2, 3}) {
    ThreadPool pool(threads);
    const QuantizedMatrix made = copy_matrix(matrix_.view);
    round_groups(weights.data(), groups, {RangeKind::mse, false, &moments, 0.1}, made, pool);
    std::vector<std::byte>& all = bytes.emplace_back();
    for (const auto& part : parts(made.view)) all.insert(all.end(), part.begin(), part.end());
  }
  EXPECT_EQ(bytes[0], bytes[1]);
  EXPECT_EQ(bytes[0], bytes[2]);
}

TEST_P(Remake, CompensationMakesUpForErrorsThatStay) {
  const std::vector<float> weights = random_floats(kRows * kCols, 6);
  const Hessian moments = correlated_moments();
  const std::vector<std::size_t> all = {0, 1, 2};
  const std::vector<std::size_t> last = {2, 1};
  const QuantizedMatrix nearest = copy_matrix(matrix_.view);
  round_groups(weights.data(), all, {RangeKind::mse, true, &moments, {}}, nearest, pool_);
  const QuantizedMatrix compensated = copy_matrix(nearest.view);
  round_groups(weights.data(), last, {RangeKind::mse, true, &moments, 0.01}, compensated, pool_);
  const double before = output_error(weights.data(), nearest.view, moments, pool_);
  const double after = output_error(weights.data(), compensated.view, moments, pool_);
  EXPECT_LT(after, 0.9 * before);
  for (std::int64_t row = 0; row < kRows; ++row) {
    const std::vector<float> a = row_of(nearest.view, row), b = row_of(compensated.view, row);
    EXPECT_TRUE(std::equal(a.begin(), a.begin() + 64, b.begin())) << row;
  }
}

TEST_P(Remake, CompensatedRowsMissLessAndLeaveTheOthers) {
  const std::vector<float> weights = random_floats(kRows * kCols, 6);
  const Hessian moments = correlated_moments();
  const std::vector<std::size_t> all = {0, 1, 2};
  const QuantizedMatrix nearest = copy_matrix(matrix_.view);
  round_groups(weights.data(), all, {RangeKind::mse, true, &moments, {}}, nearest, pool_);
  const QuantizedMatrix compensated = copy_matrix(nearest.view);
  std::vector<std::int64_t> even;
  for (std::int64_t row = 0; row < kRows; row += 2) even.push_back(row);
  round_rows(weights.data(), even, {RangeKind::mse, true, &moments, 0.01}, compensated, pool_);
  EXPECT_LT(output_error(weights.data(), compensated.view, moments, pool_),
            0.9 * output_error(weights.data(), nearest.view, moments, pool_));
  const QuantizedMatrix whole = copy_matrix(nearest.view);
  round_groups(weights.data(), all, {RangeKind::mse, true, &moments, 0.01}, whole, pool_);
  for (std::int64_t row = 0; row < kRows; ++row) {
    const MatrixView& as = row % 2 == 0 ? whole.view : nearest.view;
    EXPECT_EQ(row_of(compensated.view, row), row_of(as, row)) << row;
  }
}

// What screens go by: of rows that are rounded whole, the error that their outputs get.
TEST_P(Remake, TheLossOfCompensatedRowsIsThatOfTheirOutputs) {
  const std::vector<float> weights = random_floats(kRows * kCols, 6);
  const Hessian moments = correlated_moments();
  const Compensation compensation(matrix_.view, all_groups(matrix_.view), moments, 1e-7, pool_);
  std::vector<RowToCompensate> rows;
  for (std::int64_t row = 0; row < kRows; ++row) {
    rows.push_back({weights.data() + row * kCols, {}});
  }
  double loss = 0;
  for (const CompensatedRow& row : compensation.round(rows, RangeKind::mse, {})) loss += row.loss;
  const QuantizedMatrix made = copy_matrix(matrix_.view);
  round_groups(weights.data(), all_groups(matrix_.view), {RangeKind::mse, false, &moments, 1e-7},
               made, pool_);
  EXPECT_NEAR(loss, output_error(weights.data(), made.view, moments, pool_), 1e-3 * loss);
}

}  // namespace
}  // namespace tenfold
