// Whole models quantized with calibration: written, opened again and run.

#include <gtest/gtest.h>

#include "quantizer/quantize.h"
#include "runtime/divergence.h"
#include "tests/support/expect_error.h"
#include "tests/support/scratch_folder.h"
#include "tests/support/step.h"
#include "tests/support/tiny_model.h"

namespace tenfold {
namespace {

using testing::read_file;
using testing::ScratchFolder;

std::string prose() {
  std::string text;
  for (int i = 0; i < 400; ++i) {
    text += "The " + std::to_string(i * 7919 % 1000) + " cats of house " + std::to_string(i % 13) +
            " sleep. ";
  }
  return text;
}

class Calibrated : public ::testing::Test {
 protected:
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
    quantize(std::make_shared<const ModelSource>(model_), path, options, {});
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
  std::filesystem::path model_ = testing::tiny_model(folder_);
  std::string text_ = folder_.write("prose.txt", prose()).string();
};

TEST_F(Calibrated, GptqComesCloserThanRoundingToNearest) {
  const double rtn = divergence_of(make("rtn.gguf", recipe(Method::rtn)));
  const double gptq = divergence_of(make("gptq.gguf", recipe(Method::gptq)));
  EXPECT_LT(gptq, rtn);
  Recipe ordered = recipe(Method::gptq);
  ordered.act_order = false;
  EXPECT_LT(divergence_of(make("ordered.gguf", ordered)), rtn);
}

TEST_F(Calibrated, GivesTheSameFileForAnyNumberOfThreads) {
  Recipe both = recipe(Method::gptq);
  both.awq = true;
  const auto one = read_file(make("one.gguf", both, 1));
  EXPECT_EQ(one, read_file(make("two.gguf", both, 2)));
  both.calibration.seed = 2;
  EXPECT_NE(one, read_file(make("other.gguf", both, 2)));
}

// With 8 bits nothing is lost, so whatever scaling changes shows.
TEST_F(Calibrated, AwqComputesTheSameFunction) {
  Recipe awq = recipe(Method::rtn);
  awq.bits = 8;
  const double plain = divergence_of(make("plain.gguf", awq));
  awq.awq = true;
  EXPECT_LT(divergence_of(make("awq.gguf", awq)), 2 * plain + 1e-6);
}

// Interrupted at every point where progress is reported, and taken up again each time.
TEST_F(Calibrated, ResumesToTheSameBytes) {
  Recipe both = recipe(Method::gptq);
  both.awq = true;
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
