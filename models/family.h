#pragma once
// A model family: how its files name things. One .cpp per family and one line in registry.cpp.
// Tensors go by their GGUF names without ".weight"/".bias" ("blk.{}.attn_q"); a family says what
// Hugging Face calls them.

#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "models/spec.h"
#include "runtime/files/gguf.h"
#include "runtime/model_source.h"

namespace tenfold {

struct TensorName {
  std::string_view gguf;          // "{}" stands for the layer
  std::string_view hugging_face;  // without the prefixes below
};

struct Family {
  std::string_view architecture;  // model_type and general.architecture
  std::span<const TensorName> tensors;
  std::span<const std::string_view> hf_prefixes;  // tried in turn: "model.", ""
  DecoderSpec (*from_config)(const nlohmann::json& config, const std::string& file);
  DecoderSpec (*from_gguf)(const ModelSource& source);
  // config.json as transformers reads it. `has` tells whether the model has a tensor, by GGUF name.
  // Throws unsupported where config.json cannot say what the spec says.
  nlohmann::ordered_json (*to_config)(const DecoderSpec& spec,
                                      const std::function<bool(std::string_view)>& has);
  // Adds the family's own keys to a GGUF that convert writes.
  void (*to_gguf)(const DecoderSpec& spec, GgufMetadata& metadata);
  bool gguf_interleaves_rope;  // q and k rows are permuted in GGUF files
};

extern const Family kLlama;
extern const Family kOpt;

// The family and spec of a model, checked. Throws unsupported, naming the architecture found and
// those Tenfold runs.
const Family& find_family(const ModelSource& source);
DecoderSpec read_spec(const Family& family, const ModelSource& source);

// A tensor by its GGUF name including ".weight" or ".bias"; nullptr where the source lacks it.
const TensorSource* find_tensor(const Family& family, const ModelSource& source,
                                std::string_view gguf_name);

// What Hugging Face calls a tensor: "model.layers.3.self_attn.q_proj.weight".
std::string hugging_face_name(const Family& family, std::string_view gguf_name);

// Helpers for families: required and optional "<architecture>.<key>" integers of a GGUF.
std::int64_t gguf_int(const ModelSource& source, const std::string& key);

}  // namespace tenfold
