#include <fmt/format.h>
#include <fmt/ranges.h>

#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "quantizer/roles.h"
#include "runtime/files/json_file.h"
#include "runtime/files/quote.h"
#include "tools/allocation_text.h"
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

std::string dump(const nlohmann::ordered_json& json) {
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

struct Row {
  std::string name;
  std::vector<std::int64_t> shape;
  std::string type;
  std::uint64_t bytes = 0;
  std::int64_t elements = 0;
};

// Every tensor of the file; the parts of a quantized matrix as one.
std::vector<Row> list_tensors(const ModelSource& source) {
  std::set<std::string> parts_of_matrices;
  std::vector<Row> rows;
  for (const StoredMatrix& matrix : source.matrices()) {
    for (const GgufTensorDecl& part : declare_parts(matrix.name, matrix.view)) {
      parts_of_matrices.insert(part.name);
    }
    const MatrixView& view = matrix.view;
    std::string type = layout_text(view);
    if (!(view.map == InputMap{})) type += " mapped";
    rows.push_back(
        {matrix.name, {view.rows, view.cols}, type, view.bytes(), view.rows * view.cols});
  }
  for (const TensorSource* tensor : source.tensors()) {
    if (parts_of_matrices.count(tensor->name) != 0) continue;
    rows.push_back({tensor->name, tensor->shape, std::string(dtype_traits(tensor->dtype).name),
                    tensor->data.size(), tensor->elements()});
  }
  return rows;
}

double bits_per_weight(const Row& row) {
  return 8.0 * static_cast<double>(row.bytes) / static_cast<double>(row.elements);
}

// A key that holds JSON; null where the file has none.
nlohmann::json json_key(const ModelSource& source, std::string_view key) {
  if (!source.is_gguf()) return nullptr;
  const std::string* text = source.gguf().metadata().get_string(key);
  return text == nullptr ? nullptr
                         : parse_json(*text, fmt::format("{}: key {}", source.path(), key));
}

// How the file was quantized.
nlohmann::ordered_json recipe_of(const ModelSource& source) {
  const nlohmann::json recipe = json_key(source, kRecipeKey);
  if (!recipe.is_null() && !recipe.is_object()) {
    throw_file_error(source.path(), "the key {} is not a JSON object", kRecipeKey);
  }
  return recipe;
}

std::string search_text(const nlohmann::json& search) {
  if (!search.is_object()) return {};
  const auto number = [&](const char* key) {
    const nlohmann::json value = search.value(key, nlohmann::json());
    return value.is_number() ? value.get<double>() : 0.0;
  };
  return fmt::format("search         {:.0f} steps, {:.0f} accepted; loss {:.4f}, held out {:.4f}\n",
                     number("steps"), number("accepted"), number("loss"), number("held_out"));
}

// Means over the layers, one line a matrix: "down 0.0581 -> 0.0244".
std::string losses_text(const nlohmann::json& losses) {
  struct Sum {
    double before = 0, after = 0;
    int layers = 0;
  };
  std::map<std::string, Sum> sums;
  const auto add = [&](const std::string& name, const nlohmann::json& loss, const char* before,
                       const char* after) {
    if (!loss.is_object() || !loss.value(before, nlohmann::json()).is_number() ||
        !loss.value(after, nlohmann::json()).is_number()) {
      return;
    }
    Sum& sum = sums[name];
    sum.before += loss[before].get<double>();
    sum.after += loss[after].get<double>();
    ++sum.layers;
  };
  for (const nlohmann::json& layer : losses) {
    if (!layer.is_object()) continue;
    const nlohmann::json matrices = layer.value("matrices", nlohmann::json());
    for (std::size_t i = 0; matrices.is_object() && i < kLayerMatrices; ++i) {
      const std::string role(name_of(static_cast<LayerMatrix>(i)));
      add(role, matrices.value(role, nlohmann::json()), "nearest", "chosen");
    }
    add("head", layer.value("head", nlohmann::json()), "nearest", "chosen");
    for (const char* pass : {"ranges", "tuned"}) {
      add(pass, layer.value(pass, nlohmann::json()), "before", "after");
    }
  }
  std::string text;
  for (const auto& [name, sum] : sums) {
    text += fmt::format("  {:<12} {:.5f} -> {:.5f}\n", name, sum.before / sum.layers,
                        sum.after / sum.layers);
  }
  return text.empty() ? "" : "errors of outputs, mean over the layers\n" + text;
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
  json["quantization"] = recipe_of(source);
  json["losses"] = json_key(source, kLossesKey);
  if (const nlohmann::json search = json_key(source, kSearchKey); !search.is_null()) {
    json["search"] = search;
  }
  if (const nlohmann::json given = json_key(source, kAllocationKey); !given.is_null()) {
    json["allocation"] = given;
  }
  if (!with_tensors) return json;
  json["tensor_list"] = nlohmann::ordered_json::array();
  for (const Row& row : list_tensors(source)) {
    json["tensor_list"].push_back({{"name", row.name},
                                   {"shape", row.shape},
                                   {"type", row.type},
                                   {"bytes", row.bytes},
                                   {"bits_per_weight", bits_per_weight(row)}});
  }
  return json;
}

std::string tokenizer_text(const ModelSource& source) {
  const std::unique_ptr<Tokenizer> tokenizer = load_tokenizer(source);
  if (tokenizer == nullptr) return "none";
  return fmt::format("{}, {} entries, {}", tokenizer->kind, tokenizer->vocab_size,
                     tokenizer->chat_template.empty() ? "no chat template" : "chat template");
}

std::string tensors_text(const ModelSource& source) {
  std::string text;
  for (const Row& row : list_tensors(source)) {
    text += fmt::format("{:<32} {:<28} {:>10} {:>7.3f}  [{}]\n", quote(row.name), row.type,
                        row.bytes, bits_per_weight(row), fmt::join(row.shape, ", "));
  }
  return text;
}

std::string to_text(const ModelSource& source, const DecoderSpec& spec, const ModelSize& size) {
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
    text +=
        fmt::format("  {:<28}{} tensors, {}\n", type, of_type.tensors, megabytes(of_type.bytes));
  }
  const nlohmann::ordered_json recipe = recipe_of(source);
  if (!recipe.is_null()) text += fmt::format("recipe         {}\n", dump(recipe));
  const std::string allocation = allocation_sentence(json_key(source, kAllocationKey));
  if (!allocation.empty()) text += fmt::format("bit budget     {}\n", allocation);
  text += losses_text(json_key(source, kLossesKey));
  text += search_text(json_key(source, kSearchKey));
  return text;
}

int run(const Options& options) {
  const ModelSource source(options.common.model);
  const Family& family = find_family(source);
  const DecoderSpec spec = read_spec(family, source);
  const ModelSize size = measure(family, spec, source);
  if (options.json) {
    print(dump(to_json(source, spec, size, options.tensors)) + "\n");
  } else {
    print(to_text(source, spec, size) + (options.tensors ? tensors_text(source) : ""));
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
