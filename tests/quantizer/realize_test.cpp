// Round to nearest over whole matrices.

#include "quantizer/rtn/realize.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/formats/codec.h"
#include "quantizer/columns.h"
#include "runtime/files/packed_matrix.h"
#include "tests/support/expect_error.h"
#include "tests/support/random.h"

namespace tenfold {
namespace {

struct FloatMatrix {
  std::vector<float> values;
  TensorSource tensor;

  FloatMatrix(std::int64_t rows, std::int64_t cols, std::uint32_t seed)
      : values(random_floats(static_cast<std::size_t>(rows * cols), seed, 0.1f)) {
    tensor.name = "w";
    tensor.shape = {rows, cols};
    tensor.data = std::as_bytes(std::span(values));
  }
  FloatMatrix(const FloatMatrix&) = delete;
  FloatMatrix& operator=(const FloatMatrix&) = delete;
  RowReader rows() const { return {SourceWeight{&tensor, nullptr}, 0}; }
};

QuantizedMatrix realize_with(const FloatMatrix& source, const MatrixPlan& plan, int threads) {
  ThreadPool pool(threads);
  return realize(source.rows(), plan, pool, "w", [](std::int64_t) {});
}

MatrixPlan one_band(Format format, MinKind kind, std::int64_t group, std::int64_t cols,
                    RangeKind range) {
  MatrixPlan plan;
  plan.bands = {{format, kind, group, 0, cols}};
  plan.range = range;
  return plan;
}

// Reads every weight back and compares it with the grid of its group.
void expect_grids(const FloatMatrix& source, const MatrixPlan& plan, const MatrixView& view) {
  std::vector<float> row(static_cast<std::size_t>(view.cols));
  std::vector<float> own(row.size());
  for (std::int64_t r = 0; r < view.rows; ++r) {
    const float* weights = source.values.data() + r * view.cols;
    for (std::size_t c = 0; c < own.size(); ++c) {
      own[c] = weights[plan.order.empty() ? c : static_cast<std::size_t>(plan.order[c])];
    }
    dequantize_row(view, r, row.data());
    for (const Band& band : view.all_bands()) {
      for (std::int64_t begin = band.col_begin; begin < band.col_end; begin += band.group) {
        const auto n = static_cast<std::size_t>(std::min(band.group, band.col_end - begin));
        const std::span<const float> group(own.data() + begin, n);
        const int bits = format_traits(band.format).bits;
        const Grid grid = fit_group(group, {bits, band.min_kind, plan.range});
        std::vector<std::uint8_t> codes(n);
        encode_group(group, grid, bits, codes.data());
        for (std::size_t i = 0; i < n; ++i) {
          ASSERT_EQ(row[static_cast<std::size_t>(begin) + i], grid.scale * codes[i] + grid.min)
              << "row " << r << ", column " << begin << " + " << i;
        }
      }
    }
  }
}

TEST(Realize, EveryFormatAtOddShapes) {
  for (const Format format : {Format::q1, Format::q2, Format::q3, Format::q4, Format::q8}) {
    for (const MinKind kind : {MinKind::zero, MinKind::midrise, MinKind::f16}) {
      for (const auto& [rows, cols, group] : {std::tuple{1, 64, 32}, std::tuple{17, 100, 64},
                                              std::tuple{33, 33, 0}, std::tuple{16, 200, 128}}) {
        SCOPED_TRACE(::testing::Message() << format_traits(format).name << ' ' << rows << " x "
                                          << cols << " g" << group);
        const FloatMatrix source(rows, cols, 3);
        for (const RangeKind range : {RangeKind::minmax, RangeKind::mse}) {
          const MatrixPlan plan = one_band(format, kind, group, cols, range);
          expect_grids(source, plan, realize_with(source, plan, 2).view);
        }
      }
    }
  }
}

MatrixPlan mixed_plan(const FloatMatrix& source) {
  ThreadPool pool(2);
  std::vector<double> scores;
  add_column_scores(source.rows(), pool, scores);
  MatrixPlan plan;
  const std::int64_t cols = source.tensor.shape[1];
  const std::int64_t first = mixed_columns(0.2, cols);
  plan.bands = {{Format::q4, MinKind::zero, 0, 0, first},
                {Format::q1, MinKind::f16, 0, first, cols}};
  plan.order = column_order(scores, first);
  return plan;
}

TEST(Realize, MixedBandsFollowTheOrder) {
  const FloatMatrix source(40, 150, 9);
  const MatrixPlan plan = mixed_plan(source);
  const QuantizedMatrix matrix = realize_with(source, plan, 2);
  ASSERT_NE(matrix.view.map.source, nullptr);
  EXPECT_TRUE(std::equal(plan.order.begin(), plan.order.end(), matrix.view.map.source));
  EXPECT_NE(matrix.view.map.source, plan.order.data()) << "the matrix must own its map";
  expect_grids(source, plan, matrix.view);
}

TEST(Realize, BytesIgnoreTheNumberOfThreads) {
  const FloatMatrix source(300, 96, 4);
  for (const MatrixPlan& plan :
       {one_band(Format::q3, MinKind::zero, 32, 96, RangeKind::mse), mixed_plan(source)}) {
    const QuantizedMatrix one = realize_with(source, plan, 1);
    const QuantizedMatrix three = realize_with(source, plan, 3);
    ASSERT_EQ(one.storage.bytes(), three.storage.bytes());
    EXPECT_EQ(std::memcmp(one.storage.data(), three.storage.data(), one.storage.bytes()), 0);
  }
}

TEST(Realize, PanelsAloneGiveTheWhole) {
  const FloatMatrix source(40, 96, 6);
  const MatrixPlan plan = one_band(Format::q4, MinKind::f16, 64, 96, RangeKind::mse);
  const QuantizedMatrix whole = realize_with(source, plan, 2);
  const QuantizedMatrix pieces = allocate_matrix(layout_of(plan, 40, 96));
  std::vector<std::uint8_t> codes(16 * 96);
  for (const std::int64_t panel : {2, 0, 1}) {
    realize_panel(source.values.data() + panel * 16 * 96, panel == 2 ? 8 : 16, plan, panel, pieces,
                  codes.data());
  }
  EXPECT_EQ(std::memcmp(whole.storage.data(), pieces.storage.data(), whole.storage.bytes()), 0);
}

// A matrix that is packed already in the very layout keeps its bytes.
TEST(Realize, CopiesCodesOfTheSameLayout) {
  const FloatMatrix source(20, 96, 8);
  const MatrixPlan plan = one_band(Format::q2, MinKind::midrise, 32, 96, RangeKind::mse);
  const QuantizedMatrix once = realize_with(source, plan, 1);
  ThreadPool pool(1);
  const QuantizedMatrix twice = realize(RowReader(SourceWeight{nullptr, &once.view}, 0), plan, pool,
                                        "w", [](std::int64_t) {});
  EXPECT_EQ(std::memcmp(once.storage.data(), twice.storage.data(), once.storage.bytes()), 0);
}

TEST(Realize, RefusesNumbersThatAreNot) {
  for (const float bad :
       {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    FloatMatrix source(20, 64, 8);
    source.values[18 * 64 + 5] = bad;
    const MatrixPlan plan = one_band(Format::q4, MinKind::zero, 32, 64, RangeKind::mse);
    const std::string message =
        testing::expect_error(ErrorCode::bad_file, [&] { realize_with(source, plan, 2); });
    EXPECT_NE(message.find("finite"), std::string::npos);
  }
}

TEST(Realize, SampledErrorIsTheWholeErrorOfFewPanels) {
  const FloatMatrix source(40, 64, 2);
  const MatrixPlan plan = one_band(Format::q2, MinKind::zero, 32, 64, RangeKind::mse);
  ThreadPool pool(2);
  double expected = 0;
  for (std::size_t begin = 0; begin < source.values.size(); begin += 32) {
    expected +=
        fit_group(std::span(source.values).subspan(begin, 32), {2, MinKind::zero, RangeKind::mse})
            .error;
  }
  EXPECT_NEAR(sampled_error(source.rows(), plan, pool, 64, "w"), expected, 1e-12 * expected);
  EXPECT_LT(sampled_error(source.rows(), plan, pool, 2, "w"), expected);
}

TEST(RowReader, UndoesAnInputMap) {
  const FloatMatrix source(20, 64, 5);
  const MatrixPlan plan = mixed_plan(source);
  const QuantizedMatrix matrix = realize_with(source, plan, 1);
  const RowReader reader(SourceWeight{nullptr, &matrix.view}, 0);
  std::vector<float> row(64), scratch(64), own(64);
  for (std::int64_t r = 0; r < 20; ++r) {
    reader.read(r, row.data(), scratch.data());
    dequantize_row(matrix.view, r, own.data());
    for (std::size_t c = 0; c < 64; ++c) {
      ASSERT_EQ(row[static_cast<std::size_t>(plan.order[c])], own[c]);
    }
  }
}

TEST(Columns, TheStrongestComeFirstInOrder) {
  EXPECT_EQ(mixed_columns(0.2, 576), 112);
  EXPECT_EQ(mixed_columns(0.001, 576), 16);
  EXPECT_EQ(mixed_columns(0.999, 64), 48);
  EXPECT_EQ(mixed_columns(0.5, 16), 0);
  const std::vector<std::int32_t> order = column_order({1, 5, 2, 5, 9, 0}, 3);
  EXPECT_EQ(order, (std::vector<std::int32_t>{1, 3, 4, 0, 2, 5}));
}

}  // namespace
}  // namespace tenfold
