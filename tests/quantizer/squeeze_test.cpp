// Squeeze10-LLM: which columns keep more bits, and what codes are fitted to.

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>

#include "kernels/cpu/cpu_backend.h"
#include "quantizer/columns.h"
#include "quantizer/quantize.h"
#include "quantizer/squeeze/aimed_rows.h"
#include "quantizer/squeeze/salience.h"
#include "tests/support/expect_error.h"
#include "tests/support/prose.h"
#include "tests/support/random.h"
#include "tests/support/scratch_folder.h"
#include "tests/support/tiny_model.h"

namespace tenfold {
namespace {

constexpr std::int64_t kRows = 40, kCols = 64, kTokens = 300, kFirst = 16;

// A matrix in memory.
struct Matrix {
  std::vector<float> weights;
  TensorSource tensor;
  RowReader rows;

  explicit Matrix(std::vector<float> values)
      : weights(std::move(values)),
        tensor{"w", {kRows, kCols}, DType::f32, std::as_bytes(std::span(weights))},
        rows(SourceWeight{&tensor, nullptr}, 0) {}
};

class Squeeze : public ::testing::Test {
 protected:
  std::set<std::int32_t> kept(const std::vector<double>& scores) const {
    const std::vector<std::int32_t> order = column_order(scores, kFirst);
    return {order.begin(), order.begin() + kFirst};
  }
  Hessian moments(const std::vector<float>& x) const {
    Hessian result(kCols);
    result.add(x.data(), kTokens, *backend_);
    return result;
  }
  std::set<std::int32_t> pbar(const std::vector<SalientMatrix>& matrices, const Hessian& inputs,
                              double lambda) {
    const Feedback feedback = factor(inputs, {}, 0.01, pool_);
    return kept(pbar_scores(matrices, inputs, feedback, lambda, kFirst, pool_));
  }

  ThreadPool pool_{2};
  std::unique_ptr<Backend> backend_ = make_cpu_backend({1, ""});
};

// Columns whose weights all have one size lose nothing by one bit, however large they are and
// however strong their inputs: the other two measures keep them, PBAR does not.
TEST_F(Squeeze, PbarKeepsWhatBinarizingCosts) {
  std::vector<float> weights(kRows * kCols), x = random_floats(kTokens * kCols, 2);
  const std::vector<float> noise = random_floats(kRows * kCols, 1);
  std::set<std::int32_t> level, rough;
  for (std::int32_t c = 0; c < kCols; ++c) {
    const bool flat = c % 4 != 1;
    if (c % 4 == 0) level.insert(c);
    if (c % 4 == 1) rough.insert(c);
    for (std::int64_t r = 0; r < kRows; ++r) {
      const auto i = static_cast<std::size_t>(r * kCols + c);
      weights[i] = flat ? std::copysign(1.0f, noise[i]) : 1.3f * noise[i];
    }
    for (std::int64_t t = 0; t < kTokens && c % 4 == 0; ++t) {
      x[static_cast<std::size_t>(t * kCols + c)] *= 2;
    }
  }
  const Matrix matrix(weights);
  const MatrixPlan plan;
  const std::vector<SalientMatrix> matrices = {{&matrix.rows, &plan, "w"}};
  const Hessian inputs = moments(x);
  EXPECT_EQ(kept(activation_scores(matrices, inputs.diagonal(), pool_)), level);
  EXPECT_EQ(pbar(matrices, inputs, 0), rough);
  EXPECT_EQ(pbar(matrices, inputs, 2), rough);
}

// Matrices of one input choose together, each by its own measure: one that is a thousand times
// larger does not decide alone.
TEST_F(Squeeze, MatricesOfOneInputChooseTogether) {
  std::vector<float> a = random_floats(kRows * kCols, 1, 0.1f), b = a;
  for (std::int64_t r = 0; r < kRows; ++r) {
    for (std::int64_t c = 0; c < 8; ++c) {
      a[static_cast<std::size_t>(r * kCols + c)] *= 30;
      b[static_cast<std::size_t>(r * kCols + 20 + c)] *= 30;
    }
  }
  for (float& w : b) w *= 1000;
  const Matrix first(a), second(b);
  const MatrixPlan plan;
  const Hessian inputs = moments(random_floats(kTokens * kCols, 2));
  const std::set<std::int32_t> chosen =
      pbar({{&first.rows, &plan, "a"}, {&second.rows, &plan, "b"}}, inputs, 1);
  for (std::int32_t c = 0; c < 8; ++c) {
    EXPECT_TRUE(chosen.count(c) == 1 && chosen.count(20 + c) == 1) << c;
  }
  // Factors count: a matrix divided back is what it was.
  MatrixPlan scaled;
  scaled.col_factor.assign(kCols, 1.0f);
  for (std::size_t c = 0; c < 8; ++c) scaled.col_factor[c] = 1.0f / 30;
  const std::set<std::int32_t> without =
      pbar({{&first.rows, &scaled, "a"}, {&second.rows, &plan, "b"}}, inputs, 1);
  EXPECT_NE(without, chosen);
}

// Where the quantized layers' inputs are a linear map of full precision's, the aimed matrix undoes
// it.
TEST_F(Squeeze, AimedRowsGiveWhatFullPrecisionGives) {
  const std::vector<float> full = random_floats(kTokens * kCols, 3);
  const std::vector<float> turn = random_floats(kCols * kCols, 4, 0.05f);
  std::vector<float> quantized = full;
  for (std::int64_t t = 0; t < kTokens; ++t) {
    for (std::int64_t i = 0; i < kCols; ++i) {
      for (std::int64_t j = 0; j < kCols; ++j) {
        quantized[static_cast<std::size_t>(t * kCols + i)] +=
            turn[static_cast<std::size_t>(i * kCols + j)] *
            full[static_cast<std::size_t>(t * kCols + j)];
      }
    }
  }
  CrossMoments cross(kCols);
  cross.add(quantized.data(), full.data(), kTokens, *backend_);
  const Hessian inputs = moments(quantized);
  const Matrix source(random_floats(kRows * kCols, 5));
  const AimedRows aimed(source.rows, inputs, cross, factor(inputs, {}, 1e-6, pool_), pool_);
  std::vector<float> row(kCols), scratch(kCols);
  double before = 0, after = 0, size = 0;
  for (std::int64_t r = 0; r < kRows; ++r) {
    aimed.rows().read(r, row.data(), scratch.data());
    for (std::int64_t t = 0; t < kTokens; ++t) {
      double wanted = 0, plain = 0, found = 0;
      for (std::int64_t c = 0; c < kCols; ++c) {
        const auto at = static_cast<std::size_t>(t * kCols + c);
        const float w = source.weights[static_cast<std::size_t>(r * kCols + c)];
        wanted += static_cast<double>(w * full[at]);
        plain += static_cast<double>(w * quantized[at]);
        found += static_cast<double>(row[static_cast<std::size_t>(c)] * quantized[at]);
      }
      before += (plain - wanted) * (plain - wanted);
      after += (found - wanted) * (found - wanted);
      size += wanted * wanted;
    }
  }
  EXPECT_GT(before, 0.01 * size);
  EXPECT_LT(after, 1e-4 * before);
  // The same inputs on both sides: the matrix is its own target.
  CrossMoments same(kCols);
  same.add(quantized.data(), quantized.data(), kTokens, *backend_);
  const AimedRows own(source.rows, inputs, same, factor(inputs, {}, 0.1, pool_), pool_);
  own.rows().read(7, row.data(), scratch.data());
  for (std::size_t c = 0; c < row.size(); ++c) {
    EXPECT_NEAR(row[c], source.weights[7 * kCols + c], 1e-4);
  }
}

TEST_F(Squeeze, BlendedMomentsLieBetween) {
  const std::vector<float> x = random_floats(kTokens * kCols, 6);
  std::vector<float> y = random_floats(100 * kCols, 7);
  Hessian a = moments(x);
  Hessian b(kCols);
  b.add(y.data(), 100, *backend_);
  const double expected = 0.75 * a.mean(3, 5) + 0.25 * b.mean(3, 5);
  const float magnitude = 0.75f * a.mean_magnitude()[9] + 0.25f * b.mean_magnitude()[9];
  a.blend(b, 0.25);
  EXPECT_NEAR(a.mean(3, 5), expected, 1e-12);
  EXPECT_NEAR(a.mean_magnitude()[9], magnitude, 1e-6);
}

class SqueezedModels : public ::testing::TestWithParam<const char*> {
 protected:
  QuantizeOptions options() const {
    QuantizeOptions options;
    set_squeeze10(options.recipe);
    options.recipe.bits = 1;
    options.recipe.group = 0;
    options.recipe.calibration = {text_, 5, 24, 1};
    options.recipe.pbar_lambda = 1;
    options.threads = 2;
    return options;
  }
  std::string make(const std::string& name, const QuantizeOptions& options) {
    quantize(source_, folder_ / name, options, {});
    return testing::read_file(folder_ / name);
  }

  testing::ScratchFolder folder_;
  std::shared_ptr<const ModelSource> source_ =
      std::make_shared<const ModelSource>(testing::tiny_model(folder_, GetParam()));
  std::string text_ = folder_.write("prose.txt", testing::prose()).string();
};
INSTANTIATE_TEST_SUITE_P(Models, SqueezedModels,
                         ::testing::Values("llama-gqa-rope3-tied", "opt-post-ln-proj"));

TEST_P(SqueezedModels, EveryChoiceGivesAnotherModelThatRunsAndRepeats) {
  std::set<std::string> seen;
  for (const Salience salience : {Salience::weight, Salience::activation, Salience::pbar}) {
    for (const Supervision supervision :
         {Supervision::none, Supervision::full, Supervision::target, Supervision::blend}) {
      if (salience == Salience::weight && supervision != Supervision::none) continue;
      QuantizeOptions with = options();
      with.recipe.salience = salience;
      if (salience != Salience::pbar) with.recipe.pbar_lambda = std::nullopt;
      with.recipe.supervision = supervision;
      const auto made = make("a.gguf", with);
      EXPECT_TRUE(seen.insert(made).second) << to_string(salience) << ' ' << to_string(supervision);
      with.threads = 1;
      with.overwrite = true;
      EXPECT_EQ(made, make("a.gguf", with)) << to_string(salience) << ' ' << to_string(supervision);
      const auto model =
          load_decoder(std::make_shared<const ModelSource>(folder_ / "a.gguf"), RowOrder::gguf);
      for (const LayerWeights& layer : model->weights().layers) {
        EXPECT_EQ(layer.q.weight.view.n_bands, 2);
        // One set for the matrices of an input.
        EXPECT_EQ(layer.q.weight.view.map.source, layer.v.weight.view.map.source);
      }
      std::filesystem::remove(folder_ / "a.gguf");
    }
  }
}

// What full precision's inputs guide begins where both models still have the same: the first
// layer's first matrices.
TEST_P(SqueezedModels, SupervisionBeginsWhereInputsDiffer) {
  const auto first_queries = [&](Supervision supervision) {
    QuantizeOptions with = options();
    with.recipe.supervision = supervision;
    with.overwrite = true;
    make("a.gguf", with);
    const ModelSource made(folder_ / "a.gguf");
    std::string bytes;
    for (const StoredMatrix& matrix : made.matrices()) {
      if (matrix.name != "blk.0.attn_q.weight") continue;
      for (const auto& part : parts(matrix.view)) {
        bytes.append(reinterpret_cast<const char*>(part.data()), part.size());
      }
    }
    EXPECT_FALSE(bytes.empty());
    return bytes;
  };
  const std::string plain = first_queries(Supervision::none);
  EXPECT_EQ(plain, first_queries(Supervision::full));
  EXPECT_EQ(plain, first_queries(Supervision::blend));
}

// For each input the lambda of the least error on held-out text, as the file says.
TEST_P(SqueezedModels, TakeTheBestOfSeveralLambdas) {
  QuantizeOptions with = options();
  const auto losses_of = [&](const char* name) {
    const GgufFile file(folder_ / name);
    return nlohmann::json::parse(*file.metadata().get_string(kLossesKey));
  };
  const auto first_error = [](const nlohmann::json& losses) {
    double sum = 0;  // of the matrices that read the first input: the choice for it is the first
    for (const char* name : {"q", "k", "v"}) {
      sum += losses.at(0).at("matrices").at(name).at("chosen").get<double>();
    }
    return sum;
  };
  with.recipe.supervision = Supervision::none;  // whose errors are against the source's weights
  double least = std::numeric_limits<double>::infinity();
  for (const double lambda : {0.0, 0.25, 0.5, 1.0, 2.0}) {
    with.recipe.pbar_lambda = lambda;
    make("fixed.gguf", with);
    least = std::min(least, first_error(losses_of("fixed.gguf")));
    with.overwrite = true;
  }
  with.recipe.pbar_lambda = std::nullopt;
  make("fixed.gguf", with);
  EXPECT_EQ(first_error(losses_of("fixed.gguf")), least);

  with = options();
  with.recipe.pbar_lambda = std::nullopt;
  make("a.gguf", with);
  const auto losses = losses_of("a.gguf");
  std::set<double> lambdas;
  for (const nlohmann::json& layer : losses) {
    for (const char* input : {"qkv", "output", "mlp", "down"}) {
      lambdas.insert(layer.at("pbar_lambda").at(input).get<double>());
    }
  }
  EXPECT_GT(lambdas.size(), 1u);
  const auto by_errors = testing::read_file(folder_ / "a.gguf");
  with.recipe.pbar_trials = true;
  const auto by_loss = make("b.gguf", with);
  EXPECT_NE(by_errors, by_loss);
  with.threads = 1;
  with.overwrite = true;
  EXPECT_EQ(by_loss, make("b.gguf", with));
}

TEST_P(SqueezedModels, ResumeToTheSameBytes) {
  for (const Supervision supervision : {Supervision::target, Supervision::full}) {
    QuantizeOptions with = options();
    with.recipe.supervision = supervision;
    const std::string name(to_string(supervision));
    const auto whole = make("whole-" + name, with);
    int left = 1;
    testing::expect_error(ErrorCode::cancelled, [&] {
      quantize(source_, folder_ / name, with, [&](std::uint64_t done, std::uint64_t total) {
        return done < total / 2 || --left > 0;
      });
    });
    with.resume = true;
    EXPECT_EQ(whole, make(name, with)) << name;
  }
}

TEST(Squeeze10, RefusesWhatDoesNotCompose) {
  const auto refused = [](const Recipe& recipe) {
    return testing::expect_error(ErrorCode::bad_request, [&] { validate(recipe); });
  };
  Recipe recipe;
  recipe.calibration.file = "x";
  recipe.supervision = Supervision::full;
  EXPECT_NE(refused(recipe).find("guide the codes of gptq"), std::string::npos);
  set_passes(recipe, {"awq", "gptq"});
  EXPECT_NE(refused(recipe).find("awq scaled"), std::string::npos);
  recipe = {};
  recipe.salience = Salience::pbar;
  EXPECT_NE(refused(recipe).find("needs a calibration text"), std::string::npos);
  recipe.calibration.file = "x";
  EXPECT_NE(refused(recipe).find("--mixed"), std::string::npos);
  recipe.mixed = 0.2;
  recipe.bits = 1;
  recipe.omniquant = true;
  EXPECT_NE(refused(recipe).find("after omniquant"), std::string::npos);
  recipe.omniquant = false;
  recipe.salience = Salience::activation;
  recipe.pbar_lambda = 1;
  EXPECT_NE(refused(recipe).find("--salience pbar"), std::string::npos);
}

}  // namespace
}  // namespace tenfold
