// The layer that OmniQuant trains: its forward pass against the engine's, its gradients against
// differences; learned grids against the range search.

#include <gtest/gtest.h>

#include <cmath>

#include "kernels/formats/codec.h"
#include "quantizer/omniquant/learn.h"
#include "quantizer/rtn/realize.h"
#include "runtime/model.h"
#include "tests/support/random.h"
#include "tests/support/tiny_model.h"

namespace tenfold {
namespace {

constexpr std::int64_t kTokens = 13;

// A layer of a model, its weights as float32, and an input.
class Layer {
 public:
  explicit Layer(const std::string& name, int threads = 2)
      : source(std::make_shared<const ModelSource>(testing::data_model(name))),
        model(load_decoder(source, RowOrder::gguf)),
        tensors(read_tensors(find_family(*source), model->spec(), *source)),
        backend(make_cpu_backend({threads, "", Activations::int8})),
        pool(threads),
        block(model->spec(), kTokens, *backend, pool) {
    for (const ModelTensor& tensor : tensors) {
      if (!tensor.info.is_matrix() || layer_of(tensor.info.name) != 1) continue;
      const auto role = static_cast<std::size_t>(layer_matrix(tensor.info.name));
      const RowReader& rows = tensor.rows;
      readers[role] = &rows;
      values[role].resize(static_cast<std::size_t>(rows.rows() * rows.cols()));
      std::vector<float> scratch(static_cast<std::size_t>(rows.cols()));
      for (std::int64_t r = 0; r < rows.rows(); ++r) {
        rows.read(r, values[role].data() + r * rows.cols(), scratch.data());
      }
      gradients[role].resize(values[role].size());
    }
    x = random_floats(static_cast<std::size_t>(kTokens * model->spec().dim), 3);
  }

  BlockWeights weights() const {
    BlockWeights result{};
    for (std::size_t i = 0; i < kLayerMatrices; ++i) {
      if (!values[i].empty()) result[i] = values[i].data();
    }
    return result;
  }
  BlockGradients d_weights() {
    BlockGradients result{};
    for (std::size_t i = 0; i < kLayerMatrices; ++i) {
      if (!values[i].empty()) result[i] = gradients[i].data();
    }
    return result;
  }
  const LayerWeights& layer() { return model->weights().layers[1]; }
  std::vector<float> output() {
    std::vector<float> y(x.size());
    block.forward(layer(), weights(), x.data(), y.data());
    return y;
  }

  std::shared_ptr<const ModelSource> source;
  std::unique_ptr<Decoder> model;
  std::vector<ModelTensor> tensors;
  std::unique_ptr<Backend> backend;
  ThreadPool pool;
  Block block;
  std::array<const RowReader*, kLayerMatrices> readers{};
  std::array<std::vector<float>, kLayerMatrices> values, gradients;
  std::vector<float> x;
};

class BlockOf : public ::testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Models, BlockOf,
                         ::testing::Values("llama-mha", "llama-gqa-rope3-tied",
                                           "llama-headdim-bias", "opt-pre-ln", "opt-post-ln-proj"));

TEST_P(BlockOf, ForwardIsTheEnginesLayer) {
  Layer at(GetParam());
  Workspace ws(make_cpu_backend({2, "", Activations::int8}));
  KvCache kv(kv_shape(at.model->info(), KvType::f32), kTokens, 1, *ws.backend);
  Batch batch;
  for (std::int32_t t = 0; t < kTokens; ++t) batch.add(5, t, 0);
  begin_step(*at.model, batch, kv, ws);
  ws.set_stream(at.x);
  at.model->layer(1, batch, kv, ws);
  const std::span<const float> expected = ws.stream(at.x.size());
  const std::vector<float> y = at.output();
  for (std::size_t i = 0; i < y.size(); ++i) ASSERT_NEAR(y[i], expected[i], 2e-4) << i;
}

// The derivative of sum(c y) along a random direction of each matrix.
TEST_P(BlockOf, GradientsAreThoseOfDifferences) {
  Layer at(GetParam());
  const std::vector<float> c = random_floats(at.x.size(), 7);
  const auto value = [&] {
    const std::vector<float> y = at.output();
    double sum = 0;
    for (std::size_t i = 0; i < y.size(); ++i) {
      sum += static_cast<double>(c[i]) * static_cast<double>(y[i]);
    }
    return sum;
  };
  value();
  at.block.backward(at.layer(), at.weights(), c.data(), at.d_weights());
  for (std::size_t m = 0; m < kLayerMatrices; ++m) {
    if (at.values[m].empty()) continue;
    SCOPED_TRACE(name_of(static_cast<LayerMatrix>(m)));
    const std::vector<float> direction =
        random_floats(at.values[m].size(), static_cast<std::uint32_t>(m) + 20);
    const std::vector<float> kept = at.values[m];
    double length = 0;
    double predicted = 0;
    double gradient_length = 0;
    for (std::size_t i = 0; i < kept.size(); ++i) {
      const auto g = static_cast<double>(at.gradients[m][i]);
      const auto d = static_cast<double>(direction[i]);
      length += d * d;
      gradient_length += g * g;
      predicted += g * d;
    }
    constexpr double kStep = 2e-3;
    const auto moved = [&](double by) {
      for (std::size_t i = 0; i < kept.size(); ++i) {
        at.values[m][i] = kept[i] + static_cast<float>(by) * direction[i];
      }
      return value();
    };
    const double measured = (moved(kStep) - moved(-kStep)) / (2 * kStep);
    at.values[m] = kept;
    EXPECT_NEAR(measured, predicted, 0.02 * std::sqrt(gradient_length * length) / 10);
    EXPECT_GT(gradient_length, 0);
  }
}

MatrixPlan plan_of(int bits, MinKind kind, std::int64_t group, std::int64_t cols, RangeKind range) {
  MatrixPlan plan;
  plan.range = range;
  plan.bands = {{*packed_format(bits), kind, group, 0, cols}};
  return plan;
}

TEST(LearnedMatrix, StartsWhereTheRangeSearchEndedAndItsGridsGiveItsValues) {
  Layer at("llama-mha");
  const RowReader& rows = *at.readers[static_cast<std::size_t>(LayerMatrix::down)];
  for (const MinKind kind : {MinKind::zero, MinKind::midrise, MinKind::f16}) {
    for (const int bits : {1, 2, 3}) {
      MatrixPlan plan = plan_of(bits, kind, 32, rows.cols(), RangeKind::mse);
      const std::vector<float> ones(static_cast<std::size_t>(rows.cols()), 1.0f);
      const std::vector<float> first =
          dequantized(realize(rows, plan, at.pool, "test", [](std::int64_t) {}).view);
      LearnedMatrix learned(rows, plan, {}, at.pool, "test");
      std::vector<float> values(first.size());
      learned.rounded(ones, values.data());
      EXPECT_EQ(values, first) << bits;
      std::vector<double> d_factor(ones.size());
      const std::vector<float> gradient = random_floats(values.size(), 5);
      for (int step = 1; step <= 5; ++step) {
        learned.learn(ones, gradient.data(), AdamStep(0.02f, step), 0, d_factor);
      }
      learned.rounded(ones, values.data());
      EXPECT_NE(values, first);
      plan.grids = learned.grids();
      EXPECT_EQ(dequantized(realize(rows, plan, at.pool, "test", [](std::int64_t) {}).view), values)
          << bits;
    }
  }
}

// After codes are chosen: values are the matrix's, steps go down the gradient, and what is written
// is what was learned.
TEST(LearnedMatrix, TunesTheGridsOfCodesThatStay) {
  Layer at("llama-mha");
  const RowReader& rows = *at.readers[static_cast<std::size_t>(LayerMatrix::down)];
  const std::vector<float> ones(static_cast<std::size_t>(rows.cols()), 1.0f);
  for (const MinKind kind : {MinKind::zero, MinKind::midrise, MinKind::f16}) {
    MatrixPlan plan = plan_of(2, kind, 32, rows.cols(), RangeKind::mse);
    const QuantizedMatrix made = realize(rows, plan, at.pool, "test", [](std::int64_t) {});
    const std::vector<float> first = dequantized(made.view);
    LearnedMatrix learned(made, plan.order, LearnedCodes::none, at.pool);
    std::vector<float> values(first.size());
    learned.rounded(ones, values.data());
    EXPECT_EQ(values, first);
    // Towards values that other grids of the same codes have exactly.
    std::vector<float> wanted = first;
    for (float& value : wanted) value = 1.25f * value + (kind == MinKind::f16 ? 0.01f : 0.0f);
    std::vector<float> gradient(first.size());
    std::vector<double> d_factor(ones.size());
    const auto error = [&] {
      double sum = 0;
      for (std::size_t i = 0; i < values.size(); ++i) {
        gradient[i] = values[i] - wanted[i];
        sum += static_cast<double>(gradient[i]) * static_cast<double>(gradient[i]);
      }
      return sum;
    };
    const double before = error();
    for (int step = 1; step <= 150; ++step) {
      learned.learn(ones, gradient.data(), AdamStep(0.01f, step), 0, d_factor);
      learned.rounded(ones, values.data());
      error();
    }
    EXPECT_LT(error(), 0.01 * before);
    learned.write(made);
    EXPECT_EQ(dequantized(made.view), values);
  }
}

// Codes that were chosen badly find their way back, those of the first band alone where only they
// may, and are written.
TEST(LearnedMatrix, LearnsCodes) {
  Layer at("llama-mha");
  const RowReader& rows = *at.readers[static_cast<std::size_t>(LayerMatrix::down)];
  const std::int64_t cols = rows.cols();
  const std::vector<float> ones(static_cast<std::size_t>(cols), 1.0f);
  MatrixPlan plan;
  plan.bands = {{Format::q3, MinKind::zero, 32, 0, 16}, {Format::q2, MinKind::zero, 32, 16, cols}};
  const std::vector<float> wanted =
      dequantized(realize(rows, plan, at.pool, "test", [](std::int64_t) {}).view);
  for (const LearnedCodes which : {LearnedCodes::high, LearnedCodes::all}) {
    const QuantizedMatrix made = realize(rows, plan, at.pool, "test", [](std::int64_t) {});
    std::byte* codes = writable(made, made.view.bands[0].codes);
    codes[1] ^= std::byte{1};  // the lowest bit of a code of each band
    codes = writable(made, made.view.bands[1].codes);
    codes[2] ^= std::byte{1};
    LearnedMatrix learned(made, plan.order, which, at.pool);
    std::vector<float> values(wanted.size()), gradient(wanted.size());
    std::vector<double> d_factor(ones.size());
    const auto errors = [&](std::int64_t begin, std::int64_t end) {
      int wrong = 0;
      for (std::size_t i = 0; i < values.size(); ++i) {
        gradient[i] = values[i] - wanted[i];
        const auto c = static_cast<std::int64_t>(i) % cols;
        wrong += c >= begin && c < end && values[i] != wanted[i] ? 1 : 0;
      }
      return wrong;
    };
    learned.rounded(ones, values.data());
    EXPECT_EQ(errors(0, 16), 1);
    EXPECT_EQ(errors(16, cols), 1);
    for (int step = 1; step <= 20; ++step) {
      learned.learn(ones, gradient.data(), AdamStep(0.0f, step), 0.05f, d_factor);
      learned.rounded(ones, values.data());
      errors(0, cols);
    }
    EXPECT_EQ(errors(0, 16), 0);
    EXPECT_EQ(errors(16, cols), which == LearnedCodes::all ? 0 : 1);
    learned.write(made);
    EXPECT_EQ(dequantized(made.view), values);
  }
}

// From the outermost range, following the squared error's gradient comes near the range search.
TEST(LearnedMatrix, FindsABetterRange) {
  Layer at("llama-mha");
  const auto role = static_cast<std::size_t>(LayerMatrix::up);
  const RowReader& rows = *at.readers[role];
  const std::vector<float>& weights = at.values[role];
  const std::vector<float> ones(static_cast<std::size_t>(rows.cols()), 1.0f);
  const auto error = [&](const std::vector<float>& values) {
    double sum = 0;
    for (std::size_t i = 0; i < values.size(); ++i) {
      sum += std::pow(static_cast<double>(values[i] - weights[i]), 2);
    }
    return sum;
  };
  for (const MinKind kind : {MinKind::zero, MinKind::midrise, MinKind::f16}) {
    const MatrixPlan plan = plan_of(2, kind, 64, rows.cols(), RangeKind::minmax);
    MatrixPlan best = plan;
    best.range = RangeKind::mse;
    LearnedMatrix learned(rows, plan, {}, at.pool, "test");
    std::vector<float> values(weights.size());
    std::vector<float> gradient(weights.size());
    std::vector<double> d_factor(ones.size());
    learned.rounded(ones, values.data());
    const double before = error(values);
    for (int step = 1; step <= 200; ++step) {
      for (std::size_t i = 0; i < values.size(); ++i) gradient[i] = values[i] - weights[i];
      learned.learn(ones, gradient.data(), AdamStep(0.01f, step), 0, d_factor);
      learned.rounded(ones, values.data());
    }
    const double searched =
        error(dequantized(realize(rows, best, at.pool, "test", [](std::int64_t) {}).view));
    EXPECT_LT(error(values), before);
    EXPECT_LT(error(values), 1.15 * searched);
  }
}

// Q(w f) / f does not depend on f where rounding loses nothing.
TEST(LearnedMatrix, ScalesHaveNoGradientWhereNothingIsLost) {
  Layer at("llama-mha");
  const RowReader& rows = *at.readers[static_cast<std::size_t>(LayerMatrix::up)];
  std::vector<float> factor = random_floats(static_cast<std::size_t>(rows.cols()), 9);
  for (float& f : factor) f = std::exp(-0.5f * std::fabs(f));  // nothing is clamped
  const std::vector<float> ones(static_cast<std::size_t>(rows.rows() * rows.cols()), 1.0f);
  const auto largest = [&](int bits) {
    LearnedMatrix learned(rows, plan_of(bits, MinKind::f16, 32, rows.cols(), RangeKind::minmax), {},
                          at.pool, "test");
    std::vector<double> d_factor(factor.size());
    learned.learn(factor, ones.data(), AdamStep(0.0f, 1), 0, d_factor);
    double most = 0;
    for (const double d : d_factor) most = std::max(most, std::fabs(d));
    return most;
  };
  EXPECT_LT(20 * largest(8), largest(2));
}

LearnResult learn(Layer& at, std::vector<std::vector<Grid>>& grids, const LearnOptions& options,
                  std::int64_t held_out) {
  constexpr std::int64_t kSequences = 9;
  const DecoderSpec& spec = at.model->spec();
  const auto size = static_cast<std::size_t>(kTokens * spec.dim);
  const std::vector<float> inputs = random_floats(kSequences * size, 11);
  std::vector<float> targets(inputs.size());
  for (std::size_t s = 0; s < kSequences; ++s) {
    at.block.forward(at.layer(), at.weights(), inputs.data() + s * size, targets.data() + s * size);
  }
  std::vector<LearnedMatrix> learned;
  learned.reserve(kLayerMatrices);
  std::array<LearnedMatrix*, kLayerMatrices> by_role{};
  for (std::size_t i = 0; i < kLayerMatrices; ++i) {
    if (at.readers[i] == nullptr) continue;
    learned.emplace_back(*at.readers[i],
                         plan_of(2, MinKind::zero, 32, at.readers[i]->cols(), RangeKind::mse),
                         std::span<const float>{}, at.pool, "test");
    by_role[i] = &learned.back();
  }
  const BlockData data{inputs.data(), targets.data(), kSequences, held_out, {}};
  LearnResult result =
      learn_block(at.block, spec, at.layer(), by_role, data, kTokens, options, [] {});
  for (const LearnedMatrix& matrix : learned) grids.push_back(matrix.grids());
  return result;
}

TEST_P(BlockOf, LearningLowersTheLoss) {
  Layer at(GetParam());
  std::vector<std::vector<Grid>> grids;
  LearnOptions options;
  options.epochs = 6;
  options.rate = 0.01;
  const LearnResult result = learn(at, grids, options, 0);
  EXPECT_LT(result.loss_after, result.loss_before);
  const bool scales = !at.model->spec().post_norm;
  EXPECT_EQ(!result.scale[static_cast<std::size_t>(LinearInput::mlp)].empty(), scales);
}

TEST(Learning, IsTheSameForAnyNumberOfThreads) {
  LearnOptions options;
  options.epochs = 2;
  std::vector<std::vector<Grid>> grids[2];
  double losses[2];
  for (const int threads : {1, 2}) {
    Layer at("llama-gqa-rope3-tied", threads);
    losses[threads - 1] = learn(at, grids[threads - 1], options, 2).loss_after;
  }
  EXPECT_EQ(losses[0], losses[1]);
  ASSERT_EQ(grids[0].size(), grids[1].size());
  for (std::size_t m = 0; m < grids[0].size(); ++m) {
    for (std::size_t i = 0; i < grids[0][m].size(); ++i) {
      ASSERT_EQ(grids[0][m][i].scale_bits, grids[1][m][i].scale_bits);
      ASSERT_EQ(grids[0][m][i].min_bits, grids[1][m][i].min_bits);
    }
  }
}

TEST(Learning, NeverEndsWorseThanItBegan) {
  Layer at("opt-pre-ln");
  std::vector<std::vector<Grid>> grids;
  LearnOptions wild;
  wild.epochs = 2;
  wild.rate = 1.0;
  wild.scale_rate = 1.0;
  const LearnResult result = learn(at, grids, wild, 2);
  EXPECT_LE(result.loss_after, result.loss_before);
}

}  // namespace
}  // namespace tenfold
