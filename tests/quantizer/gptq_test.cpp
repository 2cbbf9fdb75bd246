#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "kernels/formats/codec.h"
#include "quantizer/gptq/realize.h"
#include "quantizer/rtn/realize.h"
#include "runtime/files/packed_matrix.h"
#include "tests/support/random.h"

namespace tenfold {
namespace {

// Inputs whose channels are correlated and of different strength, as activations are.
std::vector<float> inputs(std::int64_t tokens, std::int64_t cols) {
  const std::vector<float> base = random_floats(static_cast<std::size_t>(tokens * cols), 3);
  std::vector<float> x(base.size());
  for (std::int64_t t = 0; t < tokens; ++t) {
    float common = 0;
    for (std::int64_t c = 0; c < cols; ++c) {
      const float fresh = base[static_cast<std::size_t>(t * cols + c)];
      common = 0.7f * common + fresh;
      const float strength = c % 17 == 5 ? 6.0f : 0.3f + static_cast<float>(c % 5) * 0.2f;
      x[static_cast<std::size_t>(t * cols + c)] = strength * common;
    }
  }
  return x;
}

struct Case {
  std::int64_t rows, cols;
  std::vector<float> weights, x;
  TensorSource tensor;
  Hessian hessian;

  Case(std::int64_t n_rows, std::int64_t n_cols, std::int64_t tokens)
      : rows(n_rows),
        cols(n_cols),
        weights(random_floats(static_cast<std::size_t>(n_rows * n_cols), 11, 0.1f)),
        x(inputs(tokens, n_cols)),
        tensor{"w", {rows, cols}, DType::f32, std::as_bytes(std::span(weights))},
        hessian(n_cols) {
    const auto backend = make_cpu_backend({2, "", Activations::int8});
    hessian.add(x.data(), tokens / 2, *backend);
    hessian.add(x.data() + tokens / 2 * n_cols, tokens - tokens / 2, *backend);
  }
  RowReader reader() const { return RowReader(SourceWeight{&tensor, nullptr}, 0); }

  // Mean over tokens of the squared error of all outputs.
  double output_error(const MatrixView& matrix) const {
    const std::int64_t tokens = static_cast<std::int64_t>(x.size()) / cols;
    std::vector<float> row(static_cast<std::size_t>(cols));
    double total = 0;
    for (std::int64_t r = 0; r < rows; ++r) {
      dequantize_row(matrix, r, row.data());
      std::vector<double> error(static_cast<std::size_t>(cols));
      for (std::int64_t c = 0; c < cols; ++c) {
        const auto at = static_cast<std::size_t>(c);
        const std::size_t source =
            matrix.map.source == nullptr ? at : static_cast<std::size_t>(matrix.map.source[at]);
        error[source] += weights[static_cast<std::size_t>(r * cols) + source] - row[at];
      }
      for (std::int64_t t = 0; t < tokens; ++t) {
        double sum = 0;
        for (std::int64_t c = 0; c < cols; ++c) {
          sum += error[static_cast<std::size_t>(c)] * x[static_cast<std::size_t>(t * cols + c)];
        }
        total += sum * sum;
      }
    }
    return total / static_cast<double>(tokens);
  }
};

MatrixPlan plan_of(Format format, MinKind min, std::int64_t group, std::int64_t cols,
                   RangeKind range = RangeKind::weighted) {
  MatrixPlan plan;
  plan.bands = {{format, min, group, 0, cols}};
  plan.range = range;
  return plan;
}

GptqResult gptq(const Case& one, const MatrixPlan& plan, const GptqOptions& options,
                int threads = 2) {
  ThreadPool pool(threads);
  const GptqInput input(one.hessian, plan.order, options, pool);
  return realize_gptq(one.reader(), plan, input, pool, "w", [](std::int64_t) {});
}

QuantizedMatrix rtn(const Case& one, const MatrixPlan& plan, std::span<const float> importance) {
  ThreadPool pool(2);
  return realize(
      one.reader(), plan, pool, "w", [](std::int64_t) {}, importance);
}

TEST(Hessian, IsTheMeanProductOfInputs) {
  const Case one(1, 37, 1100);
  for (const auto& [i, j] : {std::pair{0, 0}, {3, 20}, {36, 5}, {22, 22}}) {
    double sum = 0;
    for (std::size_t t = 0; t < 1100; ++t) {
      sum += static_cast<double>(one.x[t * 37 + static_cast<std::size_t>(i)]) *
             one.x[t * 37 + static_cast<std::size_t>(j)];
    }
    EXPECT_NEAR(one.hessian.mean(i, j), sum / 1100,
                1e-5 * std::fabs(one.hessian.mean(i, i)) + 1e-6);
  }
  EXPECT_EQ(one.hessian.tokens(), 1100);
}

// Sizes around the blocks of the factorization.
TEST(Feedback, FactorsTheHessian) {
  for (const std::int64_t n : {1, 5, 63, 64, 65, 130, 200}) {
    const Case one(1, n, 600);
    std::vector<std::int32_t> order;
    for (std::int64_t i = 0; i < n; ++i)
      order.push_back(static_cast<std::int32_t>((i * 7 + 3) % n));
    if (n % 7 == 0) order.clear();
    double trace = 0;
    for (std::int64_t i = 0; i < n; ++i) trace += one.hessian.mean(i, i);
    for (const int threads : {1, 2}) {
      ThreadPool pool(threads);
      const Feedback feedback = factor(one.hessian, order, 0.01, pool);
      EXPECT_EQ(feedback.damping, 0.01);
      const auto u = [&](std::int64_t i, std::int64_t j) {
        return i == j ? 1.0 : i > j ? 0.0 : double{feedback.u[static_cast<std::size_t>(i * n + j)]};
      };
      const auto from = [&](std::int64_t i) {
        return order.empty() ? i : std::int64_t{order[static_cast<std::size_t>(i)]};
      };
      for (std::int64_t i = 0; i < n; ++i) {
        for (std::int64_t j = i; j < n; ++j) {
          double sum = 0;
          for (std::int64_t k = j; k < n; ++k) {
            sum += u(i, k) * double{feedback.d[static_cast<std::size_t>(k)]} * u(j, k);
          }
          const double expected = one.hessian.mean(from(i), from(j)) * (i == j ? 1.01 : 1.0);
          ASSERT_NEAR(sum, expected, 1e-5 * trace) << n << ": " << i << ", " << j;
        }
      }
    }
  }
}

TEST(Feedback, DampsWhatIsSingular) {
  Hessian hessian(8);
  const std::vector<float> x(8, 1.0f);  // one token: rank one
  const auto backend = make_cpu_backend({1, "", Activations::int8});
  hessian.add(x.data(), 1, *backend);
  ThreadPool pool(1);
  for (const double damping : {0.0, 1e-17}) {
    const Feedback feedback = factor(hessian, {}, damping, pool);
    EXPECT_GT(feedback.damping, 1e-17);
    for (const float d : feedback.d) EXPECT_GT(d, 0);
  }
}

TEST(Gptq, LossIsThatOfTheOutputs) {
  const Case one(21, 200, 900);
  for (const bool act_order : {false, true}) {
    const GptqResult result =
        gptq(one, plan_of(Format::q3, MinKind::zero, 64, 200), {0.0, act_order});
    const double measured = one.output_error(result.matrix.view);
    EXPECT_NEAR(result.loss, measured, 1e-3 * measured);
  }
}

TEST(Gptq, BeatsRoundingToNearest) {
  const Case one(40, 320, 1200);
  for (const Format format : {Format::q1, Format::q2, Format::q3, Format::q4, Format::q8}) {
    for (const std::int64_t group : {64, 128, 0}) {
      const MinKind min = format == Format::q1 ? MinKind::f16 : MinKind::zero;
      const MatrixPlan plan = plan_of(format, min, group, 320);
      const double nearest = one.output_error(rtn(one, plan, one.hessian.diagonal()).view);
      for (const bool act_order : {false, true}) {
        EXPECT_LT(gptq(one, plan, {0.01, act_order}).loss, nearest)
            << static_cast<int>(format) << " group " << group << " act order " << act_order;
      }
    }
  }
}

TEST(Gptq, RoundsTwoBandsInAnyColumnOrder) {
  const Case one(18, 160, 700);
  MatrixPlan plan;
  plan.range = RangeKind::weighted;
  plan.bands = {{Format::q4, MinKind::zero, 0, 0, 32}, {Format::q1, MinKind::f16, 0, 32, 160}};
  for (std::int32_t c = 0; c < 160; ++c) plan.order.push_back((c * 53 + 7) % 160);
  std::vector<float> importance;
  for (const std::int32_t c : plan.order) {
    importance.push_back(one.hessian.diagonal()[static_cast<std::size_t>(c)]);
  }
  const double nearest = one.output_error(rtn(one, plan, importance).view);
  for (const bool act_order : {false, true}) {
    const GptqResult result = gptq(one, plan, {0.0, act_order});
    const double measured = one.output_error(result.matrix.view);
    EXPECT_NEAR(result.loss, measured, 1e-3 * measured);
    EXPECT_LT(measured, nearest);
  }
}

TEST(Gptq, GivesTheSameBytesForAnyNumberOfThreads) {
  const Case one(50, 192, 800);
  const MatrixPlan plan = plan_of(Format::q2, MinKind::midrise, 64, 192);
  const GptqResult a = gptq(one, plan, {}, 1);
  const GptqResult b = gptq(one, plan, {}, 2);
  EXPECT_EQ(a.loss, b.loss);
  const auto x = parts(a.matrix.view);
  const auto y = parts(b.matrix.view);
  ASSERT_EQ(x.size(), y.size());
  for (std::size_t i = 0; i < x.size(); ++i) {
    ASSERT_EQ(x[i].size(), y[i].size());
    EXPECT_EQ(0, std::memcmp(x[i].data(), y[i].data(), x[i].size()));
  }
}

TEST(WeightedRange, CountsErrorsByImportance) {
  const Case one(32, 256, 900);
  const std::vector<float> importance = one.hessian.diagonal();
  const auto loss = [&](std::span<const float> used) {
    const QuantizedMatrix matrix =
        rtn(one, plan_of(Format::q2, MinKind::zero, 64, 256, RangeKind::mse), used);
    std::vector<float> row(256);
    double total = 0;
    for (std::int64_t r = 0; r < 32; ++r) {
      dequantize_row(matrix.view, r, row.data());
      for (std::size_t c = 0; c < 256; ++c) {
        const double error = one.weights[static_cast<std::size_t>(r) * 256 + c] - row[c];
        total += importance[c] * error * error;
      }
    }
    return total;
  };
  EXPECT_LT(loss(importance), 0.95 * loss({}));
}

}  // namespace
}  // namespace tenfold
