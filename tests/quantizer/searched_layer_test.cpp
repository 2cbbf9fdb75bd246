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

TEST_P(SearchedLayerOf, IsWhatTheTransformsMakeOfTheSource) {
  const auto& [name, compensated] = GetParam();
  std::optional<double> damping;
  if (compensated) damping = 0.1;
  const testing::ScratchFolder folder;
  const auto source = std::make_shared<const ModelSource>(testing::data_model(name));
  QuantizeOptions options;
  options.recipe.bits = 8;
  options.recipe.group = 32;
  quantize(source, folder / "8.gguf", options, {});
  const auto model =
      load_decoder(std::make_shared<const ModelSource>(folder / "8.gguf"), RowOrder::gguf);
  LayerWeights& now = model->weights().layers[static_cast<std::size_t>(kLayer)];
  const FloatLayer original = float_layer(*source, model->spec(), now);
  const std::vector<Coupling> couplings = couplings_of(model->spec());
  std::vector<ChannelTransform> transforms;
  for (const Coupling& coupling : couplings) transforms.emplace_back(coupling.channels);
  ThreadPool pool(2);
  const auto backend = make_cpu_backend({2, ""});
  SearchedLayer layer(couplings, original, now, transforms, {RangeKind::mse, false, damping}, pool);

  // The moves change weights by all they are, and what the weights compute by what 8 bits lose.
  LayerSlopes slopes;
  for (std::size_t m = 0; m < kLayerMatrices; ++m) {
    const FloatLayer::Part& part = original[static_cast<LayerMatrix>(m)];
    slopes[m].gradient = random_floats(part.weight.size(), static_cast<std::uint32_t>(m));
    slopes[m].curvature.assign(static_cast<std::size_t>(part.rows), 0.0f);
  }
  std::mt19937 random(11);
  for (int step = 0; step < 40; ++step) {
    const std::size_t c = random() % couplings.size();
    SCOPED_TRACE(::testing::Message() << step << ": " << couplings[c].name);
    const ChannelTransform next = testing::random_transform(couplings[c], random);
    const auto moments = [&](LayerMatrix of) {
      return moments_of(layer.layout(of).cols, *backend);
    };
    std::optional<Hessian> makers, readers;
    if (!couplings[c].makers.empty()) makers = moments(couplings[c].makers.front().matrix);
    if (!couplings[c].readers.empty()) readers = moments(couplings[c].readers.front().matrix);
    const std::vector<std::byte> before = bytes_of(now);
    layer.apply(c, next, makers ? &*makers : nullptr, readers ? &*readers : nullptr);
    EXPECT_NE(bytes_of(now), before);
    std::map<LayerMatrix, Hessian> seen;
    double held = 0;
    for (std::size_t m = 0; m < kLayerMatrices; ++m) {
      const std::vector<float>& weights = original[static_cast<LayerMatrix>(m)].weight;
      for (const float w : weights) held += static_cast<double>(w * w);
    }
    const double predicted = layer.predicted(
        slopes,
        [&](LayerMatrix of) -> const Hessian& {
          return seen.try_emplace(of, moments(of)).first->second;
        },
        *backend);
    EXPECT_LT(std::fabs(predicted), 0.1 * std::sqrt(held));
    if (step % 3 == 2) {
      layer.undo();
      ASSERT_EQ(bytes_of(now), before);
      continue;
    }
    layer.accept();
    EXPECT_EQ(transforms[c], next);
    FloatLayer expected = original;
    for (std::size_t i = 0; i < couplings.size(); ++i) {
      const FloatLayer from = expected;
      transform(from, couplings[i], transforms[i], expected);
    }
    expect_layer(now, expected, compensated);
    if (HasFatalFailure()) return;
  }
}

}  // namespace
}  // namespace tenfold
