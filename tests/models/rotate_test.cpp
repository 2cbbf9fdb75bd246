#include "models/rotate.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "models/convert.h"
#include "tests/support/expect_error.h"
#include "tests/support/random.h"
#include "tests/support/scratch_folder.h"
#include "tests/support/step.h"
#include "tests/support/tiny_model.h"

namespace tenfold {
namespace {

const std::vector<std::vector<std::int32_t>> kPrompts = {{2, 7, 100, 31, 255, 9, 18, 3}, {5, 6, 7}};

double dot(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += static_cast<double>(a[i] * b[i]);
  return sum;
}

TEST(ResidualRotation, IsOrthogonalKeepsTheMeanAndSpreads) {
  for (const std::int64_t n : {1, 2, 7, 48, 128, 576}) {
    const ResidualRotation rotation(n, 3);
    const auto size = static_cast<std::size_t>(n);
    std::vector<float> ones(size, 1.0f);
    rotation.apply(ones.data());
    for (const float one : ones) EXPECT_NEAR(one, 1.0f, 1e-5) << n;
    const std::vector<float> a = random_floats(size, 1), b = random_floats(size, 2);
    std::vector<float> ua = a, ub = b;
    rotation.apply(ua.data());
    rotation.apply(ub.data());
    EXPECT_NEAR(dot(ua, ub), dot(a, b), 1e-4 * std::sqrt(dot(a, a) * dot(b, b))) << n;
    if (n < 48) continue;
    std::vector<float> one_channel(size);
    one_channel[5] = 1;
    rotation.apply(one_channel.data());
    const float most = *std::max_element(one_channel.begin(), one_channel.end());
    EXPECT_LT(most, 5 / std::sqrt(static_cast<float>(n))) << n;
  }
}

class RotatedModels : public ::testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Models, RotatedModels,
                         ::testing::Values("llama-mha", "llama-gqa-rope3-tied",
                                           "llama-headdim-bias", "opt-pre-ln"));

TEST_P(RotatedModels, ComputeTheSame) {
  const testing::ScratchFolder folder;
  const auto source = testing::data_model(GetParam());
  ConvertOptions options{DType::f32, false, 9};
  convert_to_gguf(ModelSource(source), folder / "turned.gguf", options, {});
  LoadedModel before(source);
  LoadedModel after(folder / "turned.gguf");
  const auto a = run_prompts(before, kPrompts, 0, KvType::f32);
  const auto b = run_prompts(after, kPrompts, 0, KvType::f32);
  for (std::size_t s = 0; s < a.size(); ++s) {
    ASSERT_EQ(a[s].size(), b[s].size());
    for (std::size_t i = 0; i < a[s].size(); ++i) ASSERT_NEAR(a[s][i], b[s][i], 1e-3f) << s;
  }
}

TEST_P(RotatedModels, HaveOtherWeightsBySeedAndPlainNorms) {
  const testing::ScratchFolder folder;
  const ModelSource source(testing::data_model(GetParam()));
  convert_to_gguf(source, folder / "0.gguf", {DType::f16, false, 0}, {});
  convert_to_gguf(source, folder / "0-again.gguf", {DType::f16, false, 0}, {});
  convert_to_gguf(source, folder / "1.gguf", {DType::f16, false, 1}, {});
  EXPECT_EQ(testing::read_file(folder / "0.gguf"), testing::read_file(folder / "0-again.gguf"));
  EXPECT_NE(testing::read_file(folder / "0.gguf"), testing::read_file(folder / "1.gguf"));
  const GgufFile file(folder / "0.gguf");
  std::int64_t norms = 0;
  for (const TensorSource& tensor : file.tensors()) {
    if (!tensor.name.ends_with("_norm.weight")) continue;
    std::vector<float> values(static_cast<std::size_t>(tensor.elements()));
    dequantize(tensor.dtype, tensor.data, values);
    EXPECT_EQ(std::count(values.begin(), values.end(), 1.0f), tensor.elements()) << tensor.name;
    ++norms;
  }
  EXPECT_GT(norms, 2);
}

TEST(RotatedModel, RefusesWhatCannotBeTurned) {
  const testing::ScratchFolder folder;
  const ModelSource source(testing::data_model("opt-post-ln-proj"));
  const std::string said = testing::expect_error(ErrorCode::unsupported, [&] {
    convert_to_gguf(source, folder / "x.gguf", {DType::f32, false, 0}, {});
  });
  EXPECT_NE(said.find("norms come after the sums"), std::string::npos) << said;
  EXPECT_FALSE(std::filesystem::exists(folder / "x.gguf"));
}

}  // namespace
}  // namespace tenfold
