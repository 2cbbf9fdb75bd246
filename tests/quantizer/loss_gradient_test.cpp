// The derivatives that rank proposals, beside differences of the loss itself.

#include "quantizer/search/loss_gradient.h"

#include <gtest/gtest.h>

#include <cmath>

#include "kernels/matrix.h"
#include "quantizer/panel.h"
#include "quantizer/quantize.h"
#include "runtime/tokenizer.h"
#include "tests/support/prose.h"
#include "tests/support/scratch_folder.h"
#include "tests/support/tiny_model.h"

namespace tenfold {
namespace {

class LossGradientOf : public ::testing::TestWithParam<std::tuple<const char*, SearchTarget>> {};
INSTANTIATE_TEST_SUITE_P(
    Models, LossGradientOf,
    ::testing::Combine(::testing::Values("llama-mha", "llama-gqa-rope3-tied", "llama-headdim-bias",
                                         "opt-pre-ln", "opt-post-ln-proj"),
                       ::testing::Values(SearchTarget::text, SearchTarget::teacher)));

// As float32, which rounds no activations and can change by little.
std::unique_ptr<Decoder> in_float(const std::filesystem::path& path,
                                  std::vector<std::vector<float>>& memory) {
  auto model = load_decoder(std::make_shared<const ModelSource>(path), RowOrder::gguf);
  for (LayerWeights& layer : model->weights().layers) {
    for (std::size_t m = 0; m < kLayerMatrices; ++m) {
      MatrixView& view = dense_of(layer, static_cast<LayerMatrix>(m)).weight.view;
      if (view.empty()) continue;
      memory.push_back(dequantized(view));
      view = float_matrix(memory.back().data(), Format::f32, view.rows, view.cols);
    }
  }
  return model;
}

TEST_P(LossGradientOf, IsWhatDifferencesOfTheLossSay) {
  const auto& [name, target] = GetParam();
  const testing::ScratchFolder folder;
  const auto source = std::make_shared<const ModelSource>(testing::tiny_model(folder, name));
  QuantizeOptions options;
  options.recipe.bits = 2;
  options.recipe.group = 32;
  quantize(source, folder / "2.gguf", options, {});
  std::vector<std::vector<float>> memory;
  memory.reserve(1000);
  const auto model = in_float(folder / "2.gguf", memory);
  const auto teacher = load_decoder(source, RowOrder::gguf);
  CalibrationOptions drawn{"", 4, 24, 1};
  const Calibration calibration =
      draw_calibration(*load_tokenizer(*source), testing::prose(), drawn);
  Objective objective(*model, *teacher, calibration, 1, {0.5, 10, 0, target},
                      {{"cpu", {1, ""}}, folder.path(), 0}, [] {});
  ThreadPool pool(2);
  LossGradient gradient(*model, objective, pool);
  std::vector<std::int64_t> layers;
  for (std::int64_t i = 0; i < model->spec().layers; i += 2) layers.push_back(i);
  gradient.compute(layers);
  for (const std::int64_t layer : layers) {
    for (std::size_t m = 0; m < kLayerMatrices; ++m) {
      LayerWeights& weights = model->weights().layers[static_cast<std::size_t>(layer)];
      const MatrixView& view = dense_of(weights, static_cast<LayerMatrix>(m)).weight.view;
      if (view.empty()) continue;
      SCOPED_TRACE(::testing::Message() << "layer " << layer << " matrix " << m);
      const std::vector<float>& along = gradient.of(layer)[m].gradient;
      double norm = 0;
      for (const float g : along) norm += static_cast<double>(g) * static_cast<double>(g);
      norm = std::sqrt(norm);
      ASSERT_GT(norm, 0);
      auto* values = const_cast<float*>(reinterpret_cast<const float*>(view.bands[0].codes));
      const std::vector<float> kept(values, values + along.size());
      const auto loss_at = [&](double step) {
        for (std::size_t i = 0; i < along.size(); ++i) {
          values[i] = kept[i] + static_cast<float>(step / norm * static_cast<double>(along[i]));
        }
        return objective.trial(layer, layer).value();
      };
      const double step = 0.02;
      const double slope = (loss_at(step) - loss_at(-step)) / (2 * step);
      std::copy(kept.begin(), kept.end(), values);
      EXPECT_NEAR(slope, norm, 0.05 * norm + 0.002);  // the cache rounds keys to F16
    }
  }
}

}  // namespace
}  // namespace tenfold
