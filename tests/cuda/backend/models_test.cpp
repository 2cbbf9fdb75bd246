// Whole models on the device, beside the CPU.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "quantizer/quantize.h"
#include "runtime/files/safetensors.h"
#include "runtime/scheduler.h"
#include "runtime/session.h"
#include "tests/cuda/backend/on_device.h"
#include "tests/support/prose.h"
#include "tests/support/scratch_folder.h"
#include "tests/support/step.h"
#include "tests/support/tiny_model.h"

namespace tenfold {
namespace {

using testing::on_device;
using testing::prose;
using testing::ScratchFolder;

class CudaModels : public testing::CudaTest {};

// The largest difference of a logit, relative to the largest logit.
float difference(const std::vector<std::vector<float>>& a,
                 const std::vector<std::vector<float>>& b) {
  float largest = 0, worst = 0;
  for (std::size_t s = 0; s < a.size(); ++s) {
    EXPECT_EQ(a[s].size(), b[s].size());
    for (std::size_t i = 0; i < a[s].size(); ++i) {
      EXPECT_TRUE(std::isfinite(b[s][i]));
      largest = std::max(largest, std::fabs(a[s][i]));
      worst = std::max(worst, std::fabs(a[s][i] - b[s][i]));
    }
  }
  return worst / largest;
}

const std::vector<std::vector<std::int32_t>> kPrompts = {
    {2, 40, 17, 99, 101, 250, 33, 7, 64, 201, 5}, {2, 300, 8}, {9, 9, 9, 9, 9, 9, 9}};
constexpr const char* kModels[] = {"llama-mha", "llama-gqa-rope3-tied", "llama-headdim-bias",
                                   "opt-pre-ln", "opt-post-ln-proj"};

// Of the largest logit. cuBLAS rounds activations to the type of the weights, 11 or 8 bits.
float tolerance(const LoadedModel& m) {
  const std::string& types = m.model->info().weight_types;
  return types == "F32" ? 1e-4f : types == "F16" ? 2e-3f : 2e-2f;
}

TEST_F(CudaModels, GoldensInFloat) {
  for (const char* name : kModels) {
    SCOPED_TRACE(name);
    LoadedModel cpu(testing::data_model(name));
    LoadedModel cuda(testing::data_model(name));
    cuda.ws.backend = on_device();
    const auto expected = run_prompts(cpu, kPrompts, 0, KvType::f32);
    EXPECT_LT(difference(expected, run_prompts(cuda, kPrompts, 0, KvType::f32)), tolerance(cpu));
    EXPECT_LT(difference(expected, run_prompts(cuda, kPrompts, 4, KvType::f32)), tolerance(cpu));
    EXPECT_EQ(greedy_ids(cpu, kPrompts[0], 12, KvType::f32),
              greedy_ids(cuda, kPrompts[0], 12, KvType::f32));
  }
}

GenerateOptions drawing(float temperature, int top_k, bool all) {
  GenerateOptions options;
  options.sampler.temperature = temperature;
  options.sampler.top_k = top_k;
  options.sampler.seed = 5;
  options.max_tokens = 10;
  options.ignore_eos = true;
  if (all) options.sampler.logit_bias = {{3, 0.0f}};  // nothing, but of any token
  return options;
}

// Tokens are drawn from the best logits alone, or from all: the same.
TEST_F(CudaModels, DrawsFromTheBestWhatItDrawsFromAll) {
  LoadedModel cuda(testing::data_model("llama-mha"));
  cuda.ws.backend = on_device();
  const ScratchFolder folder;
  testing::LaunchLog log(folder);
  for (const auto& [temperature, top_k] :
       {std::pair{0.0f, 40}, {1.5f, 1}, {1.5f, 40}, {2.0f, 64}}) {
    std::vector<std::vector<TokenId>> said;
    for (const bool all : {false, true}) {
      log.begin();
      Session session(*cuda.model, cuda.ws, 64, KvType::f16);
      said.push_back(
          generate(session, nullptr, kPrompts[0], drawing(temperature, top_k, all), {}).tokens);
      const std::string launched = log.end();
      if (!launched.empty()) {
        EXPECT_EQ(launched.find("row_top") == std::string::npos, all);
        EXPECT_NE(launched.find("rope_and_store"), std::string::npos);
        EXPECT_EQ(launched.find("rotate"), std::string::npos);
      }
    }
    EXPECT_EQ(said[0].size(), 10u);
    EXPECT_EQ(said[0], said[1]) << temperature << ", " << top_k;
  }
}

// Sequences that draw from the best in other ways, with one that wants all and without.
TEST_F(CudaModels, SequencesDrawEachAsAlone) {
  const ScratchFolder folder;
  LoadedModel cuda(testing::tiny_model(folder, "llama-mha"));
  cuda.ws.backend = on_device();
  const auto tokenizer = load_tokenizer(ModelSource(folder / "tiny"));
  const auto texts = [&](const std::vector<GenerateOptions>& options) {
    Scheduler scheduler(*cuda.model, cuda.ws, *tokenizer, {});
    std::vector<std::string> heard(options.size());
    for (std::size_t i = 0; i < options.size(); ++i) {
      GenerationRequest request;
      request.prompt = kPrompts[i];
      request.options = options[i];
      scheduler.submit(request, {[&heard, i](const GenerationEvent& event) {
                                   ASSERT_FALSE(event.error) << event.error->message;
                                   heard[i] += event.text;
                                 },
                                 {}});
    }
    while (scheduler.step()) {
    }
    return heard;
  };
  const auto best = texts({drawing(0, 40, false), drawing(1.5f, 40, false), drawing(2, 7, false)});
  EXPECT_EQ(best, texts({drawing(0, 40, true), drawing(1.5f, 40, true), drawing(2, 7, true)}));
  EXPECT_EQ(best, texts({drawing(0, 40, false), drawing(1.5f, 40, true), drawing(2, 7, false)}));
}

struct Width {
  const char* name;
  int bits;
  bool mixed;
};

class CudaPackedModels : public CudaModels {
 protected:
  // In packed weights, embedding and head too, so that sums are exact within a block.
  std::filesystem::path make(const std::string& name, const Width& width) {
    QuantizeOptions options;
    options.recipe.bits = width.bits;
    options.recipe.group = 32;
    options.threads = 1;
    if (width.mixed) {
      set_squeeze10(options.recipe);
      options.recipe.calibration = {folder_.write("prose.txt", prose()).string(), 4, 32, 1};
    }
    options.recipe.embed_bits = 8;
    const auto source = folder_ / name;
    if (!std::filesystem::exists(source)) {
      std::filesystem::rename(testing::tiny_model(folder_, name), source);
    }
    const auto path = folder_ / (name + width.name + ".gguf");
    quantize(std::make_shared<const ModelSource>(source), path, options, {});
    return path;
  }

  ScratchFolder folder_;
};

TEST_F(CudaPackedModels, SayWhatTheCpuSays) {
  constexpr Width kMixed{"-mixed", 1, true};
  const std::vector<std::pair<const char*, std::vector<Width>>> cases = {
      {"llama-gqa-rope3-tied", {{"-1", 1, false}, {"-3", 3, false}, kMixed}},
      {"opt-pre-ln", {{"-2", 2, false}, {"-4", 4, false}, kMixed}}};
  for (const auto& [name, widths] : cases) {
    for (const Width& width : widths) {
      SCOPED_TRACE(name + std::string(width.name));
      const auto path = make(name, width);
      LoadedModel cpu(path);
      LoadedModel cuda(path);
      cuda.ws.backend = on_device();
      const auto found = run_prompts(cuda, kPrompts, 0, KvType::f16);
      // An activation that falls on the other side of a code's edge is a step of its block away.
      EXPECT_LT(difference(run_prompts(cpu, kPrompts, 0, KvType::f16), found), 1e-2f);
      EXPECT_EQ(greedy_ids(cpu, kPrompts[1], 10), greedy_ids(cuda, kPrompts[1], 10));
      // A token's logits are the same bits in any batch.
      EXPECT_EQ(found.front(), run_prompts(cuda, {kPrompts.front()}, 3, KvType::f16).front());
    }
  }
}

// What is replayed is what was run: each step of a length is eager once, then recorded.
TEST_F(CudaPackedModels, RecordedStepsAreTheSameBits) {
  const auto path = make("llama-mha", {"-4", 4, false});
  LoadedModel cuda(path);
  cuda.ws.backend = on_device();
  const auto first = greedy_ids(cuda, kPrompts[0], 56);  // into a second page
  EXPECT_EQ(first, greedy_ids(cuda, kPrompts[0], 56));
  LoadedModel eager(path);
  eager.ws.backend = on_device();
  eager.ws.input_tap = [](LinearInput, const float*, std::int64_t, std::int64_t) { return true; };
  EXPECT_EQ(first, greedy_ids(eager, kPrompts[0], 56));
}

TEST_F(CudaPackedModels, ForgetsWhatWasChanged) {
  const auto a = make("opt-pre-ln", {"-4", 4, false});
  const auto b = make("opt-pre-ln", {"-2", 2, false});
  const auto other = load_decoder(std::make_shared<const ModelSource>(b), RowOrder::gguf);
  LoadedModel cuda(a);
  cuda.ws.backend = on_device();
  auto& weights = dynamic_cast<Decoder&>(*cuda.model).weights().layers[1].up.weight;
  const auto before = run_prompts(cuda, kPrompts, 0, KvType::f16);
  std::swap(weights, other->weights().layers[1].up.weight);
  cuda.ws.backend->forget(weights.view);
  const auto changed = run_prompts(cuda, kPrompts, 0, KvType::f16);
  EXPECT_NE(before, changed);
  std::swap(weights, other->weights().layers[1].up.weight);
  cuda.ws.backend->forget(weights.view);
  EXPECT_EQ(before, run_prompts(cuda, kPrompts, 0, KvType::f16));
}

// Weights that wait for their turn give way to whatever is needed now, and come back.
TEST_F(CudaPackedModels, MakesRoomWhereMemoryIsShort) {
  LoadedModel cuda(make("llama-mha", {"-4", 4, false}));
  cuda.ws.backend = on_device();
  const auto ids = [&] { return greedy_ids(cuda, kPrompts[1], 6); };
  const auto expected = ids();
  std::vector<Buffer> taken;
  for (std::size_t bytes = std::size_t{1} << 30; bytes >= 2048;) {
    try {
      taken.push_back(cuda.ws.backend->allocate(bytes));
    } catch (const Error& error) {
      ASSERT_EQ(error.code(), ErrorCode::out_of_memory) << error.what();
      bytes /= 2;
    }
  }
  std::vector<std::int32_t> found;
  int failures = 0;
  for (; found.empty() && !taken.empty(); taken.pop_back()) {
    try {
      found = ids();
    } catch (const Error& error) {
      ASSERT_EQ(error.code(), ErrorCode::out_of_memory) << error.what();
      ++failures;
    }
  }
  EXPECT_GT(failures, 0);
  EXPECT_EQ(found, expected);  // where it was just enough
  taken.clear();
  EXPECT_EQ(ids(), expected);
}

}  // namespace
}  // namespace tenfold
