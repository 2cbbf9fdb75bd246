// Whole models: quantized, written, opened again and run.

#include "quantizer/quantize.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <map>
#include <memory>

#include "kernels/half.h"
#include "models/convert.h"
#include "models/gguf_output.h"
#include "models/weights.h"
#include "tests/support/expect_error.h"
#include "tests/support/random.h"
#include "tests/support/scratch_folder.h"
#include "tests/support/step.h"
#include "tests/support/tiny_model.h"

namespace tenfold {
namespace {

using testing::data_model;
using testing::read_file;
using testing::ScratchFolder;

const std::vector<std::vector<std::int32_t>> kPrompts = {{2, 7, 100, 31, 255, 9, 18, 3}, {5, 6, 7}};
constexpr const char* kModels[] = {"llama-mha", "llama-gqa-rope3-tied", "llama-headdim-bias",
                                   "opt-pre-ln", "opt-post-ln-proj"};

Recipe recipe_of(int bits, std::int64_t group = 32) {
  Recipe recipe;
  recipe.bits = bits;
  recipe.group = group;
  return recipe;
}

QuantizeResult make(const std::filesystem::path& model, const std::filesystem::path& output,
                    const Recipe& recipe, int threads = 2) {
  QuantizeOptions options;
  options.recipe = recipe;
  options.threads = threads;
  return quantize(std::make_shared<const ModelSource>(model), output, options, {});
}

// Root mean square of the difference of logits over that of the original's, with activations of 15
// bits, so that it is the weights that err.
double logit_error(const std::filesystem::path& original, const std::filesystem::path& quantized) {
  LoadedModel a(original);
  LoadedModel b(quantized);
  b.ws.backend = make_cpu_backend({2, "", Activations::int8x2});
  const auto x = run_prompts(a, kPrompts, 0, KvType::f32);
  const auto y = run_prompts(b, kPrompts, 0, KvType::f32);
  double difference = 0;
  double size = 0;
  for (std::size_t s = 0; s < x.size(); ++s) {
    EXPECT_EQ(x[s].size(), y[s].size());
    for (std::size_t i = 0; i < x[s].size(); ++i) {
      difference += std::pow(x[s][i] - y[s][i], 2);
      size += std::pow(x[s][i], 2);
    }
  }
  return std::sqrt(difference / size);
}

TEST(Quantize, EightBitsKeepTheLogitsOfEveryModel) {
  const ScratchFolder folder;
  for (const char* name : kModels) {
    SCOPED_TRACE(name);
    make(data_model(name), folder / name, recipe_of(8));
    // Steps of 1/255 of a range of some 5 deviations err by 5/255/sqrt(12) = 0.6 % a matrix; some
    // 16 matrices follow each other: 4 times that.
    EXPECT_LT(logit_error(data_model(name), folder / name), 0.03);
  }
}

TEST(Quantize, FewerBitsErrMore) {
  const ScratchFolder folder;
  double last = 0;
  for (const int bits : {8, 4, 3, 2, 1}) {
    const auto path = folder / std::to_string(bits);
    const QuantizeResult result = make(data_model("llama-mha"), path, recipe_of(bits));
    const double error = logit_error(data_model("llama-mha"), path);
    EXPECT_GT(error, last) << bits;
    last = error;
    EXPECT_GT(result.quantized.bits_per_weight(), bits);
    EXPECT_LT(result.all.bytes, std::filesystem::file_size(path));
  }
}

// The sizes announced are those of the file that the loader opens.
TEST(Quantize, SizesAreThoseOfTheFile) {
  const ScratchFolder folder;
  for (const char* name : kModels) {
    Recipe recipe = recipe_of(2, 64);
    const QuantizeResult result = make(data_model(name), folder / name, recipe);
    const ModelSource source(folder / name);
    const Family& family = find_family(source);
    const DecoderSpec spec = read_spec(family, source);
    std::uint64_t bytes = 0;
    std::int64_t elements = 0;
    for (const ModelTensor& tensor : read_tensors(family, spec, source)) {
      bytes += tensor.rows.weight().bytes();
      elements += tensor.rows.weight().elements();
    }
    EXPECT_EQ(bytes, result.all.bytes) << name;
    EXPECT_EQ(elements, result.all.elements) << name;
    QuantizeOptions dry;
    dry.recipe = recipe;
    dry.dry_run = true;
    const QuantizeResult planned =
        quantize(std::make_shared<const ModelSource>(data_model(name)), folder / "dry", dry, {});
    EXPECT_EQ(planned.all.bytes, result.all.bytes);
    EXPECT_FALSE(std::filesystem::exists(folder / "dry"));
  }
}

TEST(Quantize, BytesIgnoreThreadsAndAreMadeTwiceTheSame) {
  const ScratchFolder folder;
  for (const double mixed : {0.0, 0.2}) {
    Recipe recipe = recipe_of(mixed > 0 ? 1 : 2, mixed > 0 ? 0 : 32);
    recipe.mixed = mixed;
    std::string first;
    for (const int threads : {1, 3}) {
      const auto path = folder / (std::to_string(threads) + std::to_string(mixed));
      make(data_model("llama-gqa-rope3-tied"), path, recipe, threads);
      if (first.empty()) first = read_file(path);
      EXPECT_TRUE(first == read_file(path)) << threads << " threads";
    }
  }
}

TEST(Quantize, TiedHeadIsOneMatrixUnlessWidthsDiffer) {
  const ScratchFolder folder;
  Recipe recipe = recipe_of(4);
  recipe.embed_bits = 4;
  const QuantizeResult one = make(data_model("opt-pre-ln"), folder / "one", recipe);
  EXPECT_FALSE(one.split_head);
  EXPECT_EQ(ModelSource(folder / "one").find_matrix("output.weight"), nullptr);
  recipe.head_bits = 8;
  const QuantizeResult two = make(data_model("opt-pre-ln"), folder / "two", recipe);
  EXPECT_TRUE(two.split_head);
  const ModelSource source(folder / "two");
  ASSERT_NE(source.find_matrix("output.weight"), nullptr);
  EXPECT_EQ(source.find_matrix("output.weight")->bands[0].format, Format::q8);
  EXPECT_EQ(source.find_matrix("token_embd.weight")->bands[0].format, Format::q4);
  EXPECT_LT(logit_error(data_model("opt-pre-ln"), folder / "two"), 0.5);
  recipe.embed_bits = 16;
  recipe.head_bits.reset();
  make(data_model("opt-pre-ln"), folder / "float", recipe);
  const ModelSource plain(folder / "float");
  ASSERT_NE(plain.find("token_embd.weight"), nullptr);
  EXPECT_EQ(plain.find("token_embd.weight")->dtype, DType::f16);
  EXPECT_EQ(plain.find("output.weight"), nullptr);
}

TEST(Quantize, MixedLayoutSharesOneOrderForEachInput) {
  const ScratchFolder folder;
  for (const char* name : {"llama-gqa-rope3-tied", "opt-post-ln-proj"}) {
    Recipe recipe = recipe_of(1, 0);
    recipe.mixed = 0.2;
    make(data_model(name), folder / name, recipe);
    const ModelSource source(folder / name);
    const MatrixView* q = source.find_matrix("blk.0.attn_q.weight");
    ASSERT_NE(q, nullptr);
    EXPECT_EQ(q->n_bands, 2);
    EXPECT_EQ(q->bands[0].format, Format::q4);
    EXPECT_EQ(q->bands[1].format, Format::q1);
    EXPECT_EQ(q->bands[0].col_end % 16, 0);
    EXPECT_EQ(source.find_matrix("token_embd.weight")->map.source, nullptr);
    const DecoderWeights weights =
        load_weights(find_family(source), read_spec(find_family(source), source), source);
    const LayerWeights& layer = weights.layers[0];
    EXPECT_EQ(layer.q.weight.view.map, layer.k.weight.view.map);
    EXPECT_EQ(layer.q.weight.view.map, layer.v.weight.view.map);
    if (!layer.gate.weight.view.empty()) {
      EXPECT_EQ(layer.gate.weight.view.map, layer.up.weight.view.map);
    }
    const double error = logit_error(data_model(name), folder / name);
    EXPECT_TRUE(std::isfinite(error));
  }
}

// Converting back writes what the packed weights mean: the same logits up to rounded activations.
TEST(Quantize, ConvertsBackToFloats) {
  const ScratchFolder folder;
  Recipe recipe = recipe_of(1, 0);
  recipe.mixed = 0.3;
  make(data_model("llama-headdim-bias"), folder / "mixed", recipe);
  convert_to_gguf(ModelSource(folder / "mixed"), folder / "f32", {DType::f32, false}, {});
  EXPECT_TRUE(ModelSource(folder / "f32").matrices().empty());
  EXPECT_LT(logit_error(folder / "f32", folder / "mixed"), 1e-3);
}

// A GGUF of the model with random Q4_1 blocks in the layers and Q8_0 in embedding and head.
void write_block_model(const std::filesystem::path& path, const char* name) {
  const ModelSource source(data_model(name));
  const Family& family = find_family(source);
  const DecoderSpec spec = read_spec(family, source);
  std::vector<GgufTensorDecl> decls;
  for (const ModelTensor& tensor : read_tensors(family, spec, source)) {
    const bool layer = tensor.info.name.rfind("blk.", 0) == 0;
    const DType type = !tensor.info.is_matrix() ? DType::f32 : layer ? DType::q4_1 : DType::q8_0;
    decls.push_back({tensor.info.name, tensor.info.shape, type});
  }
  GgufWriter writer(path, true, model_metadata(family, spec, source), decls);
  std::mt19937 rng(1);
  for (const GgufTensorDecl& decl : decls) {
    const DTypeTraits traits = dtype_traits(decl.dtype);
    const auto rows = static_cast<std::size_t>(decl.shape.front());
    const std::size_t elements =
        rows * (decl.shape.size() == 2 ? static_cast<std::size_t>(decl.shape[1]) : 1);
    for (std::size_t b = 0; b < elements / traits.block; ++b) {
      std::vector<std::byte> block(traits.bytes);
      for (std::byte& byte : block) byte = static_cast<std::byte>(rng());
      const float one = 1.0f;
      const std::uint16_t scale = f32_to_f16(decl.dtype == DType::q4_1 ? 0.02f : 0.002f);
      const std::uint16_t min = f32_to_f16(-0.15f);
      if (decl.dtype == DType::f32) std::memcpy(block.data(), &one, 4);
      if (decl.dtype != DType::f32) std::memcpy(block.data(), &scale, 2);
      if (decl.dtype == DType::q4_1) std::memcpy(block.data() + 2, &min, 2);
      writer.write(block);
    }
  }
  writer.finish();
}

TEST(Quantize, TheLosslessMappingKeepsEveryBit) {
  const ScratchFolder folder;
  write_block_model(folder / "blocks", "llama-mha");
  Recipe recipe = recipe_of(4, 32);
  recipe.min = MinKind::f16;
  make(folder / "blocks", folder / "packed", recipe);
  LoadedModel a(folder / "blocks");
  LoadedModel b(folder / "packed");
  EXPECT_EQ(a.model->info().weight_types, "Q4_1 and Q8_0 repacked");
  EXPECT_EQ(b.model->info().weight_types, "q4 g32 f16, q8 g32 zero");
  EXPECT_GT(a.model->info().copied_bytes, 0u);
  EXPECT_EQ(b.model->info().copied_bytes, 0u);
  const auto x = run_prompts(a, kPrompts, 0, KvType::f32);
  const auto y = run_prompts(b, kPrompts, 0, KvType::f32);
  EXPECT_EQ(x, y);
}

TEST(Quantize, RefusesRecipesThatCannotBe) {
  const ScratchFolder folder;
  const auto refuse = [&](const Recipe& recipe) {
    testing::expect_error(ErrorCode::bad_request,
                          [&] { make(data_model("llama-mha"), folder / "no", recipe); });
    EXPECT_EQ(folder.n_entries(), 0u);
  };
  refuse(recipe_of(5));
  refuse(recipe_of(16));
  refuse(recipe_of(4, 48));
  Recipe recipe = recipe_of(4);
  recipe.embed_bits = 7;
  refuse(recipe);
  recipe = recipe_of(4);
  recipe.mixed = 0.2;
  refuse(recipe);
  recipe = recipe_of(1);
  recipe.mixed = 1.5;
  refuse(recipe);
}

TEST(Quantize, CancellingLeavesNothing) {
  const ScratchFolder folder;
  QuantizeOptions options;
  int calls = 0;
  testing::expect_error(ErrorCode::cancelled, [&] {
    quantize(std::make_shared<const ModelSource>(data_model("opt-pre-ln")), folder / "no", options,
             [&](auto, auto) { return ++calls < 10; });
  });
  EXPECT_EQ(folder.n_entries(), 0u);
}

}  // namespace
}  // namespace tenfold
