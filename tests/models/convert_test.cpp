#include "models/convert.h"

#include <gtest/gtest.h>

#include <cstring>

#include "kernels/error.h"
#include "models/export.h"
#include "tests/support/step.h"

namespace tenfold {
namespace {

const std::vector<std::vector<std::int32_t>> kPrompts = {{2, 7, 100, 31, 255, 9, 18, 3}, {5, 6, 7}};

std::filesystem::path folder_of(const char* name) {
  return std::filesystem::path(TENFOLD_TEST_DATA) / "models" / name;
}

std::filesystem::path output_path(const std::string& name) {
  const auto path = std::filesystem::path(::testing::TempDir()) / name;
  std::filesystem::remove(path);
  return path;
}

class ConvertTest : public ::testing::TestWithParam<const char*> {};

// HF -> F32 GGUF: the same numbers up to the order of a rotated head's channels.
TEST_P(ConvertTest, GgufComputesTheSameFunction) {
  const auto path = output_path(std::string(GetParam()) + ".gguf");
  convert_to_gguf(ModelSource(folder_of(GetParam())), path, {DType::f32, false}, {});
  LoadedModel from_hf(folder_of(GetParam()));
  LoadedModel from_gguf(path);
  EXPECT_EQ(from_hf.model->info().parameters, from_gguf.model->info().parameters);
  EXPECT_EQ(from_hf.model->info().max_context, from_gguf.model->info().max_context);
  const auto a = run_prompts(from_hf, kPrompts, 0, KvType::f32);
  const auto b = run_prompts(from_gguf, kPrompts, 0, KvType::f32);
  for (std::size_t s = 0; s < a.size(); ++s) {
    ASSERT_EQ(a[s].size(), b[s].size());
    for (std::size_t i = 0; i < a[s].size(); ++i) ASSERT_NEAR(a[s][i], b[s][i], 2e-4f);
  }
}

TEST_P(ConvertTest, GgufToGgufIsBitIdentical) {
  const auto once = output_path(std::string(GetParam()) + "-1.gguf");
  const auto twice = output_path(std::string(GetParam()) + "-2.gguf");
  convert_to_gguf(ModelSource(folder_of(GetParam())), once, {DType::f16, false}, {});
  convert_to_gguf(ModelSource(once), twice, {DType::f16, false}, {});
  const MappedFile a(once);
  const MappedFile b(twice);
  ASSERT_EQ(a.bytes().size(), b.bytes().size());
  EXPECT_EQ(0, std::memcmp(a.bytes().data(), b.bytes().data(), a.bytes().size()));
}

// To a Hugging Face directory, straight and by way of GGUF: the source's numbers.
TEST_P(ConvertTest, ExportedDirectoriesAreTheSource) {
  const auto gguf = output_path(std::string(GetParam()) + "-export.gguf");
  convert_to_gguf(ModelSource(folder_of(GetParam())), gguf, {DType::f32, false}, {});
  LoadedModel source(folder_of(GetParam()));
  const auto expected = run_prompts(source, kPrompts, 0, KvType::f32);
  for (const std::filesystem::path& from : {folder_of(GetParam()), gguf}) {
    const auto folder = std::filesystem::path(::testing::TempDir()) /
                        (std::string(GetParam()) + from.extension().string() + "-exported");
    std::filesystem::remove_all(folder);
    const ExportResult result = export_hugging_face(ModelSource(from), folder, {DType::f32}, {});
    EXPECT_EQ(result.clipped, 0);
    LoadedModel exported(folder);
    const auto found = run_prompts(exported, kPrompts, 0, KvType::f32);
    for (std::size_t s = 0; s < expected.size(); ++s) {
      ASSERT_EQ(found[s].size(), expected[s].size());
      for (std::size_t i = 0; i < found[s].size(); ++i) {
        // Rotary divisors travel as float32.
        ASSERT_NEAR(found[s][i], expected[s][i], 2e-5f) << from;
      }
    }
    EXPECT_EQ(source.model->info().max_context, exported.model->info().max_context);
    std::filesystem::remove_all(folder);
  }
}

INSTANTIATE_TEST_SUITE_P(Checkpoints, ConvertTest,
                         ::testing::Values("llama-mha", "llama-gqa-rope3-tied",
                                           "llama-headdim-bias", "opt-pre-ln", "opt-post-ln-proj"),
                         [](const auto& test) {
                           std::string name = test.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

TEST(Convert, CancellingLeavesNothing) {
  const auto path = output_path("cancelled.gguf");
  try {
    convert_to_gguf(ModelSource(folder_of("opt-pre-ln")), path, {},
                    [](auto, auto) { return false; });
    FAIL() << "not cancelled";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::cancelled);
  }
  EXPECT_FALSE(std::filesystem::exists(path));
  for (const auto& entry : std::filesystem::directory_iterator(::testing::TempDir())) {
    EXPECT_EQ(entry.path().filename().string().find("cancelled.gguf"), std::string::npos);
  }
}

}  // namespace
}  // namespace tenfold
