#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "runtime/files/quote.h"
#include "tools/args.h"
#include "tools/io.h"
#include "tools/load.h"
#include "tools/model_size.h"

namespace tenfold {
namespace {

struct Options {
  CommonOptions common;
  bool tensors = false;
  bool json = false;
};

std::string shape_text(const TensorSource& tensor) {
  return fmt::format("[{}]", fmt::join(tensor.shape, ", "));
}

nlohmann::ordered_json to_json(const ModelSource& source, const DecoderSpec& spec,
                               const ModelSize& size, bool with_tensors) {
  nlohmann::ordered_json json;
  json["architecture"] = spec.architecture;
  json["parameters"] = size.all.elements;
  json["layers"] = spec.layers;
  json["bits_per_weight"] = bits_per_weight(size.all);
  json["bits_per_weight_quantized"] = nullptr;
  if (size.quantized.elements > 0) {
    json["bits_per_weight_quantized"] = bits_per_weight(size.quantized);
  }
  json["file_bytes"] = source.file_bytes();
  json["tensors"] = source.tensors().size();
  json["quantization"] = nullptr;
  if (!with_tensors) return json;
  json["tensor_list"] = nlohmann::ordered_json::array();
  for (const TensorSource* tensor : source.tensors()) {
    json["tensor_list"].push_back({{"name", tensor->name},
                                   {"shape", tensor->shape},
                                   {"type", dtype_traits(tensor->dtype).name},
                                   {"bytes", tensor->data.size()}});
  }
  return json;
}

std::string tokenizer_text(const ModelSource& source) {
  const std::unique_ptr<Tokenizer> tokenizer = load_tokenizer(source);
  if (tokenizer == nullptr) return "none";
  return fmt::format("{}, {} entries, {}", tokenizer->kind, tokenizer->vocab_size,
                     tokenizer->chat_template.empty() ? "no chat template" : "chat template");
}

std::string to_text(const ModelSource& source, const DecoderSpec& spec, const ModelSize& size,
                    bool with_tensors) {
  std::string text = fmt::format(
      "name           {}\narchitecture   {}\nparameters     {} ({})\nlayers         {}\n"
      "width          {} ({} heads, {} of keys and values, {} each; FFN {})\n"
      "vocabulary     {}\ncontext        {} tokens\ntokenizer      {}\nfile           {} in {} "
      "tensors\nbits/weight    {:.3f}",
      quote(spec.name), spec.architecture, count_text(size.all.elements), size.all.elements,
      spec.layers, spec.dim, spec.heads, spec.kv_heads, spec.head_dim, spec.ffn, spec.vocab,
      spec.max_context, tokenizer_text(source), megabytes(source.file_bytes()),
      source.tensors().size(), bits_per_weight(size.all));
  if (size.quantized.elements > 0) {
    text += fmt::format(" ({:.3f} over the quantized tensors)", bits_per_weight(size.quantized));
  }
  text += "\n";
  for (const auto& [type, of_type] : size.types) {
    text += fmt::format("  {:<13}{} tensors, {}\n", dtype_traits(type).name, of_type.tensors,
                        megabytes(of_type.bytes));
  }
  if (!with_tensors) return text;
  for (const TensorSource* tensor : source.tensors()) {
    text += fmt::format("{:<44} {:<5} {:>10}  {}\n", quote(tensor->name),
                        dtype_traits(tensor->dtype).name, tensor->data.size(), shape_text(*tensor));
  }
  return text;
}

int run(const Options& options) {
  const ModelSource source(options.common.model);
  const Family& family = find_family(source);
  const DecoderSpec spec = read_spec(family, source);
  const ModelSize size = measure(family, spec, source);
  if (options.json) {
    print(to_json(source, spec, size, options.tensors)
              .dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) +
          "\n");
  } else {
    print(to_text(source, spec, size, options.tensors));
  }
  return kExitOk;
}

}  // namespace

Command add_inspect(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* sub = app.add_subcommand("inspect", "Show what a model file holds");
  add_common_options(*sub, options->common, ModelArgument::positional);
  sub->add_flag("--tensors", options->tensors, "list every tensor");
  sub->add_flag("--json", options->json, "print one JSON object");
  sub->footer("Example:\n  tenfold inspect MODEL --tensors");
  return {sub, [options] { return run(*options); }};
}

}  // namespace tenfold
