// Whole models quantized with calibration: written, opened again and run.

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "quantizer/quantize.h"
#include "runtime/divergence.h"
#include "tests/support/expect_error.h"
#include "tests/support/prose.h"
#include "tests/support/scratch_folder.h"
#include "tests/support/step.h"
#include "tests/support/tiny_model.h"

namespace tenfold {
namespace {

using testing::prose;
using testing::read_file;
using testing::ScratchFolder;

class CalibratedRun {
 protected:
  explicit CalibratedRun(std::string_view model) : model_(testing::tiny_model(folder_, model)) {}

  Recipe recipe(Method method) const {
    Recipe recipe;
    recipe.method = method;
    recipe.bits = 3;
    recipe.group = 32;
    recipe.calibration = {text_, 16, 64, 1};
    return recipe;
  }
  std::filesystem::path make(const std::string& name, const Recipe& recipe, int threads = 2) {
    QuantizeOptions options;
    options.recipe = recipe;
    options.threads = threads;
    const auto path = folder_ / name;
    losses_ = quantize(std::make_shared<const ModelSource>(model_), path, options, {}).losses;
    return path;
  }
  // From the source's predictions.
  double divergence_of(const std::filesystem::path& path) {
    LoadedModel a(model_);
    LoadedModel b(path);
    b.ws.backend = make_cpu_backend({2, "", Activations::int8x2});
    const auto tokenizer = load_tokenizer(ModelSource(model_));
    PerplexityOptions windows;
    windows.window = 128;
    return divergence({a.model.get(), &a.ws}, {b.model.get(), &b.ws},
                      tokenizer->encode(prose().substr(0, 2000), {}), windows, {})
        .mean;
  }

  ScratchFolder folder_;
  std::filesystem::path model_;
  std::string text_ = folder_.write("prose.txt", prose()).string();
  std::string losses_;  // of what make() made last
};

class Calibrated : public CalibratedRun, public ::testing::Test {
 protected:
  Calibrated() : CalibratedRun("opt-pre-ln") {}
};

class CalibratedOf : public CalibratedRun, public ::testing::TestWithParam<const char*> {
 protected:
  CalibratedOf() : CalibratedRun(GetParam()) {}
};
INSTANTIATE_TEST_SUITE_P(Models, CalibratedOf,
                         ::testing::Values("llama-mha", "llama-gqa-rope3-tied",
                                           "llama-headdim-bias", "opt-pre-ln", "opt-post-ln-proj"));

Recipe with_passes(Recipe recipe, const std::vector<std::string>& passes) {
  set_passes(recipe, passes);
  recipe.learn.epochs = 2;
  return recipe;
}

TEST_F(Calibrated, GptqComesCloserThanRoundingToNearest) {
  const double rtn = divergence_of(make("rtn.gguf", recipe(Method::rtn)));
  const double gptq = divergence_of(make("gptq.gguf", recipe(Method::gptq)));
  EXPECT_LT(gptq, rtn);
  Recipe ordered = recipe(Method::gptq);
  ordered.act_order = false;
  EXPECT_LT(divergence_of(make("ordered.gguf", ordered)), rtn);
}

TEST_F(Calibrated, GivesTheSameFileForAnyNumberOfThreads) {
  Recipe both = with_passes(recipe(Method::gptq), {"awq", "omniquant", "gptq", "tune"});
  both.calibration.sequences = 8;
  both.calibration.length = 32;
  both.learn.epochs = 1;
  const auto one = read_file(make("one.gguf", both, 1));
  EXPECT_EQ(one, read_file(make("two.gguf", both, 2)));
  both.calibration.seed = 2;
  EXPECT_NE(one, read_file(make("other.gguf", both, 2)));
}

// With 8 bits nothing is lost, so whatever folding changes shows.
TEST_P(CalibratedOf, ScaledChannelsComputeTheSameFunction) {
  Recipe plain = recipe(Method::rtn);
  plain.bits = 8;
  const double before = divergence_of(make("plain.gguf", plain));
  Recipe scaled = with_passes(plain, {"awq", "omniquant", "rtn", "tune"});
  scaled.learn.scale_rate = 0.1;
  EXPECT_LT(divergence_of(make("scaled.gguf", scaled)), 2 * before + 1e-6);
}

TEST_P(CalibratedOf, EveryPassLowersItsLoss) {
  Recipe all = with_passes(recipe(Method::rtn), {"awq", "omniquant", "gptq", "tune"});
  all.bits = 2;
  all.range = RangeKind::weighted;
  make("all.gguf", all);
  const nlohmann::json losses = nlohmann::json::parse(losses_);
  int better = 0;
  int scaled = 0;
  for (const nlohmann::json& layer : losses) {
    ASSERT_TRUE(layer.contains("matrices"));
    for (const auto& [role, loss] : layer["matrices"].items()) {
      EXPECT_LE(loss["chosen"], loss["nearest"]) << role;
      better += loss["chosen"] < loss["nearest"] ? 1 : 0;
    }
    for (const char* pass : {"ranges", "tuned"}) {
      EXPECT_LE(layer[pass]["after"], layer[pass]["before"]) << pass;
    }
    for (const auto& ratio : layer.value("awq_ratio", nlohmann::json::object())) {
      scaled += ratio > 0 ? 1 : 0;
    }
  }
  EXPECT_GT(better, 2);
  const bool post_norm = std::string_view(GetParam()) == "opt-post-ln-proj";
  EXPECT_EQ(scaled > 0, !post_norm);
}

// The mixed layout's bands and column order, through every pass.
TEST_P(CalibratedOf, MixedLayoutsGoThroughEveryPass) {
  Recipe mixed = with_passes(recipe(Method::rtn), {"awq", "omniquant", "gptq", "tune"});
  mixed.bits = 1;
  mixed.group = 0;
  mixed.mixed = 0.2;
  const double made = divergence_of(make("mixed.gguf", mixed));
  Recipe plain = mixed;
  set_passes(plain, {"rtn"});
  EXPECT_LT(made, divergence_of(make("plain.gguf", plain)));
}

// A head of few bits is made last, from what it meets: tied, the embedding too.
TEST_P(CalibratedOf, HeadOfFewBitsIsMadeFromWhatItMeets) {
  Recipe rtn = recipe(Method::rtn);
  rtn.embed_bits = rtn.head_bits = 3;
  Recipe gptq = rtn;
  gptq.method = Method::gptq;
  const auto path = make("gptq.gguf", gptq);
  const nlohmann::json losses = nlohmann::json::parse(losses_);
  const nlohmann::json& head = losses.back().at("head");
  EXPECT_LT(head["chosen"], head["nearest"]);
  EXPECT_LT(divergence_of(path), divergence_of(make("rtn.gguf", rtn)));
  gptq.head_bits = 8;
  make("split.gguf", gptq);
  EXPECT_FALSE(nlohmann::json::parse(losses_).back().contains("head"));
}

TEST_F(Calibrated, RulesChooseByMatrixAndLayer) {
  Recipe ruled = recipe(Method::gptq);
  ruled.rules = {{{LayerMatrix::down, LayerMatrix::v}, {{1, 2}}, 4, std::nullopt, MinKind::f16},
                 {{}, {{2, 2}}, std::nullopt, 64, std::nullopt}};
  const ModelSource source(make("ruled.gguf", ruled));
  const auto layout = [&](const char* name) { return layout_text(*source.find_matrix(name)); };
  EXPECT_EQ(layout("blk.0.ffn_down.weight"), "q3 g32 zero");
  EXPECT_EQ(layout("blk.1.ffn_down.weight"), "q4 g32 f16");
  EXPECT_EQ(layout("blk.1.ffn_up.weight"), "q3 g32 zero");
  EXPECT_EQ(layout("blk.2.attn_v.weight"), "q4 g64 f16");
  EXPECT_EQ(layout("blk.2.attn_q.weight"), "q3 g64 zero");
  EXPECT_NE(source.gguf()
                .metadata()
                .get_string(kRecipeKey)
                ->find(R"({"matrices":["down","v"],"layers":[1,2],"bits":4,"min":"f16"})"),
            std::string::npos)
      << *source.gguf().metadata().get_string(kRecipeKey);
}

TEST_F(Calibrated, ActivationsInAFileGiveTheSameBytes) {
  const Recipe gptq = with_passes(recipe(Method::gptq), {"gptq", "tune"});
  QuantizeOptions options;
  options.recipe = gptq;
  options.threads = 2;
  options.spill_above = 0;
  const auto path = folder_ / "spilled.gguf";
  quantize(std::make_shared<const ModelSource>(model_), path, options, {});
  EXPECT_EQ(read_file(path), read_file(make("memory.gguf", gptq)));
}

// Interrupted at every point where progress is reported, and taken up again each time.
TEST_F(Calibrated, ResumesToTheSameBytes) {
  Recipe both = with_passes(recipe(Method::gptq), {"awq", "omniquant", "gptq", "tune"});
  both.calibration.sequences = 4;
  both.calibration.length = 32;
  both.learn.epochs = 1;
  both.embed_bits = both.bits = 2;
  const auto whole = read_file(make("whole.gguf", both));
  QuantizeOptions options;
  options.recipe = both;
  options.threads = 2;
  const auto source = std::make_shared<const ModelSource>(model_);
  const auto path = folder_ / "parts.gguf";
  int interruptions = 0;
  for (int stop_at = 3;; stop_at += 60) {
    int calls = 0;
    try {
      quantize(source, path, options,
               [&](std::uint64_t, std::uint64_t) { return ++calls < stop_at; });
      break;
    } catch (const Error& error) {
      ASSERT_EQ(error.code(), ErrorCode::cancelled) << error.what();
    }
    ++interruptions;
    EXPECT_FALSE(std::filesystem::exists(path));
    if (interruptions == 1) {
      EXPECT_NE(testing::expect_error(ErrorCode::bad_request,
                                      [&] { quantize(source, path, options, {}); })
                    .find("--resume goes on with it"),
                std::string::npos);
      QuantizeOptions other = options;
      other.resume = true;
      other.recipe.calibration.seed = 5;
      EXPECT_NE(
          testing::expect_error(ErrorCode::bad_request, [&] { quantize(source, path, other, {}); })
              .find("another recipe, source or calibration text"),
          std::string::npos);
    }
    options.resume = true;
  }
  EXPECT_GT(interruptions, 2);
  EXPECT_EQ(read_file(path), whole);
  EXPECT_FALSE(std::filesystem::exists(path.string() + ".work"));
}

TEST_F(Calibrated, RefusesADamagedLayer) {
  const Recipe gptq = recipe(Method::gptq);
  QuantizeOptions options;
  options.recipe = gptq;
  const auto source = std::make_shared<const ModelSource>(model_);
  const auto path = folder_ / "out.gguf";
  const std::filesystem::path layer = path.string() + ".work/layer-0.bin";
  testing::expect_error(ErrorCode::cancelled, [&] {
    quantize(source, path, options,
             [&](std::uint64_t, std::uint64_t) { return !std::filesystem::exists(layer); });
  });
  const auto size = std::filesystem::file_size(layer);
  options.resume = true;
  for (const auto wrong : {size - 1, size + 1}) {
    std::filesystem::resize_file(layer, wrong);
    const std::string message =
        testing::expect_error(ErrorCode::bad_file, [&] { quantize(source, path, options, {}); });
    EXPECT_NE(message.find("layer-0.bin"), std::string::npos) << message;
  }
}

TEST_F(Calibrated, RefusesBeforeItWorks) {
  const auto path = folder_.write("there.gguf", "precious");
  const auto refused = [&](ErrorCode code, const QuantizeOptions& options) {
    return testing::expect_error(
        code, [&] { quantize(std::make_shared<const ModelSource>(model_), path, options, {}); });
  };
  QuantizeOptions options;
  options.recipe = recipe(Method::gptq);
  EXPECT_NE(refused(ErrorCode::io, options).find("exists already"), std::string::npos);
  EXPECT_FALSE(std::filesystem::exists(path.string() + ".work"));
  options.overwrite = true;
  options.recipe.rules = {{{LayerMatrix::gate}, {}, 4, {}, {}}};  // OPT has none
  EXPECT_NE(refused(ErrorCode::bad_request, options).find("rule 1 names no matrix"),
            std::string::npos);
  options.recipe = recipe(Method::rtn);
  options.resume = true;
  EXPECT_NE(refused(ErrorCode::bad_request, options).find("nothing to resume"), std::string::npos);
  EXPECT_EQ(read_file(path), "precious");
}

TEST_F(Calibrated, NeedsAText) {
  Recipe none = recipe(Method::gptq);
  none.calibration.file.clear();
  EXPECT_NE(testing::expect_error(ErrorCode::bad_request, [&] { make("no.gguf", none); })
                .find("gptq needs a calibration text: --calib FILE"),
            std::string::npos);
  Recipe many = recipe(Method::gptq);
  many.calibration.sequences = 1 << 20;
  testing::expect_error(ErrorCode::bad_request, [&] { make("no.gguf", many); });
  EXPECT_FALSE(std::filesystem::exists(folder_ / "no.gguf"));
}

}  // namespace
}  // namespace tenfold
