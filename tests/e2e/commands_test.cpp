// The commands on small models, as a script would use them.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "runtime/files/safetensors.h"
#include "tests/support/smollm2.h"
#include "tests/support/subprocess.h"
#include "tests/support/tiny_model.h"

namespace tenfold::testing {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

std::string run_ok(const std::vector<std::string>& arguments, const ProcessOptions& options = {}) {
  const ProcessResult result = run_tenfold(arguments, options);
  EXPECT_EQ(result.exit_code, 0) << result.err;
  return result.out;
}

// input_ids of an expected.safetensors as the JSON that `logits --ids` reads.
std::string ids_json(const SafetensorsFile& file) {
  const TensorSource* ids = file.find("input_ids");
  const auto* values = reinterpret_cast<const std::int32_t*>(ids->data.data());
  json rows = json::array();
  for (std::int64_t row = 0; row < ids->shape[0]; ++row) {
    rows.push_back(std::vector<std::int32_t>(values + row * ids->shape[1],
                                             values + (row + 1) * ids->shape[1]));
  }
  return rows.dump();
}

TEST(Logits, WholeTokenAndBatchGiveTheSameBits) {
  for (const char* name : {"llama-gqa-rope3-tied", "opt-post-ln-proj"}) {
    const ScratchFolder folder;
    const SafetensorsFile expected(data_model(name) / "expected.safetensors");
    const auto ids = folder.write("ids.json", ids_json(expected));
    for (const char* mode : {"whole", "token", "batch"}) {
      run_ok({"logits", "--quiet", "-m", data_model(name), "--ids", ids, "-o", folder / mode,
              "--mode", mode});
    }
    const std::string whole = read_file(folder / "whole");
    EXPECT_TRUE(whole == read_file(folder / "token")) << name;
    EXPECT_TRUE(whole == read_file(folder / "batch")) << name;

    const SafetensorsFile written(folder / "whole");
    const TensorSource* logits = written.find("logits");
    const TensorSource* golden = expected.find("logits");
    ASSERT_NE(logits, nullptr);
    ASSERT_EQ(logits->shape, golden->shape);
    const auto* a = reinterpret_cast<const float*>(logits->data.data());
    const auto* b = reinterpret_cast<const float*>(golden->data.data());
    float worst = 0;
    for (std::int64_t i = 0; i < logits->elements(); ++i) {
      worst = std::max(worst, std::abs(a[i] - b[i]));
    }
    EXPECT_LE(worst, 2e-3f) << name;
  }
}

TEST(Generate, IdsWithoutATokenizer) {
  const ScratchFolder folder;
  const auto ids = folder.write("ids.json", "[5, 6, 7]");
  const std::vector<std::string> command = {
      "generate", "--quiet", "-m",    data_model("llama-mha"), "--ids", ids, "--temp", "0",
      "-n",       "5",       "--json"};
  const json result = json::parse(run_ok(command));
  EXPECT_EQ(result["tokens"].size(), 5u);
  EXPECT_EQ(result["finish_reason"], "length");
  EXPECT_EQ(result["timings"]["prompt_tokens"], 3);
  EXPECT_EQ(result["timings"]["generated_tokens"], 5);
  EXPECT_EQ(json::parse(run_ok(command))["tokens"], result["tokens"]) << "greedy must repeat";
}

TEST(Generate, StreamsTheTextThatJsonReports) {
  const ScratchFolder folder;
  const auto model = tiny_model(folder);
  const std::vector<std::string> command = {"generate", "--quiet", "-m", model,    "-p",
                                            "abc",      "-n",      "20", "--seed", "7"};
  const std::string text = run_ok(command);
  std::vector<std::string> with_json = command;
  with_json.emplace_back("--json");
  const json result = json::parse(run_ok(with_json));
  EXPECT_EQ(text, result["text"].get<std::string>() + "\n");
  for (const char* key : {"text", "tokens", "finish_reason", "timings"}) {
    EXPECT_TRUE(result.contains(key)) << key;
  }
}

TEST(Generate, ReadsThePromptFromStandardInput) {
  const ScratchFolder folder;
  const auto model = tiny_model(folder);
  const auto run = [&](const std::vector<std::string>& source, const ProcessOptions& options) {
    std::vector<std::string> command = {"generate", "--quiet", "-m", model, "--temp", "0"};
    command.insert(command.end(), source.begin(), source.end());
    return run_ok(command, options);
  };
  EXPECT_EQ(run({"-f", "-"}, {.input = "abc"}), run({"-p", "abc"}, {}));
}

TEST(Generate, KeepsToAJsonSchemaOrAGrammar) {
  const ScratchFolder folder;
  const auto model = tiny_model(folder);
  const auto schema = folder.write("schema.json", R"({"type": "object", "properties": {
      "name": {"type": "string", "maxLength": 8}, "age": {"type": "integer", "minimum": 0, "maximum": 99}},
      "required": ["name", "age"]})");
  const auto command = [&](const char* option, const std::string& file, const std::string& seed) {
    return std::vector<std::string>{"generate", "--quiet", "-m",     model, "-p",   "abc",
                                    "-n",       "120",     "--seed", seed,  option, file};
  };
  for (const char* seed : {"1", "2", "3"}) {
    const json value = json::parse(run_ok(command("--json-schema", schema, seed)));
    EXPECT_TRUE(value["name"].is_string());
    EXPECT_LE(value["age"].get<int>(), 99);
  }
  const auto grammar = folder.write("yes.gbnf", "root ::= \"yes\" | \"no\"\n");
  const std::string answer = run_ok(command("--grammar", grammar, "1"));
  EXPECT_TRUE(answer == "yes\n" || answer == "no\n") << answer;

  const auto refused = [&](const std::vector<std::string>& arguments, int exit_code) {
    const ProcessResult result = run_tenfold(arguments);
    EXPECT_EQ(result.exit_code, exit_code);
    EXPECT_EQ(result.out, "");
    return result.err;
  };
  const auto bad = folder.write("bad.json", R"({"type": "array", "uniqueItems": true})");
  EXPECT_EQ(refused(command("--json-schema", bad, "1"), 3),
            "tenfold: " + bad.string() +
                ": JSON schema, \"#\": the keyword \"uniqueItems\" is not supported\n");
  EXPECT_THAT(refused(command("--grammar", bad, "1"), 3),
              HasSubstr(bad.string() + ": grammar, line 1: expected the name of a rule, found {"));
  EXPECT_THAT(refused(command("--grammar", folder / "none.gbnf", "1"), 3), HasSubstr("none.gbnf"));
  std::vector<std::string> both = command("--grammar", grammar, "1");
  both.insert(both.end(), {"--json-schema", schema});
  EXPECT_THAT(refused(both, 2), HasSubstr("--json-schema"));
}

TEST(Tokenize, ThereAndBackWithoutWeights) {
  const ScratchFolder folder;
  const auto model = tiny_model(folder);
  std::filesystem::remove(model / "model.safetensors");
  EXPECT_EQ(run_ok({"tokenize", "-m", model, "--json", "--no-special", "aé"}), "[101,199,173]\n");
  EXPECT_EQ(run_ok({"tokenize", "-m", model, "ab"}), "2 101 102\n");
  EXPECT_EQ(run_ok({"tokenize", "-m", model, "-f", "-", "--no-special"}, {.input = "b"}), "102\n");
  EXPECT_EQ(run_ok({"tokenize", "-m", model, "--decode", "[101, 199,173]"}), "aé\n");
  EXPECT_EQ(run_ok({"tokenize", "-m", model, "--json", "--decode", "101 14"}), "\"a\\n\"\n");
  EXPECT_EQ(run_tenfold({"tokenize", "-m", model, "--decode", "9999"}).exit_code, 2);
}

TEST(Inspect, CountsWhatIsInTheFile) {
  const json result = json::parse(run_ok({"inspect", "--json", data_model("llama-mha")}));
  EXPECT_EQ(result["architecture"], "llama");
  EXPECT_EQ(result["layers"], 2);
  EXPECT_DOUBLE_EQ(result["bits_per_weight"], 16.0);
  EXPECT_TRUE(result["quantization"].is_null());
  EXPECT_EQ(result["file_bytes"],
            std::filesystem::file_size(data_model("llama-mha") / "model.safetensors"));
  EXPECT_THAT(run_ok({"inspect", data_model("llama-mha"), "--tensors"}),
              HasSubstr("model.layers.0.self_attn.q_proj.weight"));
}

TEST(Convert, KeepsTheLogits) {
  const ScratchFolder folder;
  const auto ids = folder.write("ids.json", "[[5, 6, 7, 8, 9]]");
  for (const char* name : {"llama-mha", "opt-pre-ln"}) {
    const auto gguf = folder / (std::string(name) + ".gguf");
    run_ok({"convert", "--quiet", "-m", data_model(name), "-o", gguf, "--type", "f32"});
    const auto a = folder / (std::string(name) + ".a");
    const auto b = folder / (std::string(name) + ".b");
    run_ok({"logits", "--quiet", "-m", data_model(name), "--ids", ids, "-o", a});
    run_ok({"logits", "--quiet", "-m", gguf, "--ids", ids, "-o", b});
    const SafetensorsFile first(a), second(b);
    const auto* x = reinterpret_cast<const float*>(first.tensors()[0].data.data());
    const auto* y = reinterpret_cast<const float*>(second.tensors()[0].data.data());
    for (std::int64_t i = 0; i < first.tensors()[0].elements(); ++i) {
      ASSERT_NEAR(x[i], y[i], 1e-4f) << name << " at " << i;
    }
  }
}

TEST(Eval, ReportsPerplexity) {
  const ScratchFolder folder;
  const auto model = tiny_model(folder);
  const auto text = folder.write("text.txt", std::string(600, 'x'));
  const json all = json::parse(run_ok({"eval", "--quiet", "-m", model, "--ppl", text, "--window",
                                       "128", "--json", "--per-window"}));
  EXPECT_EQ(all["windows"], 4);
  EXPECT_EQ(all["tokens"], 4 * 127);
  EXPECT_NEAR(all["ppl"].get<double>(), std::exp(all["nll"].get<double>()), 1e-9);
  EXPECT_DOUBLE_EQ(all["bits_per_weight"], 16.0);
  double sum = 0;
  for (const json& window : all["window_nll"]) sum += window.get<double>();
  EXPECT_EQ(all["window_nll"].size(), 4u);
  EXPECT_NEAR(sum / 4, all["nll"].get<double>(), 1e-12);
  const json half = json::parse(run_ok({"eval", "--quiet", "-m", model, "--ppl", text, "--window",
                                        "128", "--score", "half", "--windows", "2", "--json"}));
  EXPECT_EQ(half["windows"], 2);
  EXPECT_EQ(half["tokens"], 2 * 63);
  EXPECT_FALSE(half.contains("window_nll"));
  const json same = json::parse(run_ok({"eval", "--quiet", "-m", model, "--kld", model, "--text",
                                        text, "--window", "128", "--windows", "2", "--json"}));
  EXPECT_EQ(same.at("kld"), 0.0);
  EXPECT_EQ(same.at("same_top"), 1.0);
  EXPECT_EQ(same.at("tokens"), 2 * 127);
  const auto missing = run_tenfold({"eval", "--quiet", "-m", model, "--ppl", folder / "none"});
  EXPECT_EQ(missing.exit_code, 3);
}

TEST(Devices, NamesWhatItFound) {
  const std::string out = run_ok({"devices", "--isa", "scalar"});
  EXPECT_THAT(out, HasSubstr("kernels   scalar"));
  EXPECT_THAT(out, HasSubstr("\nCUDA      "));
}

TEST(Devices, TakesTheIsaFromTheEnvironment) {
  ProcessOptions options;
  options.environment = {{"TENFOLD_ISA", "scalar"}};
  EXPECT_THAT(run_ok({"devices"}, options), HasSubstr("kernels   scalar"));
}

TEST(Chat, SmolLM2KnowsTheCapitalOfFrance) {
  TENFOLD_SMOLLM2_OR_SKIP(path);
  // int8x2: with int8 the greedy answer of so small a model turns on the last bits of a logit.
  const std::string answer =
      run_ok({"chat", "--quiet", "-m", path, "--temp", "0", "-n", "24", "--activations", "int8x2"},
             {.input = "What is the capital of France?\n"});
  EXPECT_THAT(answer, HasSubstr("Paris"));
}

}  // namespace
}  // namespace tenfold::testing
