// Every move that a coupling calls exact leaves the model's logits as they are, in float32.

#include "quantizer/search/coupling.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "models/decoder.h"
#include "runtime/model.h"
#include "tests/support/tiny_model.h"
#include "tests/support/transforms.h"

namespace tenfold {
namespace {

using testing::scale;
using testing::shuffle;
using testing::turn;

constexpr std::int64_t kLayer = 1;
const std::vector<std::int32_t> kPrompt = {5, 99, 17, 200, 31, 8, 64, 65, 66, 131, 7};

class CouplingsOf : public ::testing::TestWithParam<const char*> {
 protected:
  CouplingsOf()
      : source_(std::make_shared<const ModelSource>(testing::data_model(GetParam()))),
        model_(load_decoder(source_, RowOrder::gguf)),
        ws_(make_cpu_backend({2, ""})) {
    for (const ModelTensor& tensor :
         read_tensors(find_family(*source_), model_->spec(), *source_)) {
      if (layer_of(tensor.info.name) != kLayer || !tensor.info.is_matrix()) continue;
      FloatLayer::Part& part = original_[layer_matrix(tensor.info.name)];
      part.rows = tensor.rows.rows();
      part.cols = tensor.rows.cols();
      part.weight.resize(static_cast<std::size_t>(part.rows * part.cols));
      read_all(tensor.rows, part.weight.data());
      part.bias = dense_of(layer(), layer_matrix(tensor.info.name)).bias;
    }
    for (const LayerNorm norm : {LayerNorm::attn, LayerNorm::ffn}) {
      original_[norm] = norm_of(layer(), norm);
    }
    put(original_);
    before_ = logits();
  }

  LayerWeights& layer() { return model_->weights().layers[static_cast<std::size_t>(kLayer)]; }

  void put(const FloatLayer& from) {
    used_ = from;
    for (std::size_t i = 0; i < kLayerMatrices; ++i) {
      const auto role = static_cast<LayerMatrix>(i);
      const FloatLayer::Part& part = used_[role];
      if (part.weight.empty()) continue;
      Dense& dense = dense_of(layer(), role);
      dense.bias = part.bias;
      dense.weight.view = float_matrix(part.weight.data(), Format::f32, part.rows, part.cols);
    }
    for (const LayerNorm norm : {LayerNorm::attn, LayerNorm::ffn}) {
      norm_of(layer(), norm) = used_[norm];
    }
  }

  std::vector<float> logits() {
    KvCache kv(kv_shape(model_->info(), KvType::f32), 64, 1, *ws_.backend);
    Batch batch;
    for (std::size_t i = 0; i < kPrompt.size(); ++i) {
      batch.logit_rows.push_back(static_cast<std::int32_t>(i));
      batch.add(kPrompt[i], static_cast<std::int32_t>(i), 0);
    }
    forward(*model_, batch, kv, ws_);
    const std::size_t n = kPrompt.size() * static_cast<std::size_t>(model_->info().vocab);
    const float* found = ws_.logits_on_host(n).data();
    return {found, found + n};
  }

  // Of the logits, relative to their size, when one coupling is transformed.
  double change(const Coupling& coupling, const ChannelTransform& by) {
    FloatLayer changed = original_;
    transform(original_, coupling, by, changed);
    const LayerMatrix touched =
        coupling.norm ? coupling.readers.front().matrix : coupling.makers.front().matrix;
    EXPECT_NE(changed[touched].weight, original_[touched].weight);
    put(changed);
    const std::vector<float> after = logits();
    double difference = 0;
    double size = 0;
    for (std::size_t i = 0; i < after.size(); ++i) {
      difference += std::pow(static_cast<double>(after[i] - before_[i]), 2);
      size += std::pow(static_cast<double>(before_[i]), 2);
    }
    return std::sqrt(difference / size);
  }

  std::shared_ptr<const ModelSource> source_;
  std::unique_ptr<Decoder> model_;
  Workspace ws_;
  FloatLayer original_, used_;
  std::vector<float> before_;
};
INSTANTIATE_TEST_SUITE_P(Models, CouplingsOf,
                         ::testing::Values("llama-mha", "llama-gqa-rope3-tied",
                                           "llama-headdim-bias", "opt-pre-ln", "opt-post-ln-proj"));

TEST_P(CouplingsOf, ExactMovesChangeNothing) {
  std::mt19937 random(7);
  for (const Coupling& coupling : couplings_of(model_->spec())) {
    SCOPED_TRACE(coupling.name);
    ChannelTransform all(coupling.channels);
    if (coupling.permutation == Exactness::exact) {
      ChannelTransform by(coupling.channels);
      shuffle(by, random);
      all.order = by.order;
      EXPECT_LT(change(coupling, by), 1e-5) << "permutation";
    }
    if (coupling.scale == Exactness::exact) {
      ChannelTransform by(coupling.channels);
      scale(coupling, by, random);
      all.scale = by.scale;
      EXPECT_LT(change(coupling, by), 1e-5) << "scale";
    }
    if (coupling.rotation == Exactness::exact) {
      ChannelTransform by(coupling.channels);
      turn(by, 3.0f, random);
      all.angle = by.angle;
      EXPECT_LT(change(coupling, by), 1e-5) << "rotation";
    }
    EXPECT_LT(change(coupling, all), 1e-5) << "all together";
  }
}

// What is not claimed to be exact is not: a test that could not fail would prove nothing.
TEST_P(CouplingsOf, OtherMovesDo) {
  std::mt19937 random(7);
  for (const Coupling& coupling : couplings_of(model_->spec())) {
    SCOPED_TRACE(coupling.name);
    if (coupling.permutation != Exactness::exact) {
      ChannelTransform by(coupling.channels);
      shuffle(by, random);
      EXPECT_GT(change(coupling, by), 1e-4);
    }
    if (coupling.scales_pairs) {
      ChannelTransform by(coupling.channels);
      by.scale[0] = 2.0f;
      EXPECT_GT(change(coupling, by), 1e-5);
    }
    if (coupling.rotation != Exactness::exact) {
      ChannelTransform by(coupling.channels);
      turn(by, 0.3f, random);
      EXPECT_GT(change(coupling, by), 1e-4);
    }
  }
}

// Through ReLU, turning by little changes little, and by less the less it turns.
TEST_P(CouplingsOf, ApproximateRotationsComeCloser) {
  for (const Coupling& coupling : couplings_of(model_->spec())) {
    if (coupling.rotation != Exactness::approximate) continue;
    std::mt19937 random(7);
    ChannelTransform far(coupling.channels);
    turn(far, 0.1f, random);
    ChannelTransform near = far;
    for (float& angle : near.angle) angle /= 10;
    EXPECT_LT(change(coupling, near), 0.2 * change(coupling, far)) << coupling.name;
  }
}

}  // namespace
}  // namespace tenfold
