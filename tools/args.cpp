#include "tools/args.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <random>

#include "kernels/error.h"
#include "runtime/grammar/gbnf.h"
#include "runtime/grammar/json_schema.h"
#include "tools/io.h"

namespace tenfold {
namespace {

constexpr int kMaxThreads = 1024;
constexpr const char* kSampling = "Sampling";  // the group of options

KvType parse_kv(const std::string& name) {
  if (name == "f16") return KvType::f16;
  if (name == "f32") return KvType::f32;
  if (name == "q8") return KvType::q8;
  throw CLI::ValidationError(fmt::format("--kv must be f32, f16 or q8, found {}", name));
}

std::string check_device_name(const std::string& name) {
  const bool numbered = name.size() > 5 && name.compare(0, 5, "cuda:") == 0 &&
                        name.find_first_not_of("0123456789", 5) == std::string::npos;
  if (name == "cpu" || name == "auto" || name == "cuda" || numbered) return {};
  return fmt::format("must be cpu, cuda, cuda:N or auto, found {}", name);
}

// "ID=B" as --logit-bias takes it.
std::pair<std::int32_t, float> parse_bias(const std::string& text) {
  const std::size_t equals = text.find('=');
  std::int32_t id = 0;
  float bias = 0;
  if (equals != std::string::npos) {
    const char* begin = text.data();
    const char* end = begin + text.size();
    const auto left = std::from_chars(begin, begin + equals, id);
    const auto right = std::from_chars(begin + equals + 1, end, bias);
    if (left.ec == std::errc{} && left.ptr == begin + equals && right.ec == std::errc{} &&
        right.ptr == end && id >= 0 && std::isfinite(bias)) {
      return {id, bias};
    }
  }
  throw_error(ErrorCode::bad_request,
              "--logit-bias must be ID=BIAS, a token id and a number, found {}", text);
}

// The grammar that a file says, with the file's name before what is wrong with it.
std::shared_ptr<const Grammar> read_grammar(const std::string& path, bool is_schema) {
  const std::string text = read_text(path);
  try {
    return is_schema ? json_schema_grammar(parse_json_schema(text, path)) : parse_gbnf(text);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::bad_request) throw;
    throw_file_error(path, "{}", error.what());
  }
}

}  // namespace

std::function<std::string(const std::string&)> in_range(std::int64_t low, std::int64_t high) {
  return [low, high](const std::string& text) -> std::string {
    std::int64_t value = 0;
    const char* end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(text.data(), end, value);
    if (error == std::errc{} && stop == end && value >= low && value <= high) return {};
    return fmt::format("must be a whole number from {} to {}, found {}", low, high, text);
  };
}

std::optional<DType> parse_float_type(std::string_view name) {
  if (name == "f32") return DType::f32;
  if (name == "f16") return DType::f16;
  if (name == "bf16") return DType::bf16;
  return std::nullopt;
}

std::function<std::string(const std::string&)> one_of(std::vector<std::string> names) {
  return [names = std::move(names)](const std::string& text) -> std::string {
    if (std::find(names.begin(), names.end(), text) != names.end()) return {};
    return fmt::format("must be one of {}, found {}", fmt::join(names, ", "), text);
  };
}

void add_common_options(CLI::App& app, CommonOptions& options, ModelArgument model) {
  if (model == ModelArgument::option) {
    app.add_option("-m,--model", options.model, "GGUF file or Hugging Face directory")
        ->type_name("MODEL")
        ->required();
  } else if (model == ModelArgument::positional) {
    app.add_option("-m,--model,MODEL", options.model, "GGUF file or Hugging Face directory")
        ->type_name("MODEL")
        ->required();
  }
  constexpr const char* kGroup = "Common options";
  app.add_option("--device", options.device,
                 "cpu, cuda, cuda:N, or auto: cuda where there is a GPU")
      ->check(check_device_name)
      ->type_name("DEVICE")
      ->group(kGroup);
  app.add_option("--threads", options.threads, "CPU threads; default: one for each core")
      ->check(in_range(1, kMaxThreads))
      ->type_name("N")
      ->group(kGroup);
  app.add_option("--isa", options.isa, "CPU kernels: scalar, avx2 or avx512; default: the best")
      ->check(one_of({"scalar", "avx2", "avx512"}))
      ->envname("TENFOLD_ISA")
      ->type_name("ISA")
      ->group(kGroup);
  app.add_option_function<std::string>(
         "--kv", [&options](const std::string& name) { options.kv = parse_kv(name); },
         "numbers of the KV cache: f32, f16 or q8 (8 bits)")
      ->type_name("TYPE")
      ->group(kGroup);
  app.add_option_function<std::string>(
         "--activations",
         [&options](const std::string& name) {
           options.activations = name == "int8x2" ? Activations::int8x2 : Activations::int8;
         },
         "how activations meet packed weights: int8, or int8x2 (some 15 bits, slower)")
      ->check(one_of({"int8", "int8x2"}))
      ->type_name("TYPE")
      ->group(kGroup);
  app.add_flag("-v,--verbose", options.verbose, "say more on standard error")->group(kGroup);
  app.add_flag("--quiet", options.quiet, "say nothing on standard error but errors")->group(kGroup);
}

std::unique_ptr<Backend> open_device(const CommonOptions& options, std::string& notice) {
  const DeviceOptions device{options.device,
                             {options.threads, options.isa, options.activations},
                             user_folder("XDG_CACHE_HOME", ".cache").string()};
  return make_backend(device, [&](std::string_view why) { notice = why; });
}

GenerateOptions SamplingOptions::resolve() const {
  GenerateOptions result = generate;
  for (const std::string& text : logit_bias) {
    result.sampler.logit_bias.push_back(parse_bias(text));
  }
  for (const std::string& stop : result.stops) {
    if (stop.empty()) throw_error(ErrorCode::bad_request, "--stop must not be empty");
  }
  validate(result.sampler, std::numeric_limits<std::int32_t>::max());
  if (!grammar_file.empty()) result.grammar = read_grammar(grammar_file, false);
  if (!schema_file.empty()) result.grammar = read_grammar(schema_file, true);
  if (seed) {
    result.sampler.seed = *seed;
  } else {
    std::random_device device;
    result.sampler.seed = (std::uint64_t{device()} << 32) | device();
  }
  return result;
}

void add_sampler_options(CLI::App& app, SamplerOptions& s) {
  const auto add = [&](const char* name, auto& value, const char* help) {
    app.add_option(name, value, help)->type_name("X")->group(kSampling)->capture_default_str();
  };
  add("--temp", s.temperature, "temperature; 0 is greedy");
  add("--top-k", s.top_k, "keep the K likeliest tokens; 0: off");
  add("--top-p", s.top_p, "keep the likeliest tokens up to this probability; 1: off");
  add("--min-p", s.min_p, "drop tokens below this share of the likeliest; 0: off");
  add("--repeat-penalty", s.repeat_penalty, "divide the logits of recent tokens; 1: off");
  add("--presence-penalty", s.presence_penalty, "subtract from tokens seen, -2 ... 2");
  add("--frequency-penalty", s.frequency_penalty, "subtract for each time seen, -2 ... 2");
}

void add_sampling_options(CLI::App& app, SamplingOptions& options) {
  add_sampler_options(app, options.generate.sampler);
  app.add_option("--logit-bias", options.logit_bias, "add B to the logit of token ID; repeatable")
      ->type_name("ID=B")
      ->allow_extra_args(false)
      ->group(kSampling);
  app.add_option("--seed", options.seed, "same seed, same text; default: a new one each run")
      ->check(in_range(0, std::numeric_limits<std::int64_t>::max()))
      ->type_name("N")
      ->group(kSampling);
  CLI::Option* grammar =
      app.add_option("--grammar", options.grammar_file, "only texts of this GBNF grammar")
          ->type_name("FILE")
          ->group(kSampling);
  app.add_option("--json-schema", options.schema_file, "only JSON that this schema allows")
      ->type_name("FILE")
      ->group(kSampling)
      ->excludes(grammar);
  app.add_option("--stop", options.generate.stops, "end before this text; repeatable")
      ->type_name("TEXT")
      ->allow_extra_args(false)
      ->group(kSampling);
}

}  // namespace tenfold
