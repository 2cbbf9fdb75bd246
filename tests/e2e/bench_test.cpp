// `tenfold bench` as a script would use it, and the random models of bench/make_synthetic. Speeds
// themselves are never asserted.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "runtime/files/safetensors.h"
#include "tests/support/subprocess.h"
#include "tests/support/tiny_model.h"

namespace tenfold::testing {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using ::testing::StartsWith;

ProcessResult bench(const std::vector<std::string>& options) {
  std::vector<std::string> command = {"bench", "-m", data_model("llama-mha")};
  command.insert(command.end(), options.begin(), options.end());
  return run_tenfold(command);
}

TEST(Bench, JsonOfAShortRun) {
  const ProcessResult result = bench(
      {"-p", "20", "-n", "3", "-b", "1,3", "-r", "1", "-o", "json", "--threads", "2", "--quiet"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(result.err, "");
  const json report = json::parse(result.out);
  EXPECT_EQ(report["threads"], 2);
  EXPECT_EQ(report["device"], "cpu");
  ASSERT_EQ(report["prefill"].size(), 1u);
  EXPECT_EQ(report["prefill"][0]["tokens"], 20);
  ASSERT_EQ(report["decode"].size(), 2u);
  EXPECT_EQ(report["decode"][1]["batch"], 3);
  for (const json& test : {report["prefill"][0], report["decode"][0], report["decode"][1]}) {
    EXPECT_GT(test["tok_s"], 0.0);
    EXPECT_GE(test["sd"], 0.0);
  }
  EXPECT_GT(report["read_bandwidth_gb_s"], 0.0);
  EXPECT_GT(report["peak_gop_s"], 0.0);
  EXPECT_GT(report["decode"][0]["bandwidth_share"], 0.0);
}

TEST(Bench, PartsCanBeLeftOut) {
  const ProcessResult prefill = bench({"-n", "0", "-p", "7", "-o", "json", "--no-limits"});
  ASSERT_EQ(prefill.exit_code, 0) << prefill.err;
  EXPECT_THAT(prefill.err, HasSubstr("llama"));  // what was loaded
  EXPECT_TRUE(json::parse(prefill.out)["decode"].empty());
  EXPECT_TRUE(json::parse(prefill.out)["peak_gop_s"].is_null());
  const ProcessResult decode = bench({"-p", "0", "-n", "2", "-b", "2", "--no-limits", "--quiet"});
  ASSERT_EQ(decode.exit_code, 0) << decode.err;
  EXPECT_THAT(decode.out, HasSubstr("| decode 2 × 2 |"));
  const ProcessResult csv = bench({"-p", "2", "-n", "2", "-o", "csv", "--no-limits", "--quiet"});
  EXPECT_THAT(csv.out, StartsWith("test,tokens,batch,tok_s"));
}

TEST(Bench, RefusesWhatItCannotMeasure) {
  const auto expect_refusal = [](const std::vector<std::string>& options, const char* reason) {
    const ProcessResult result = bench(options);
    EXPECT_EQ(result.exit_code, 2) << result.err;
    EXPECT_EQ(result.out, "");
    EXPECT_THAT(result.err, HasSubstr(reason));
  };
  expect_refusal({"-b", "0"}, "from 1 to 512, found 0");
  expect_refusal({"-b", "1,x"}, "found x");
  expect_refusal({"-r", "0"}, "from 1 to 1000, found 0");
  expect_refusal({"-o", "yaml"}, "must be one of md, json, csv, found yaml");
  expect_refusal({"-p", "0", "-n", "0"}, "leave nothing to measure");
  expect_refusal({"-p", "257", "--quiet"}, "-p 257: the model's context is 256 tokens");
  expect_refusal({"-p", "0", "-n", "257", "--quiet"}, "-n 257: the model's context is 256 tokens");
}

#ifdef TENFOLD_MAKE_SYNTHETIC

// A one-layer model of the shape, replacing the last one.
std::filesystem::path make(const ScratchFolder& folder, const std::string& shape,
                           const std::string& seed) {
  const std::filesystem::path path = folder / "synthetic.gguf";
  const ProcessResult result = run_process({TENFOLD_MAKE_SYNTHETIC, "--shape", shape, "--layers",
                                            "1", "--seed", seed, "-o", path, "--force"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  return path;
}

TEST(MakeSynthetic, BothFamiliesRunAndStayFinite) {
  for (const char* shape : {"smollm2-135m", "opt-125m"}) {
    const ScratchFolder folder;
    const auto model = make(folder, shape, "1");
    const auto ids = folder.write("ids.json", "[[5, 600, 7000, 8, 9]]");
    const ProcessResult result = run_tenfold(
        {"logits", "--quiet", "-m", model, "--ids", ids, "-o", folder / "logits.safetensors"});
    ASSERT_EQ(result.exit_code, 0) << result.err;
    const SafetensorsFile file(folder / "logits.safetensors");
    const TensorSource& logits = *file.find("logits");
    const auto* values = reinterpret_cast<const float*>(logits.data.data());
    double squares = 0;
    for (std::int64_t i = 0; i < logits.elements(); ++i) {
      squares += static_cast<double>(values[i]) * static_cast<double>(values[i]);
    }
    // Normed rows of `dim` ones times weights of 0.02: sqrt(dim) * 0.02 is about 0.5.
    const double rms = std::sqrt(squares / static_cast<double>(logits.elements()));
    EXPECT_GT(rms, 0.2) << shape;
    EXPECT_LT(rms, 1.5) << shape;
  }
}

TEST(MakeSynthetic, TheSeedDecides) {
  const ScratchFolder folder;
  const std::string first = read_file(make(folder, "smollm2-135m", "1"));
  EXPECT_TRUE(first == read_file(make(folder, "smollm2-135m", "1")));
  EXPECT_FALSE(first == read_file(make(folder, "smollm2-135m", "2")));
}

TEST(MakeSynthetic, NamesTheShapesItKnows) {
  const ScratchFolder folder;
  const ProcessResult result =
      run_process({TENFOLD_MAKE_SYNTHETIC, "--shape", "gpt5", "-o", folder / "x.gguf"});
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_THAT(result.err, HasSubstr("--shape gpt5 is unknown; choose one of smollm2-135m, "));
}

#endif

}  // namespace
}  // namespace tenfold::testing
