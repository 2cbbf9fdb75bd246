// Mistakes of a first hour: each gets one sentence on standard error and its exit code.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/support/subprocess.h"
#include "tests/support/tiny_model.h"

namespace tenfold::testing {
namespace {

using ::testing::HasSubstr;

// Exactly one line, from tenfold, that ends like a sentence's text rather than a stack of causes.
void expect_sentence(const ProcessResult& result, int exit_code, const std::string& part) {
  EXPECT_EQ(result.exit_code, exit_code) << result.err;
  EXPECT_THAT(result.err, HasSubstr(part));
  EXPECT_EQ(result.err.rfind("tenfold: ", 0), 0u) << result.err;
  EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
  EXPECT_EQ(result.out, "");
}

TEST(FirstHour, MissingFile) {
  expect_sentence(run_tenfold({"chat", "-m", "/no/such/model.gguf"}), 3, "/no/such/model.gguf");
  expect_sentence(run_tenfold({"inspect", "/no/such/model.gguf"}), 3, "/no/such/model.gguf");
}

TEST(FirstHour, DirectoryWithoutConfig) {
  const ScratchFolder folder;
  expect_sentence(run_tenfold({"generate", "-p", "x", "-m", folder.path()}), 3, "config.json");
}

TEST(FirstHour, FileThatIsNoModel) {
  const ScratchFolder folder;
  const auto file = folder.write("notes.gguf", "these are my notes, not a model");
  expect_sentence(run_tenfold({"inspect", file}), 3, "notes.gguf");
}

TEST(FirstHour, WrongArchitecture) {
  const ScratchFolder folder;
  const auto model = tiny_model(folder);
  folder.write("tiny/config.json", R"({"model_type": "mamba", "vocab_size": 384})");
  expect_sentence(run_tenfold({"chat", "--quiet", "-m", model}, {.input = "hi"}), 3, "mamba");
}

TEST(FirstHour, TruncatedWeights) {
  const ScratchFolder folder;
  const auto model = tiny_model(folder);
  std::filesystem::resize_file(model / "model.safetensors", 5000);
  expect_sentence(run_tenfold({"inspect", model}), 3, "model.safetensors");
}

TEST(FirstHour, OutputExists) {
  const ScratchFolder folder;
  const auto output = folder.write("out.gguf", "precious");
  const std::string model = data_model("llama-mha");
  expect_sentence(run_tenfold({"convert", "-m", model, "-o", output, "--quiet"}), 1, "--force");
  EXPECT_EQ(read_file(output), "precious");
  const auto forced = run_tenfold({"convert", "-m", model, "-o", output, "--quiet", "--force"});
  EXPECT_EQ(forced.exit_code, 0) << forced.err;
  EXPECT_EQ(read_file(output).substr(0, 4), "GGUF");
  const auto ids = folder.write("ids.json", "[[1, 2]]");
  expect_sentence(run_tenfold({"logits", "-m", model, "--ids", ids, "-o", output, "--quiet"}), 1,
                  "--force");
}

TEST(FirstHour, DiskFull) {
  const ScratchFolder folder;
  const std::string model = data_model("llama-mha");
  expect_sentence(run_tenfold({"convert", "-m", model, "-o", folder / "out.gguf", "--quiet"},
                              {.max_file_bytes = 65536}),
                  1, "out.gguf");
  EXPECT_EQ(folder.n_entries(), 0u) << "something half-written was left behind";
  ProcessOptions full;
  full.stdout_path = "/dev/full";
  expect_sentence(run_tenfold({"inspect", model}, full), 1, "No space left on device");
}

TEST(FirstHour, PromptLongerThanTheContext) {
  const ScratchFolder folder;
  const auto model = tiny_model(folder);
  const auto text = folder.write("long.txt", std::string(300, 'a'));
  const auto result = run_tenfold({"generate", "--quiet", "-m", model, "-f", text});
  expect_sentence(result, 2, "the prompt has 301 tokens");
  EXPECT_THAT(result.err, HasSubstr("256"));
  const auto chat = run_tenfold({"chat", "--quiet", "-m", model}, {.input = std::string(300, 'a')});
  expect_sentence(chat, 2, "but the context is 256");
  expect_sentence(run_tenfold({"generate", "--quiet", "-m", model, "-p", "hi", "-c", "257"}), 2,
                  "257");
}

TEST(FirstHour, TextThatIsNotUtf8) {
  const ScratchFolder folder;
  const auto model = tiny_model(folder);
  const auto latin1 = folder.write("latin1.txt", "caf\xe9 au lait");
  expect_sentence(run_tenfold({"generate", "-m", model, "-f", latin1}), 3, "0xe9 at offset 3");
  expect_sentence(run_tenfold({"generate", "-m", model, "-p", "caf\xe9"}), 2, "not UTF-8");
  expect_sentence(run_tenfold({"eval", "-m", model, "--ppl", latin1}), 3, "latin1.txt");
  expect_sentence(run_tenfold({"chat", "--quiet", "-m", model}, {.input = "caf\xe9"}), 2,
                  "standard input is not UTF-8");
  expect_sentence(run_tenfold({"tokenize", "-m", model, "\xff"}), 2, "not UTF-8");
}

TEST(FirstHour, TerminalThatIsNotOne) {
  const ScratchFolder folder;
  const auto model = tiny_model(folder);
  expect_sentence(run_tenfold({"chat", "--quiet", "-m", model}), 2, "standard input is empty");
  const auto piped = run_tenfold({"chat", "--quiet", "-m", model, "-n", "3", "--temp", "0"},
                                 {.input = "hello\n", .environment = {{"TERM", "dumb"}}});
  EXPECT_EQ(piped.exit_code, 0) << piped.err;
  EXPECT_EQ(piped.err, "");
  EXPECT_EQ(piped.out.find('\x1b'), std::string::npos);
}

TEST(FirstHour, UnknownNames) {
  expect_sentence(run_tenfold({}), 2, "name a command");
  expect_sentence(run_tenfold({"frobnicate"}), 2, "unknown command frobnicate");
  expect_sentence(run_tenfold({"chat", "-m", "x", "--frobnicate"}), 2, "--frobnicate");
  expect_sentence(run_tenfold({"chat"}), 2, "--model");
  expect_sentence(run_tenfold({"generate", "-m", "x"}), 2, "--prompt");
  expect_sentence(run_tenfold({"eval", "-m", "x", "--ppl", "y", "--task", "z"}), 2, "--task");
}

TEST(FirstHour, ValuesOutOfRange) {
  const std::vector<std::pair<std::string, std::string>> cases = {{"--threads", "0"},
                                                                  {"--threads", "many"},
                                                                  {"--temp", "-1"},
                                                                  {"--temp", "nan"},
                                                                  {"--top-p", "1.5"},
                                                                  {"--min-p", "-0.1"},
                                                                  {"--top-k", "-3"},
                                                                  {"--top-k", "2.5"},
                                                                  {"--repeat-penalty", "0"},
                                                                  {"-n", "0"},
                                                                  {"-n", "-5"},
                                                                  {"-c", "0"},
                                                                  {"--isa", "mmx"},
                                                                  {"--kv", "q4"},
                                                                  {"--kv", "f64"},
                                                                  {"--device", "tpu"},
                                                                  {"--seed", "-1"},
                                                                  {"--logit-bias", "5"},
                                                                  {"--stop", ""},
                                                                  {"--presence-penalty", "3"}};
  for (const auto& [name, value] : cases) {
    SCOPED_TRACE(name + " " + value);
    expect_sentence(run_tenfold({"generate", "-m", "/no/such", "-p", "x", name, value}), 2, value);
  }
}

TEST(FirstHour, NoCudaHere) {
  const std::string model = data_model("llama-mha");
  const ScratchFolder folder;
  const std::string ids = folder.write("ids.json", "[1]");
  const std::vector<std::string> arguments = {"generate", "-m", model,      "--ids", ids,
                                              "-n",       "1",  "--device", "cuda"};
  const ProcessOptions elsewhere{.environment = {{"TENFOLD_CUDA_MODULE", "/no/such.so"}}};
  expect_sentence(run_tenfold(arguments, elsewhere), 1, "/no/such.so");
  const ProcessOptions other{
      .environment = {{"TENFOLD_CUDA_MODULE", folder.write("module.so", "not ELF")}}};
  expect_sentence(run_tenfold(arguments, other), 1, "the CUDA backend cannot be loaded");
  std::vector<std::string> anything = arguments;
  anything.back() = "auto";
  const auto found = run_tenfold(anything, other);
  EXPECT_EQ(found.exit_code, 0);
  EXPECT_NE(found.err.find("Running on the CPU: "), std::string::npos) << found.err;
}

TEST(FirstHour, ModelWithoutATokenizer) {
  const std::string model = data_model("llama-mha");
  expect_sentence(run_tenfold({"chat", "--quiet", "-m", model}, {.input = "hi"}), 2, "--ids");
  expect_sentence(run_tenfold({"tokenize", "-m", model, "hi"}), 3, "tokenizer");
}

TEST(FirstHour, IdsThatAreNot) {
  const ScratchFolder folder;
  const std::string model = data_model("llama-mha");
  const auto expect = [&](std::string_view content, int code, const std::string& part) {
    const auto file = folder.write("ids.json", content);
    expect_sentence(run_tenfold({"logits", "--quiet", "-m", model, "--ids", file, "-o",
                                 folder / "out.safetensors"}),
                    code, part);
  };
  expect("[[1, 2], [3]]", 3, "row 1");
  expect("[[1, -2]]", 3, "-2");
  expect("[[1, 2.5]]", 3, "2.5");
  expect("[]", 3, "empty");
  expect("{", 3, "ids.json");
  expect("[[1, 99999]]", 2, "99999");
  EXPECT_FALSE(std::filesystem::exists(folder / "out.safetensors"));
}

TEST(FirstHour, EveryCommandHasHelpWithAnExample) {
  for (const char* command : {"chat", "generate", "quantize", "eval", "inspect", "convert",
                              "tokenize", "logits", "devices"}) {
    const auto help = run_tenfold({command, "--help"});
    EXPECT_EQ(help.exit_code, 0) << command;
    EXPECT_THAT(help.out, HasSubstr(std::string("tenfold ") + command));
    EXPECT_THAT(help.out, HasSubstr("Example"));
    EXPECT_EQ(help.err, "");
  }
}

}  // namespace
}  // namespace tenfold::testing
