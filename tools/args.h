#pragma once
// What the subcommands share on the command line: options, their ranges, and how a subcommand is
// registered. Options keep their values in structs that the command owns.

#include <CLI/CLI.hpp>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "kernels/device.h"
#include "runtime/kv_cache.h"
#include "runtime/session.h"

namespace tenfold {

inline constexpr int kExitOk = 0;
inline constexpr int kExitFailure = 1;
inline constexpr int kExitUsage = 2;
inline constexpr int kExitBadFile = 3;
inline constexpr int kExitInterrupted = 130;

struct Command {
  CLI::App* app = nullptr;
  std::function<int()> run;  // exit code
};

struct CommonOptions {
  std::string model;
  std::string device = "auto";
  int threads = 0;           // 0: one for each core
  std::string isa;           // "": TENFOLD_ISA, else the best
  std::optional<KvType> kv;  // absent: the command's default
  Activations activations = Activations::int8;
  bool verbose = false;
  bool quiet = false;

  KvType kv_or(KvType fallback) const { return kv.value_or(fallback); }
};

// Checks for options, with messages that name the choice.
std::function<std::string(const std::string&)> in_range(std::int64_t low, std::int64_t high);
std::function<std::string(const std::string&)> one_of(std::vector<std::string> names);
inline constexpr std::int64_t kMaxCount = std::int64_t{1} << 31;  // of tokens and windows

// "f32", "f16", "bf16".
std::optional<DType> parse_float_type(std::string_view name);

enum class ModelArgument { none, option, positional };
void add_common_options(CLI::App& app, CommonOptions& options, ModelArgument model);

// What --device, --threads, --isa and --activations ask for. notice: why `auto` takes the CPU
// though there is a CUDA module, for people; else left as it is. Throws device (an ErrorCode) where
// what is asked for is not there.
std::unique_ptr<Backend> open_device(const CommonOptions& options, std::string& notice);

struct SamplingOptions {
  GenerateOptions generate;
  std::optional<std::uint64_t> seed;  // absent: a new one each run
  std::vector<std::string> logit_bias;
  std::string grammar_file, schema_file;

  // After parsing: the options with biases read, ranges checked, the grammar's file read and a seed
  // chosen.
  GenerateOptions resolve() const;
};
// How tokens are drawn; and with what else decides a text.
void add_sampler_options(CLI::App& app, SamplerOptions& options);
void add_sampling_options(CLI::App& app, SamplingOptions& options);

Command add_chat(CLI::App& app);
Command add_generate(CLI::App& app);
Command add_tokenize(CLI::App& app);
Command add_logits(CLI::App& app);
Command add_inspect(CLI::App& app);
Command add_convert(CLI::App& app);
Command add_export(CLI::App& app);
Command add_report(CLI::App& app);
Command add_quantize(CLI::App& app);
Command add_eval(CLI::App& app);
Command add_bench(CLI::App& app);
Command add_devices(CLI::App& app);
Command add_serve(CLI::App& app);

}  // namespace tenfold
