// Bit budgets: the solver against trying everything, and allocated models.

#include "quantizer/allocate/allocate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <nlohmann/json.hpp>
#include <numeric>
#include <random>
#include <set>
#include <utility>

#include "quantizer/allocate/sensitivity.h"
#include "quantizer/allocate/solver.h"
#include "quantizer/roles.h"
#include "tests/support/expect_error.h"
#include "tests/support/prose.h"
#include "tests/support/scratch_folder.h"
#include "tests/support/tiny_model.h"

namespace tenfold {
namespace {

using testing::expect_error;
using ::testing::HasSubstr;

// Losses fall as costs rise, about; cross terms of either sign.
std::vector<LayerChoices> toy(std::mt19937& rng, std::size_t layers, bool cross) {
  std::uniform_real_distribution<double> unit(0, 1);
  std::vector<LayerChoices> toys(layers);
  for (LayerChoices& layer : toys) {
    const std::size_t matrices = 2 + rng() % 2;
    for (std::size_t m = 0; m < matrices; ++m) {
      MatrixChoices& matrix = layer.matrices.emplace_back();
      const std::size_t choices = 2 + rng() % 2;
      for (std::size_t c = 0; c < choices; ++c) {
        matrix.cost.push_back(static_cast<std::int64_t>(10 + 7 * c + rng() % 5));
        matrix.loss.push_back(unit(rng) + (c == 0 ? 1.0 : 0.3 / static_cast<double>(c)));
      }
    }
    if (!cross) continue;
    const std::size_t all = layer.choices();
    for (std::size_t i = 0; i < all * all; ++i) layer.cross.push_back(0.4 * unit(rng) - 0.2);
  }
  return toys;
}

// The least loss within the budget, by trying all answers; infinity where none fits.
double least_loss(const std::vector<LayerChoices>& layers, std::int64_t budget, std::size_t layer,
                  std::size_t matrix, std::vector<LayerAnswer>& answers) {
  if (layer == layers.size()) {
    std::int64_t cost = 0;
    double loss = 0;
    for (std::size_t k = 0; k < layers.size(); ++k) {
      cost += cost_of(layers[k], answers[k]);
      loss += loss_of(layers[k], answers[k]);
    }
    return cost <= budget ? loss : std::numeric_limits<double>::infinity();
  }
  if (matrix == layers[layer].matrices.size()) {
    return least_loss(layers, budget, layer + 1, 0, answers);
  }
  double least = std::numeric_limits<double>::infinity();
  answers[layer].resize(layers[layer].matrices.size());
  for (std::size_t c = 0; c < layers[layer].matrices[matrix].cost.size(); ++c) {
    answers[layer][matrix] = c;
    least = std::min(least, least_loss(layers, budget, layer, matrix + 1, answers));
  }
  return least;
}

TEST(BudgetSolver, EqualsTryingEverything) {
  std::mt19937 rng(11);
  int solved = 0;
  for (int round = 0; round < 60; ++round) {
    const auto layers = toy(rng, 1 + rng() % 3, round % 3 != 0);
    std::int64_t cheapest = 0, dearest = 0;
    for (const LayerChoices& layer : layers) {
      for (const MatrixChoices& matrix : layer.matrices) {
        cheapest += *std::min_element(matrix.cost.begin(), matrix.cost.end());
        dearest += *std::max_element(matrix.cost.begin(), matrix.cost.end());
      }
    }
    for (std::int64_t budget = cheapest; budget <= dearest + 3; budget += 3) {
      const std::vector<LayerAnswer> answers = solve_budget(layers, budget);
      std::int64_t cost = 0;
      double loss = 0;
      for (std::size_t k = 0; k < layers.size(); ++k) {
        cost += cost_of(layers[k], answers[k]);
        loss += loss_of(layers[k], answers[k]);
      }
      EXPECT_LE(cost, budget);
      std::vector<LayerAnswer> tried(layers.size());
      EXPECT_NEAR(loss, least_loss(layers, budget, 0, 0, tried), 1e-9) << round << ' ' << budget;
      ++solved;
    }
    EXPECT_THAT(expect_error(ErrorCode::bad_request,
                             [&, budget = cheapest - 1] { solve_budget(layers, budget); }),
                HasSubstr("at the least"));
  }
  EXPECT_GT(solved, 500);
}

// Seven matrices of six choices in 32 layers, the size of a real model.
TEST(BudgetSolver, SolvesARealSize) {
  std::mt19937 rng(3);
  std::uniform_real_distribution<double> unit(0.5, 1.5);
  std::vector<LayerChoices> layers(32);
  for (LayerChoices& layer : layers) {
    for (int m = 0; m < 7; ++m) {
      MatrixChoices& matrix = layer.matrices.emplace_back();
      const double weight = unit(rng);
      for (int c = 0; c < 6; ++c) {
        matrix.cost.push_back((2 + c) * (1 + m % 3) * 4096);
        matrix.loss.push_back(weight * unit(rng) / (1 << c));
      }
    }
    layer.cross.assign(42 * 42, 0.0);
    for (double& cross : layer.cross) cross = 0.01 * (unit(rng) - 1);
  }
  const std::int64_t budget = std::int64_t{32} * 7 * 4 * 2 * 4096;
  const auto answers = solve_budget(layers, budget);
  std::int64_t cost = 0;
  for (std::size_t k = 0; k < layers.size(); ++k) cost += cost_of(layers[k], answers[k]);
  EXPECT_LE(cost, budget);
  EXPECT_GT(cost, budget * 99 / 100);
}

Recipe budget(Allocation kind, double target_bits) {
  Recipe recipe;
  recipe.allocate.kind = kind;
  recipe.allocate.target_bits = target_bits;
  recipe.calibration.file = "x";
  return recipe;
}

TEST(AllocationChoices, AreDistinctAndFitTheWidth) {
  Recipe recipe = budget(Allocation::ratio, 2.5);
  recipe.bits = 2;
  recipe.high_bits = 3;
  const auto shares = [&](std::int64_t cols) {
    std::vector<std::int64_t> columns;
    for (const Widths& widths : allocation_choices(recipe, cols, 2.5)) {
      EXPECT_EQ(widths.bits, 2);
      columns.push_back(std::lround(widths.mixed * static_cast<double>(cols)));
      EXPECT_EQ(columns.back() % 16, 0);
    }
    return columns;
  };
  EXPECT_EQ(shares(128), (std::vector<std::int64_t>{0, 16, 32}));
  EXPECT_EQ(shares(576), (std::vector<std::int64_t>{0, 16, 32, 64, 80, 112, 176}));
  EXPECT_EQ(shares(16), (std::vector<std::int64_t>{0})) << "too narrow for two bands";

  recipe = budget(Allocation::bits, 2.3);
  const auto widths_at = [&](double target) {
    std::vector<std::string> names;
    for (const Widths& w : allocation_choices(recipe, 512, target)) {
      names.push_back(w.mixed > 0 ? std::to_string(w.bits) + "+" + std::to_string(w.high_bits)
                                  : std::to_string(w.bits));
    }
    return names;
  };
  using Names = std::vector<std::string>;
  EXPECT_EQ(widths_at(2.3), (Names{"1", "2", "2+3", "2+3", "2+3", "3", "4", "8"}));
  EXPECT_EQ(widths_at(1.6), (Names{"1", "1+4", "1+4", "1+4", "2", "3", "4", "8"}));
  EXPECT_EQ(widths_at(4.5), (Names{"1", "2", "3", "4", "4+8", "4+8", "4+8", "8"}));
  recipe.search.steps = 1;  // which cannot move columns between bands
  EXPECT_EQ(widths_at(2.3), (Names{"1", "2", "3", "4", "8"}));
  recipe = budget(Allocation::bits, 1.6);
  recipe.allocate.widths = {1, 2};
  EXPECT_EQ(widths_at(1.6), (Names{"1", "2"}));
  EXPECT_FALSE(mixes(recipe));
}

TEST(Allocation, RefusesWhatCannotBe) {
  const auto refused = [](const Recipe& recipe) {
    return expect_error(ErrorCode::bad_request, [&] { validate(recipe); });
  };
  Recipe recipe = budget(Allocation::bits, 2.5);
  validate(recipe);
  recipe.allocate.target_bytes = 1 << 20;
  EXPECT_THAT(refused(recipe), HasSubstr("one target"));
  recipe.allocate = budget(Allocation::bits, 0).allocate;
  EXPECT_THAT(refused(recipe), HasSubstr("one target"));
  recipe = budget(Allocation::bits, 17);
  EXPECT_THAT(refused(recipe), HasSubstr("between 0 and 16 bits, found 17"));
  recipe = budget(Allocation::bits, 2.5);
  recipe.calibration.file.clear();
  EXPECT_THAT(refused(recipe), HasSubstr("a bit budget needs a calibration text"));
  recipe = budget(Allocation::ratio, 2.5);
  recipe.bits = 3;
  recipe.high_bits = 3;
  EXPECT_THAT(refused(recipe), HasSubstr("more bits than the others"));
  recipe = budget(Allocation::bits, 2.5);
  recipe.allocate.solved = true;
  EXPECT_THAT(refused(recipe), HasSubstr("there are none"));
  recipe.rules.emplace_back().bits = 4;
  validate(recipe);
  recipe.allocate.solved = false;
  EXPECT_THAT(refused(recipe), HasSubstr("makes the rules"));
  recipe = budget(Allocation::ratio, 2.5);
  recipe.bits = 2;
  recipe.high_bits = 3;
  recipe.search.steps = 5;
  EXPECT_THAT(refused(recipe), HasSubstr("mixed layout"));
  recipe.search.steps = 0;
  recipe.mixed = 0.1;
  EXPECT_THAT(refused(recipe), HasSubstr("cannot be asked for too"));
}

class Allocated : public ::testing::TestWithParam<const char*> {
 protected:
  QuantizeOptions options(Allocation kind, double target_bits) const {
    QuantizeOptions options;
    options.recipe = budget(kind, target_bits);
    options.recipe.bits = 2;
    options.recipe.high_bits = 3;
    options.recipe.group = 32;
    options.recipe.salience = Salience::activation;
    options.recipe.calibration = {text_, 4, 24, 1};
    options.recipe.allocate.sequences = 3;
    options.threads = 2;
    return options;
  }
  std::string make(const std::string& name, const QuantizeOptions& options) {
    result_ = quantize(source_, folder_ / name, options, {});
    return testing::read_file(folder_ / name);
  }
  // Bits a weight of the layers' matrices.
  double layer_bits(const std::string& name) const {
    const ModelSource made(folder_ / name);
    double bytes = 0, weights = 0;
    for (const StoredMatrix& matrix : made.matrices()) {
      if (layer_of(matrix.name) < 0) continue;
      bytes += static_cast<double>(matrix.view.bytes());
      weights += static_cast<double>(matrix.view.rows * matrix.view.cols);
    }
    return 8 * bytes / weights;
  }

  static std::vector<ModelTensor> tensors_of(const ModelSource& source) {
    const Family& family = find_family(source);
    return read_tensors(family, read_spec(family, source), source);
  }
  // What the first layer's choices cost and lose.
  LayerChoices measure(const std::shared_ptr<const ModelSource>& source, const Recipe& recipe,
                       const std::vector<SensitivityModel::Matrix>& matrices) {
    SensitivityModel model(source, draw_calibration(*source, {text_, 4, 24, 1}), recipe,
                           {{"cpu", {2, "", Activations::int8}}, folder_ / "", 1 << 30}, [] {});
    return model.measure(0, matrices, pool_);
  }

  ThreadPool pool_{2};
  testing::ScratchFolder folder_;
  std::shared_ptr<const ModelSource> source_ =
      std::make_shared<const ModelSource>(testing::tiny_model(folder_, GetParam()));
  std::string text_ = folder_.write("prose.txt", testing::prose()).string();
  QuantizeResult result_;
};
INSTANTIATE_TEST_SUITE_P(Models, Allocated,
                         ::testing::Values("llama-gqa-rope3-tied", "opt-post-ln-proj"));

TEST_P(Allocated, KeepsToTheBudgetWhateverTheMethodAndRepeats) {
  std::set<std::string> seen;
  for (const Allocation kind : {Allocation::bits, Allocation::ratio}) {
    for (const char* pass : {"rtn", "gptq"}) {
      const double target = kind == Allocation::bits ? 3.3 : 2.9;
      QuantizeOptions with = options(kind, target);
      set_passes(with.recipe, {pass});
      const std::string made = make("a.gguf", with);
      EXPECT_TRUE(seen.insert(made).second);
      EXPECT_LE(layer_bits("a.gguf"), target);
      EXPECT_GT(layer_bits("a.gguf"), 0.9 * target);
      EXPECT_FALSE(result_.rules.empty());
      EXPECT_FALSE(std::filesystem::exists(folder_ / "a.gguf.allocation.work"));
      with.threads = 1;
      with.overwrite = true;
      EXPECT_EQ(made, make("a.gguf", with));
      std::filesystem::remove(folder_ / "a.gguf");
    }
  }
}

// The file's own recipe, budget and answer in it, makes the same matrices without measuring again.
TEST_P(Allocated, TheFileHoldsTheAnswer) {
  make("a.gguf", options(Allocation::bits, 3));
  const GgufFile first(folder_ / "a.gguf");
  QuantizeOptions again = options(Allocation::none, 0);
  read_json(nlohmann::json::parse(*first.metadata().get_string(kRecipeKey)), "recipe",
            again.recipe);
  EXPECT_TRUE(again.recipe.allocate.solved);
  again.on_allocation = [](std::uint64_t, std::uint64_t) -> bool {
    ADD_FAILURE() << "measured again";
    return true;
  };
  make("b.gguf", again);
  const GgufFile second(folder_ / "b.gguf");
  for (const TensorSource& tensor : second.tensors()) {
    const auto same = std::find_if(first.tensors().begin(), first.tensors().end(),
                                   [&](const auto& other) { return other.name == tensor.name; });
    ASSERT_NE(same, first.tensors().end());
    EXPECT_TRUE(std::ranges::equal(same->data, tensor.data)) << tensor.name;
  }
  const auto summary = nlohmann::json::parse(*first.metadata().get_string(kAllocationKey));
  double predicted = 0;
  for (const nlohmann::json& layer : summary.at("layers")) {
    predicted += layer.at("predicted").get<double>();
    EXPECT_TRUE(layer.at("measured").is_number());
  }
  EXPECT_NEAR(summary.at("predicted").get<double>(), predicted, 1e-9);
  EXPECT_LE(summary.at("bytes").get<std::int64_t>(), summary.at("budget").get<std::int64_t>());
}

// With all that the file says of rules, shares and losses.
TEST_P(Allocated, LandsOnASize) {
  QuantizeOptions with = options(Allocation::none, 0);
  with.recipe.salience = Salience::weight;
  set_passes(with.recipe, {"gptq"});
  make("plain.gguf", with);
  const auto target = std::filesystem::file_size(folder_ / "plain.gguf") + 12000;
  with.recipe.salience = Salience::pbar;
  with.recipe.pbar_lambda = 1;
  with.overwrite = true;
  for (const Allocation kind : {Allocation::bits, Allocation::ratio}) {
    with.recipe.allocate = options(kind, 0).recipe.allocate;
    with.recipe.allocate.target_bytes = target;
    make("a.gguf", with);
    const auto made = std::filesystem::file_size(folder_ / "a.gguf");
    EXPECT_LE(made, target) << to_string(kind);
    EXPECT_GT(static_cast<double>(made), 0.97 * static_cast<double>(target)) << to_string(kind);
  }
}

// Before anything is measured, so that nothing is left over that another target would find.
TEST_P(Allocated, RefusesTargetsThatNoChoiceMeets) {
  const auto refused = [&](const QuantizeOptions& with) {
    QuantizeOptions watched = with;
    watched.on_allocation = [](std::uint64_t, std::uint64_t) -> bool {
      ADD_FAILURE() << "measured first";
      return true;
    };
    const std::string message =
        expect_error(ErrorCode::bad_request, [&] { make("a.gguf", watched); });
    EXPECT_FALSE(std::filesystem::exists(folder_ / "a.gguf.allocation.work"));
    return message;
  };
  QuantizeOptions with = options(Allocation::bits, 1.2);
  EXPECT_THAT(refused(with), ::testing::MatchesRegex(".*a target of 1.20. bits a weight is too "
                                                     "small: the cheapest choices take 2.*"));
  with = options(Allocation::ratio, 4);
  EXPECT_THAT(refused(with), HasSubstr("a target of 4.000 bits a weight cannot be used up: the "
                                       "dearest choices take "));
  with = options(Allocation::bits, 0);
  with.recipe.allocate.target_bytes = 4096;
  EXPECT_THAT(refused(with), HasSubstr("a target of 4096 bytes is too small"));
  with.recipe.allocate.target_bytes = std::uint64_t{1} << 40;
  EXPECT_THAT(refused(with), HasSubstr("a target of 1099511627776 bytes cannot be used up"));
  // What a run without a budget left over.
  with = options(Allocation::bits, 3);
  std::filesystem::create_directory(folder_ / "a.gguf.work");
  folder_.write("a.gguf.work/identity.json", "{}");
  EXPECT_THAT(refused(with), HasSubstr("holds the work of an interrupted run"));
}

// The sums of all sequences run again, but no layer is measured again.
TEST_P(Allocated, ASearchGoesOnWithMoreSteps) {
  QuantizeOptions with = options(Allocation::bits, 3);
  with.recipe.salience = Salience::weight;
  with.recipe.search.steps = 3;
  int measuring = 0;
  with.on_allocation = [&](std::uint64_t done, std::uint64_t) -> bool {
    measuring += done < 20 ? 1 : 0;
    return true;
  };
  const std::string whole = make("whole.gguf", with);
  const int first_time = std::exchange(measuring, 0);
  with.recipe.search.steps = 2;
  with.checkpoint_every = 1;
  with.on_search_step = [](const SearchStep& step, const SearchCounts&) { return step.step < 1; };
  EXPECT_THAT(expect_error(ErrorCode::cancelled, [&] { make("a.gguf", with); }),
              HasSubstr("--resume goes on"));
  EXPECT_EQ(std::exchange(measuring, 0), first_time);
  with.recipe.search.steps = 3;
  with.on_search_step = {};
  with.resume = true;
  EXPECT_EQ(whole, make("a.gguf", with));
  EXPECT_LT(measuring, first_time / 2);
}

TEST_P(Allocated, GoesOnAfterAnInterruptToTheSameBytes) {
  QuantizeOptions with = options(Allocation::bits, 3);
  const std::string whole = make("whole.gguf", with);
  for (const std::uint64_t stop : {0u, 20u, 41u}) {
    const std::string name = "a" + std::to_string(stop) + ".gguf";
    QuantizeOptions broken = with;
    broken.on_allocation = [&](std::uint64_t done, std::uint64_t) { return done < stop; };
    EXPECT_THAT(expect_error(ErrorCode::cancelled, [&] { make(name, broken); }),
                HasSubstr("--resume goes on"));
    EXPECT_THAT(expect_error(ErrorCode::bad_request, [&] { make(name, with); }),
                HasSubstr("--resume"));
    broken = with;
    broken.resume = true;
    EXPECT_EQ(whole, make(name, broken));
  }
  // After the answer, while matrices are made.
  expect_error(ErrorCode::cancelled, [&] {
    quantize(source_, folder_ / "late.gguf", with,
             [](std::uint64_t done, std::uint64_t total) { return done < total / 2; });
  });
  with.resume = true;
  EXPECT_EQ(whole, make("late.gguf", with));
}

// Of the first layer, each matrix with these choices of groups of 32.
std::vector<SensitivityModel::Matrix> first_layer(const std::vector<ModelTensor>& tensors,
                                                  const std::vector<int>& bits) {
  std::vector<SensitivityModel::Matrix> matrices;
  for (const ModelTensor& tensor : tensors) {
    if (!tensor.info.is_matrix() || layer_of(tensor.info.name) != 0) continue;
    matrices.push_back({tensor.info.name, &tensor.rows, layer_matrix(tensor.info.name), {}, 0});
    for (const int b : bits) matrices.back().choices.push_back({b, 32, MinKind::f16, 0, 4});
  }
  return matrices;
}

// A choice that gives the very weights says nothing of the others' effect on the last loss.
TEST_P(Allocated, JudgesByAChoiceThatHasAnError) {
  QuantizeOptions exact = options(Allocation::none, 0);
  exact.recipe.salience = Salience::weight;
  exact.recipe.bits = 4;
  exact.recipe.min = MinKind::f16;
  exact.recipe.range = RangeKind::minmax;
  make("exact.gguf", exact);
  const auto source = std::make_shared<const ModelSource>(folder_ / "exact.gguf");
  const auto tensors = tensors_of(*source);
  const auto matrices = first_layer(tensors, {4, 2});
  const auto losses = [&](Sensitivity sensitivity) {
    exact.recipe.allocate.sensitivity = sensitivity;
    return measure(source, exact.recipe, matrices);
  };
  const LayerChoices block = losses(Sensitivity::block);
  const LayerChoices scaled = losses(Sensitivity::scaled);
  const LayerChoices final = losses(Sensitivity::final);
  double largest = 0;
  for (std::size_t m = 0; m < matrices.size(); ++m) {
    largest = std::max(largest, final.matrices[m].loss[1]);
    ASSERT_EQ(block.matrices[m].loss[0], 0) << matrices[m].name;
    EXPECT_EQ(scaled.matrices[m].loss[0], 0) << matrices[m].name;
    EXPECT_NEAR(scaled.matrices[m].loss[1], final.matrices[m].loss[1],
                1e-9 * final.matrices[m].loss[1])
        << matrices[m].name;
  }
  EXPECT_GT(largest, 1e-4);
}

// The same error made twice is four times as large in the square: what two add is twice the one.
TEST_P(Allocated, ErrorsOfTwoMatricesAddUp) {
  const auto tensors = tensors_of(*source_);
  std::vector<SensitivityModel::Matrix> matrices = first_layer(tensors, {1, 2});
  matrices = {matrices[0], matrices[0], matrices[1]};
  Recipe recipe = options(Allocation::none, 0).recipe;
  recipe.allocate.sensitivity = Sensitivity::block;
  const LayerChoices made = measure(source_, recipe, matrices);
  ASSERT_EQ(made.cross.size(), 36u);
  const auto cross = [&](std::size_t i, std::size_t j) { return made.cross[i * 6 + j]; };
  const auto loss = [&](std::size_t i) { return made.matrices[i / 2].loss[i % 2]; };
  for (std::size_t c = 0; c < 2; ++c) {
    EXPECT_GT(loss(c), 0);
    EXPECT_NEAR(cross(c, 2 + c), 2 * loss(c), 1e-6 * loss(c)) << c;
    EXPECT_NEAR(loss_of(made, {c, c, 0}) - loss(4) - cross(c, 4) - cross(2 + c, 4), 4 * loss(c),
                1e-6 * loss(c));
  }
  for (std::size_t i = 0; i < 4; ++i) {  // another matrix errs otherwise
    EXPECT_LT(std::fabs(cross(i, 4)), 1.9 * std::sqrt(loss(i) * loss(4))) << i;
  }
  recipe.allocate.cross = false;
  EXPECT_TRUE(measure(source_, recipe, matrices).cross.empty());
}

// Fewer bits are expected to cost more, and do.
TEST_P(Allocated, ExpectsLessOfMoreBits) {
  for (const Sensitivity sensitivity :
       {Sensitivity::block, Sensitivity::scaled, Sensitivity::final}) {
    QuantizeOptions with = options(Allocation::bits, 8.4);
    with.recipe.allocate.sensitivity = sensitivity;
    with.overwrite = true;
    make("a.gguf", with);
    const auto dear = nlohmann::json::parse(result_.allocation);
    with.recipe.allocate.target_bits = 2.6;
    make("a.gguf", with);
    const auto cheap = nlohmann::json::parse(result_.allocation);
    EXPECT_LT(dear.at("predicted").get<double>(), cheap.at("predicted").get<double>());
    if (sensitivity == Sensitivity::block) {
      EXPECT_FALSE(cheap.contains("measured"));
      continue;
    }
    EXPECT_GT(cheap.at("measured").get<double>(), 0);
    EXPECT_LT(dear.at("measured").get<double>(), cheap.at("measured").get<double>());
  }
}

}  // namespace
}  // namespace tenfold
