// However moves follow one another, the packed layer stays what the transforms make of the source.

#include "quantizer/search/searched_layer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/formats/codec.h"
#include "models/decoder.h"
#include "quantizer/quantize.h"
#include "quantizer/search/moves.h"
#include "runtime/files/packed_matrix.h"
#include "tests/support/random.h"
#include "tests/support/scratch_folder.h"
#include "tests/support/tiny_model.h"
#include "tests/support/transforms.h"

namespace tenfold {
namespace {

constexpr std::int64_t kLayer = 1;

FloatLayer float_layer(const ModelSource& source, const DecoderSpec& spec,
                       const LayerWeights& start) {
  FloatLayer result;
  for (const ModelTensor& tensor : read_tensors(find_family(source), spec, source)) {
    if (layer_of(tensor.info.name) != kLayer || !tensor.info.is_matrix()) continue;
    const LayerMatrix role = layer_matrix(tensor.info.name);
    FloatLayer::Part& part = result[role];
    part.rows = tensor.rows.rows();
    part.cols = tensor.rows.cols();
    part.weight.resize(static_cast<std::size_t>(part.rows * part.cols));
    read_all(tensor.rows, part.weight.data());
    part.bias = dense_of(start, role).bias;
  }
  for (const LayerNorm norm : {LayerNorm::attn, LayerNorm::ffn}) {
    result[norm] = norm_of(start, norm);
  }
  return result;
}

// All of it that a search may change.
std::vector<std::byte> bytes_of(const LayerWeights& layer) {
  std::vector<std::byte> all;
  const auto add = [&](std::span<const std::byte> bytes) {
    all.insert(all.end(), bytes.begin(), bytes.end());
  };
  for (std::size_t m = 0; m < kLayerMatrices; ++m) {
    const Dense& dense = dense_of(layer, static_cast<LayerMatrix>(m));
    if (dense.weight.view.empty()) continue;
    for (const auto& part : parts(dense.weight.view)) add(part);
    add(std::as_bytes(std::span(dense.bias)));
  }
  for (const LayerNorm norm : {LayerNorm::attn, LayerNorm::ffn}) {
    add(std::as_bytes(std::span(norm_of(layer, norm).weight)));
    add(std::as_bytes(std::span(norm_of(layer, norm).bias)));
  }
  return all;
}

void expect_near(const std::vector<float>& found, const std::vector<float>& expected,
                 const char* what) {
  ASSERT_EQ(found.size(), expected.size()) << what;
  for (std::size_t i = 0; i < found.size(); ++i) {
    ASSERT_NEAR(found[i], expected[i], 1e-5f * (1 + std::fabs(expected[i]))) << what << ' ' << i;
  }
}

// Turning channels of unlike scales makes their inputs alike: compensation then moves weights.
void expect_layer(const LayerWeights& layer, const FloatLayer& expected, bool compensated) {
  const float tolerance = compensated ? 0.25f : 0.03f;
  for (std::size_t m = 0; m < kLayerMatrices; ++m) {
    const auto role = static_cast<LayerMatrix>(m);
    const Dense& dense = dense_of(layer, role);
    if (dense.weight.view.empty()) continue;
    const FloatLayer::Part& part = expected[role];
    std::vector<float> row(static_cast<std::size_t>(part.cols));
    for (std::int64_t r = 0; r < part.rows; ++r) {
      dequantize_row(dense.weight.view, r, row.data());
      const float* wanted = part.weight.data() + r * part.cols;
      float most = 0;
      for (std::size_t c = 0; c < row.size(); ++c) most = std::max(most, std::fabs(wanted[c]));
      for (std::size_t c = 0; c < row.size(); ++c) {
        ASSERT_NEAR(row[c], wanted[c], tolerance * most) << name_of(role) << ' ' << r << ' ' << c;
      }
    }
    expect_near(dense.bias, part.bias, "bias");
  }
  for (const LayerNorm norm : {LayerNorm::attn, LayerNorm::ffn}) {
    expect_near(norm_of(layer, norm).weight, expected[norm].weight, "norm");
    expect_near(norm_of(layer, norm).bias, expected[norm].bias, "norm's bias");
  }
}

// Of inputs that have nothing to do with one another.
Hessian moments_of(std::int64_t cols, Backend& backend) {
  std::vector<float> x(static_cast<std::size_t>(cols * cols));
  for (std::int64_t c = 0; c < cols; ++c) {
    x[static_cast<std::size_t>(c * cols + c)] = 1.0f + 0.01f * static_cast<float>(c);
  }
  Hessian moments(cols);
  moments.add(x.data(), cols, backend);
  return moments;
}

class SearchedLayerOf : public ::testing::TestWithParam<std::tuple<const char*, bool>> {};
INSTANTIATE_TEST_SUITE_P(Models, SearchedLayerOf,
                         ::testing::Combine(::testing::Values("llama-mha", "llama-gqa-rope3-tied",
                                                              "llama-headdim-bias", "opt-pre-ln",
                                                              "opt-post-ln-proj"),
                                            ::testing::Bool()),
                         [](const auto& of) {
                           std::string model = std::get<0>(of.param);
                           std::replace(model.begin(), model.end(), '-', '_');
                           return model + (std::get<1>(of.param) ? "_compensated" : "_nearest");
                         });

// A layer of a model rounded to so many bits, in the middle of a search.
struct MovedLayer {
  MovedLayer(const char* name, int bits, bool compensated)
      : source(std::make_shared<const ModelSource>(testing::data_model(name))) {
    if (compensated) damping = 0.1;
    QuantizeOptions options;
    options.recipe.bits = bits;
    options.recipe.group = 32;
    quantize(source, folder / "x.gguf", options, {});
    model = load_decoder(std::make_shared<const ModelSource>(folder / "x.gguf"), RowOrder::gguf);
    couplings = couplings_of(model->spec());
    for (const Coupling& coupling : couplings) transforms.emplace_back(coupling.channels);
    original = float_layer(*source, model->spec(), now());
    layer.emplace(couplings, original, now(), transforms, Remaking{RangeKind::mse, false, damping},
                  pool);
    for (std::size_t m = 0; m < kLayerMatrices; ++m) {
      const FloatLayer::Part& part = original[static_cast<LayerMatrix>(m)];
      slopes[m].gradient = random_floats(part.weight.size(), static_cast<std::uint32_t>(m));
      slopes[m].curvature.assign(static_cast<std::size_t>(part.rows), 0.0f);
    }
  }
  LayerWeights& now() { return model->weights().layers[static_cast<std::size_t>(kLayer)]; }
  Hessian moments(LayerMatrix of) { return moments_of(layer->layout(of).cols, *backend); }
  void apply(std::size_t c, const ChannelTransform& next) {
    std::optional<Hessian> makers, readers;
    if (!couplings[c].makers.empty()) makers = moments(couplings[c].makers.front().matrix);
    if (!couplings[c].readers.empty()) readers = moments(couplings[c].readers.front().matrix);
    layer->apply(c, next, makers ? &*makers : nullptr, readers ? &*readers : nullptr);
  }
  double predicted() {
    std::map<LayerMatrix, std::vector<float>> seen;
    const auto of = [&](LayerMatrix matrix) {
      return seen.try_emplace(matrix, moments(matrix).means()).first->second.data();
    };
    return layer->predicted(slopes, of, *backend);
  }

  testing::ScratchFolder folder;
  std::shared_ptr<const ModelSource> source;
  std::optional<double> damping;
  std::unique_ptr<Decoder> model;
  std::vector<Coupling> couplings;
  std::vector<ChannelTransform> transforms;
  FloatLayer original;
  ThreadPool pool{2};
  std::unique_ptr<Backend> backend = make_cpu_backend({2, ""});
  std::optional<SearchedLayer> layer;
  LayerSlopes slopes;
};

TEST_P(SearchedLayerOf, IsWhatTheTransformsMakeOfTheSource) {
  const auto& [name, compensated] = GetParam();
  MovedLayer of(name, 8, compensated);
  std::mt19937 random(11);
  for (int step = 0; step < 40; ++step) {
    const std::size_t c = random() % of.couplings.size();
    SCOPED_TRACE(::testing::Message() << step << ": " << of.couplings[c].name);
    const ChannelTransform next = testing::random_transform(of.couplings[c], random);
    const std::vector<std::byte> before = bytes_of(of.now());
    of.apply(c, next);
    EXPECT_NE(bytes_of(of.now()), before);
    double held = 0;
    for (std::size_t m = 0; m < kLayerMatrices; ++m) {
      const std::vector<float>& weights = of.original[static_cast<LayerMatrix>(m)].weight;
      for (const float w : weights) held += static_cast<double>(w * w);
    }
    // The moves change weights by all they are, and what the weights compute by what 8 bits lose.
    EXPECT_LT(std::fabs(of.predicted()), 0.1 * std::sqrt(held));
    const std::size_t also = random() % of.couplings.size();
    const ChannelTransform other = testing::random_transform(of.couplings[also], random);
    const bool both = also != c && independent(of.couplings[c], of.couplings[also]);
    if (both) of.apply(also, other);
    if (step % 3 == 2) {
      of.layer->undo();
      ASSERT_EQ(bytes_of(of.now()), before);
      continue;
    }
    of.layer->accept();
    EXPECT_EQ(of.transforms[c], next);
    if (both) {
      EXPECT_EQ(of.transforms[also], other);
    }
    FloatLayer expected = of.original;
    for (std::size_t i = 0; i < of.couplings.size(); ++i) {
      const FloatLayer from = expected;
      transform(from, of.couplings[i], of.transforms[i], expected);
    }
    expect_layer(of.now(), expected, compensated);
    if (HasFatalFailure()) return;
  }
}

// Queries and keys are no more than rows, so what the screen says of turning them is what it does:
// what it takes over is better, whatever the places and scales they stand at.
TEST_P(SearchedLayerOf, TurnsWhereTheScreenSaysThatItPays) {
  const auto& [name, compensated] = GetParam();
  MovedLayer of(name, 2, compensated);
  std::mt19937 random(11);
  StepRandom draws(3, 1);
  int turned = 0;
  for (std::size_t c = 0; c < of.couplings.size(); ++c) {
    const Coupling& coupling = of.couplings[c];
    if (!coupling.name.starts_with("qk")) continue;
    of.apply(c, testing::random_transform(coupling, random));
    of.layer->accept();
    const LayerMatrix first = coupling.makers.front().matrix;
    const Hessian moments = of.moments(first);
    const std::vector<float> power = moments.diagonal(), means = moments.means();
    RowScreen screen;
    screen.cols = moments.cols();
    screen.moments = means.data();
    std::map<LayerMatrix, std::vector<float>> accepted;
    std::map<LayerMatrix, Compensation> compensations;
    for (const Coupling::Maker& maker : coupling.makers) {
      const MatrixView& layout = of.layer->layout(maker.matrix);
      LossSlope& slope = of.slopes[static_cast<std::size_t>(maker.matrix)];
      std::fill(slope.curvature.begin(), slope.curvature.end(), 0.01f);
      RowScreen::Maker& screened = screen.makers.emplace_back(RowScreen::Maker{
          of.layer->columns(maker.matrix) + maker.first * screen.cols, &layout, power});
      screened.accepted =
          accepted.try_emplace(maker.matrix, dequantized(layout)).first->second.data() +
          maker.first * screen.cols;
      screened.gradient = slope.gradient.data() + maker.first * screen.cols;
      screened.curvature = slope.curvature.data() + maker.first;
      screened.scale_power = maker.power;
      if (!compensated) continue;
      screened.compensation =
          &compensations
               .try_emplace(maker.matrix, layout, all_groups(layout), moments, *of.damping, of.pool)
               .first->second;
    }
    SearchOptions options;
    for (int i = 0; i < 8; ++i) {
      options.local = 1 + 8 * (i % 2);
      const auto next = screened_turn(of.transforms[c], coupling, options, screen, draws);
      if (!next) continue;
      ++turned;
      of.apply(c, *next);
      EXPECT_LT(of.predicted(), 0) << coupling.name;
      of.layer->undo();
    }
  }
  EXPECT_GT(turned, 0);
}

}  // namespace
}  // namespace tenfold
