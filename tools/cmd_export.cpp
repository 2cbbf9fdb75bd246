#include "models/export.h"
#include "tools/args.h"
#include "tools/io.h"
#include "tools/progress.h"
#include "tools/signals.h"

namespace tenfold {
namespace {

struct Options {
  CommonOptions common;
  std::string output;
  std::string format = "hf";
  std::string type = "f16";
};

int run(const Options& options) {
  const ModelSource source(options.common.model);
  ExportOptions wanted;
  wanted.type = *parse_float_type(options.type);
  catch_interrupts();
  catch_termination();
  ExportResult result;
  {
    Progress progress("export", options.common.quiet);
    result = export_hugging_face(source, options.output, wanted,
                                 [&](std::uint64_t done, std::uint64_t total) {
                                   progress.update(done, total);
                                   return !stop_requested();
                                 });
  }
  if (options.common.quiet) return kExitOk;
  note(fmt::format("Wrote {}: {} tensors, {}, {}.", options.output, result.tensors,
                   megabytes(result.bytes), dtype_traits(wanted.type).name));
  note_clipped(result.clipped, "--type f32 keeps them");
  if (!result.without_tokenizer.empty()) {
    note(fmt::format("It has no tokenizer: {}.", result.without_tokenizer));
  }
  return kExitOk;
}

}  // namespace

Command add_export(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* sub =
      app.add_subcommand("export", "Write a model as a Hugging Face directory, dequantized");
  add_common_options(*sub, options->common, ModelArgument::option);
  sub->add_option("-o,--output", options->output, "the directory to write; must not exist")
      ->type_name("DIR")
      ->required();
  sub->add_option("--format", options->format, "hf: config.json, model.safetensors and tokenizer")
      ->check(one_of({"hf"}))
      ->type_name("FORMAT")
      ->capture_default_str();
  sub->add_option("--type", options->type, "type of all tensors: f32, f16 or bf16")
      ->check(one_of({"f32", "f16", "bf16"}))
      ->type_name("TYPE")
      ->capture_default_str();
  sub->footer("Example:\n  tenfold export -m model-q2.gguf -o model-q2/ --format hf");
  return {sub, [options] { return run(*options); }};
}

}  // namespace tenfold
