// The quantize command as a person uses it.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>

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

void expect_sentence(const ProcessResult& result, int exit_code, const std::string& part) {
  EXPECT_EQ(result.exit_code, exit_code) << result.err;
  EXPECT_THAT(result.err, HasSubstr(part));
  EXPECT_EQ(result.err.rfind("tenfold: ", 0), 0u) << result.err;
  EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
  EXPECT_EQ(result.out, "");
}

std::string prose() {
  std::string text;
  for (int i = 0; i < 300; ++i) text += "House " + std::to_string(i * 7919 % 1000) + " sleeps. ";
  return text;
}

TEST(QuantizeCommand, ReportsWhatInspectFinds) {
  const ScratchFolder folder;
  for (const char* name : {"llama-gqa-rope3-tied", "opt-post-ln-proj"}) {
    const std::string output = folder / (std::string(name) + ".gguf");
    const json made = json::parse(run_ok({"quantize", "--quiet", "-m", data_model(name), "-o",
                                          output, "--bits", "3", "--group", "64", "--json"}));
    EXPECT_EQ(made["output"], output);
    EXPECT_GT(made["peak_rss_bytes"], 0);
    EXPECT_GE(made["seconds"].get<double>(), 0.0);
    const json found = json::parse(run_ok({"inspect", "--json", "--tensors", output}));
    EXPECT_EQ(found["bits_per_weight"], made["bits_per_weight"]);
    EXPECT_EQ(found["bits_per_weight_quantized"], made["bits_per_weight_quantized"]);
    EXPECT_EQ(found["quantization"]["passes"][0], "rtn");
    EXPECT_EQ(found["quantization"]["bits"], 3);
    EXPECT_EQ(found["quantization"]["group"], 64);
    const auto& list = found["tensor_list"];
    const auto up = std::find_if(list.begin(), list.end(), [](const json& tensor) {
      return tensor["name"] == "blk.0.ffn_up.weight";
    });
    ASSERT_NE(up, list.end());
    EXPECT_EQ((*up)["type"], "q3 g64 zero");
    EXPECT_NEAR((*up)["bits_per_weight"].get<double>(), 3 + 19 / 64.0, 0.3);
    const std::string text = run_ok({"inspect", output, "--tensors"});
    EXPECT_THAT(text, HasSubstr("q3 g64 zero"));
    EXPECT_THAT(text, HasSubstr("\"passes\":[\"rtn\"]"));
  }
}

TEST(QuantizeCommand, TheResultGeneratesAndConverts) {
  const ScratchFolder folder;
  const auto model = tiny_model(folder);
  for (const std::vector<std::string>& recipe :
       {std::vector<std::string>{"--bits", "4"},
        {"--bits", "2", "--range", "minmax"},
        {"--mixed", "0.2"},
        {"--bits", "1", "--group", "row", "--embed-bits", "16"}}) {
    const std::string output = folder / "out.gguf";
    std::vector<std::string> command = {"quantize", "--quiet", "--force", "-m",
                                        model,      "-o",      output};
    command.insert(command.end(), recipe.begin(), recipe.end());
    EXPECT_EQ(run_ok(command), "");
    const json result = json::parse(run_ok(
        {"generate", "--quiet", "-m", output, "-p", "abc", "--temp", "0", "-n", "4", "--json"}));
    EXPECT_EQ(result["timings"]["prompt_tokens"], 4);
    run_ok({"convert", "--quiet", "--force", "-m", output, "-o", folder / "back.gguf"});
    const json back = json::parse(run_ok({"inspect", "--json", folder / "back.gguf"}));
    EXPECT_TRUE(back["quantization"].is_null());
    EXPECT_TRUE(back["bits_per_weight_quantized"].is_null());
  }
}

TEST(QuantizeCommand, DryRunWritesNothing) {
  const ScratchFolder folder;
  const json planned =
      json::parse(run_ok({"quantize", "--quiet", "-m", data_model("llama-mha"), "-o",
                          folder / "out.gguf", "--bits", "2", "--dry-run", "--json"}));
  EXPECT_TRUE(planned["output"].is_null());
  EXPECT_GT(planned["bits_per_weight"].get<double>(), 2.0);
  EXPECT_EQ(folder.n_entries(), 0u);
  const auto spoken = run_tenfold(
      {"quantize", "-m", data_model("llama-mha"), "-o", folder / "out.gguf", "--dry-run"});
  EXPECT_THAT(spoken.err, HasSubstr("bits per weight"));
}

TEST(QuantizeCommand, SaysThatATiedHeadWasSplit) {
  const ScratchFolder folder;
  const auto result = run_tenfold({"quantize", "-m", data_model("opt-pre-ln"), "-o",
                                   folder / "out.gguf", "--embed-bits", "4", "--head-bits", "8"});
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_THAT(result.err, HasSubstr("holds two"));
}

TEST(QuantizeCommand, OutputExists) {
  const ScratchFolder folder;
  const auto output = folder.write("out.gguf", "precious");
  const std::string model = data_model("llama-mha");
  expect_sentence(run_tenfold({"quantize", "--quiet", "-m", model, "-o", output}), 1, "--force");
  EXPECT_EQ(read_file(output), "precious");
  expect_sentence(run_tenfold({"quantize", "--quiet", "-m", model, "-o", folder / "full.gguf"},
                              {.max_file_bytes = 65536}),
                  1, "full.gguf");
  EXPECT_EQ(folder.n_entries(), 1u) << "something half-written was left behind";
}

TEST(QuantizeCommand, ValuesThatAreNot) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"--bits", "5"},         {"--bits", "16"},       {"--bits", "two"}, {"--group", "48"},
      {"--group", "0"},        {"--range", "hessian"}, {"--min", "max"},  {"--embed-bits", "5"},
      {"--head-bits", "32"},   {"--mixed", "1.5"},     {"--mixed", "0"},  {"--mixed", "nan"},
      {"--method", "nothing"}, {"--threads", "0"}};
  for (const auto& [name, value] : cases) {
    SCOPED_TRACE(name + " " + value);
    expect_sentence(run_tenfold({"quantize", "-m", "/no/such", "-o", "/no/out", name, value}), 2,
                    value);
  }
  expect_sentence(
      run_tenfold({"quantize", "-m", "/no/such", "-o", "/no/out", "--passes", "gptq,awq"}), 2,
      "awq cannot come after gptq");
  for (const std::vector<std::string>& flags :
       std::vector<std::vector<std::string>>{{"--method", "gptq"},
                                             {"--method", "awq"},
                                             {"--method", "omniquant"},
                                             {"--passes", "awq,gptq"},
                                             {"--range", "weighted"}}) {
    std::vector<std::string> command = {"quantize", "-m", "/no/such", "-o", "/no/out"};
    command.insert(command.end(), flags.begin(), flags.end());
    expect_sentence(run_tenfold(command), 2, "--calib FILE");
  }
  expect_sentence(run_tenfold({"quantize", "-m", "x", "-o", "y", "--mixed", "0.2", "--bits", "8"}),
                  2, "mixed");
  expect_sentence(run_tenfold({"quantize", "-m", "x"}), 2, "--output");
}

// The whole road: calibrated, inspected, evaluated, reported and exported.
TEST(QuantizeCommand, CalibratesAndTellsAboutIt) {
  const ScratchFolder folder;
  const auto model = tiny_model(folder, "llama-gqa-rope3-tied");
  const auto text = folder.write("prose.txt", prose());
  const auto recipe =
      folder.write("recipe.json",
                   R"({"passes": ["awq", "omniquant", "gptq", "tune"], "bits": 2, "group": 32,
          "learning": {"epochs": 1}, "calibration": {"sequences": 4, "length": 64},
          "rules": [{"matrices": ["down"], "bits": 4}]})");
  const std::string made = folder / "made.gguf";
  const std::string page = folder / "page.html";
  run_ok({"quantize", "--quiet", "-m", model, "-o", made, "--recipe", recipe, "--calib", text,
          "--report", page, "--json"});
  EXPECT_NE(read_file(page).find("Layer outputs, grids tuned for their codes"), std::string::npos);
  const json found = json::parse(run_ok({"inspect", made, "--json"}));
  EXPECT_EQ(found["quantization"]["passes"].size(), 4u);
  EXPECT_EQ(found["losses"].size(), 2u);
  EXPECT_LE(found["losses"][1]["tuned"]["after"], found["losses"][1]["tuned"]["before"]);
  EXPECT_THAT(run_ok({"inspect", made}), HasSubstr("  down  "));
  // The recipe that the file tells makes the file again.
  const auto again = folder.write("again.json", found["quantization"].dump());
  run_ok({"quantize", "--quiet", "-m", model, "-o", folder / "again.gguf", "--recipe", again,
          "--calib", text});
  EXPECT_EQ(read_file(folder / "again.gguf"), read_file(made));

  const std::vector<std::string> eval = {"eval",   "--quiet", "--ppl", text,     "--window",
                                         "64",     "--kv",    "f32",   "--json", "--activations",
                                         "int8x2", "-m"};
  const auto perplexity = [&](const std::string& path) {
    std::vector<std::string> command = eval;
    command.push_back(path);
    return json::parse(run_ok(command));
  };
  const json measured = perplexity(made);
  const auto runs = folder.write("runs.jsonl", measured.dump() + "\n");
  run_ok({"report", made, "-o", folder / "report.html", "--runs", runs, "--quiet"});
  EXPECT_NE(read_file(folder / "report.html").find("Perplexity against true bits"),
            std::string::npos);
  run_ok({"export", "--quiet", "-m", made, "-o", folder / "exported/", "--type", "f32"});
  const json exported = perplexity(folder / "exported");
  EXPECT_NEAR(exported["ppl"].get<double>() / measured["ppl"].get<double>(), 1.0, 1e-3);
  expect_sentence(run_tenfold({"export", "-m", made, "-o", folder / "exported"}), 1,
                  "exists already");
}

TEST(QuantizeCommand, SqueezesToAFifthAtFourBits) {
  const ScratchFolder folder;
  const auto model = tiny_model(folder);
  const auto text = folder.write("text.txt", prose());
  const auto made = folder / "made.gguf";
  run_ok({"quantize", "--quiet", "-m", model, "-o", made, "--method", "squeeze10", "--pbar-lambda",
          "0.5", "--calib", text, "--calib-seqs", "4", "--calib-len", "32"});
  const json found = json::parse(run_ok({"inspect", made, "--json"}));
  const json& recipe = found["quantization"];
  EXPECT_EQ(recipe["mixed"], 0.2);
  EXPECT_EQ(recipe["bits"], 1);
  EXPECT_EQ(recipe["group"], "row");
  EXPECT_EQ(recipe["salience"], "pbar");
  EXPECT_EQ(recipe["supervision"], "target");
  EXPECT_EQ(recipe["pbar_lambda"], 0.5);
  expect_sentence(
      run_tenfold({"quantize", "-m", model, "-o", folder / "x.gguf", "--method", "squeeze10"}), 2,
      "--calib FILE");
  expect_sentence(run_tenfold({"quantize", "-m", model, "-o", folder / "x.gguf", "--method", "awq",
                               "--fias", "full", "--calib", text}),
                  2, "codes of gptq");
}

TEST(QuantizeCommand, DividesABudgetAndShowsIt) {
  const ScratchFolder folder;
  const auto model = tiny_model(folder, "llama-gqa-rope3-tied");
  const auto text = folder.write("text.txt", prose());
  const std::string made = folder / "made.gguf";
  const std::string page = folder / "page.html";
  std::vector<std::string> command = {
      "quantize",     "-m", model,         "-o", made,      "--calib", text,
      "--calib-seqs", "2",  "--calib-len", "16", "--group", "32"};
  const auto with = [&](std::vector<std::string> flags) {
    flags.insert(flags.begin(), command.begin(), command.end());
    return flags;
  };
  const ProcessResult result =
      run_tenfold(with({"--target-bits", "3.2", "--report", page, "--json"}));
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.err, HasSubstr("layer  q         k         v         output    gate"));
  EXPECT_THAT(result.err, HasSubstr("nats a token"));
  const json told = json::parse(result.out);
  EXPECT_EQ(told["allocation"]["layers"].size(), 2u);
  EXPECT_THAT(run_ok({"inspect", made}), HasSubstr("bit budget     rounded to nearest"));
  const json found = json::parse(run_ok({"inspect", made, "--json"}));
  EXPECT_EQ(found["allocation"], told["allocation"]);
  EXPECT_EQ(found["quantization"]["allocate"]["solved"], true);
  EXPECT_EQ(found["quantization"]["salience"], "activation");
  EXPECT_THAT(read_file(page), HasSubstr("what layers add to the loss"));

  command.push_back("--force");
  const auto size = std::filesystem::file_size(made) + 4096;
  run_ok(with({"--quiet", "--target-size", std::to_string(size)}));
  EXPECT_LE(std::filesystem::file_size(made), size);
  for (const char* unit : {" KiB", "ki"}) {
    const std::string kibibytes = std::to_string(static_cast<double>(size) / 1024) + unit;
    run_ok(with({"--quiet", "--target-size", kibibytes}));
    EXPECT_LE(std::filesystem::file_size(made), size);
    EXPECT_GT(std::filesystem::file_size(made), size / 2);
  }
  for (const char* wrong :
       {"60 parsecs", "-1GB", "nan", "0", "1e30", "MiB", "1kibb", "1i", "1x", ""}) {
    expect_sentence(run_tenfold(with({"--target-size", wrong})), 2, "--target-size");
  }
  expect_sentence(run_tenfold(with({"--target-size", "1GB", "--target-bits", "2"})), 2,
                  "--target-bits");
  expect_sentence(run_tenfold(with({"--target-bits", "0.5"})), 2, "0.5");
  expect_sentence(run_tenfold(with({"--sensitivity", "final"})), 2, "--target-bits or");
  expect_sentence(run_tenfold(with({"--target-bits", "1.01"})), 2, "too small");
  expect_sentence(run_tenfold(with({"--target-bits", "12"})), 2, "cannot be used up");
  expect_sentence(run_tenfold(with({"--target-bits", "3", "--high-bits", "8"})), 2,
                  "--allocate ratio");
  run_ok(with({"--quiet", "--method", "squeeze10", "--target-bits", "2.5"}));
  const json mixed = json::parse(run_ok({"inspect", made, "--json"}))["quantization"];
  EXPECT_EQ(mixed["salience"], "pbar");
  EXPECT_EQ(mixed["supervision"], "target");
  expect_sentence(
      run_tenfold({"quantize", "-m", model, "-o", folder / "x.gguf", "--target-bits", "2"}), 2,
      "--calib FILE");
}

// Killed again and again at other moments, without a chance to save anything.
TEST(QuantizeCommand, ResumesAfterKills) {
  const ScratchFolder folder;
  std::vector<std::string> command = {"quantize",
                                      "--quiet",
                                      "-m",
                                      tiny_model(folder, "llama-gqa-rope3-tied"),
                                      "--calib",
                                      "",
                                      "--calib-seqs",
                                      "16",
                                      "--calib-len",
                                      "64",
                                      "--bits",
                                      "2",
                                      "--embed-bits",
                                      "3",
                                      "--group",
                                      "32",
                                      "--passes",
                                      "awq,omniquant,gptq,tune",
                                      "--epochs",
                                      "3",
                                      "-o"};
  command[5] = folder.write("prose.txt", prose());
  const auto with = [&](std::vector<std::string> more) {
    std::vector<std::string> whole = command;
    whole.insert(whole.end(), more.begin(), more.end());
    return whole;
  };
  run_ok(with({folder / "whole.gguf"}));
  const std::string output = folder / "parts.gguf";
  int kills = 0;
  for (double delay = 0.03;; delay *= 1.2) {
    std::vector<std::string> killed = {"/usr/bin/env",        "timeout",     "-s", "KILL",
                                       std::to_string(delay), TENFOLD_BINARY};
    const auto rest = with({output, "--resume"});
    killed.insert(killed.end(), rest.begin(), rest.end());
    const ProcessResult result = run_process(killed);
    if (result.exit_code == 0) break;
    ASSERT_EQ(result.exit_code, 137) << result.err;
    ++kills;
    if (std::filesystem::exists(output)) break;  // killed after it was complete
  }
  EXPECT_GT(kills, 2);
  EXPECT_TRUE(read_file(output) == read_file(folder / "whole.gguf"));
}

// Q4_1 and Q8_0 of the source are the very grids of this recipe.
TEST(QuantizeCommand, SmolLM2LosslesslyAndSmall) {
#ifdef __SANITIZE_THREAD__
  GTEST_SKIP() << "ThreadSanitizer's shadow counts as the process's memory, and 135 M weights take "
                  "minutes under it";
#endif
  TENFOLD_SMOLLM2_OR_SKIP(path);
  const ScratchFolder folder;
  const std::string packed = folder / "packed.gguf";
  const json made = json::parse(run_ok({"quantize", "--quiet", "-m", path, "-o", packed, "--bits",
                                        "4", "--group", "32", "--min", "f16", "--json"}));
  EXPECT_LT(made["peak_rss_bytes"].get<double>(), 1.2 * 4 * 49152 * 576 + (64 << 20));
  run_ok({"convert", "--quiet", "-m", path, "-o", folder / "a.gguf", "--type", "bf16"});
  run_ok({"convert", "--quiet", "-m", packed, "-o", folder / "b.gguf", "--type", "bf16"});
  EXPECT_TRUE(read_file(folder / "a.gguf") == read_file(folder / "b.gguf"));
}

}  // namespace
}  // namespace tenfold::testing
