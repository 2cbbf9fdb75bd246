#include "models/convert.h"
#include "tools/args.h"
#include "tools/io.h"
#include "tools/progress.h"
#include "tools/signals.h"

namespace tenfold {
namespace {

struct Options {
  CommonOptions common;
  std::string output;
  std::string type = "f16";
  bool rotate = false;
  std::uint64_t seed = 0;
  bool force = false;
};

int run(const Options& options) {
  const ModelSource source(options.common.model);
  ConvertOptions convert;
  convert.type = *parse_float_type(options.type);
  convert.overwrite = options.force;
  if (options.rotate) convert.rotate = options.seed;
  catch_interrupts();
  catch_termination();
  ConvertResult result;
  {
    Progress progress("convert", options.common.quiet);
    result = convert_to_gguf(source, options.output, convert,
                             [&](std::uint64_t done, std::uint64_t total) {
                               progress.update(done, total);
                               return !stop_requested();
                             });
  }
  if (options.common.quiet) return kExitOk;
  note(fmt::format("Wrote {}: {} tensors, {}, {}.", options.output, result.tensors,
                   megabytes(result.bytes), dtype_traits(convert.type).name));
  note_clipped(result.clipped, "--type bf16 or f32 keeps them");
  return kExitOk;
}

}  // namespace

Command add_convert(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* sub = app.add_subcommand("convert", "Write a model as GGUF, unquantized");
  add_common_options(*sub, options->common, ModelArgument::option);
  sub->add_option("-o,--output", options->output, "the GGUF file to write")
      ->type_name("OUT.gguf")
      ->required();
  sub->add_option("--type", options->type, "type of the matrices: f32, f16 or bf16")
      ->check(one_of({"f32", "f16", "bf16"}))
      ->type_name("TYPE")
      ->capture_default_str();
  CLI::Option* rotate = sub->add_flag(
      "--rotate", options->rotate,
      "turn the residual stream at random: the same model, with no channels that stand out");
  sub->add_option("--seed", options->seed, "of it")
      ->type_name("N")
      ->needs(rotate)
      ->capture_default_str();
  sub->add_flag("--force", options->force, "replace OUT.gguf if it exists");
  sub->footer("Example:\n  tenfold convert -m opt-125m/ -o opt-125m.gguf --type f16");
  return {sub, [options] { return run(*options); }};
}

}  // namespace tenfold
