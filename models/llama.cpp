// LLaMA 1/2/3/3.1/3.2 and what shares the architecture (SmolLM2, TinyLlama).

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <functional>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <numbers>

#include "kernels/error.h"
#include "models/family.h"
#include "runtime/files/json_file.h"

namespace tenfold {
namespace {

constexpr std::array<TensorName, 12> kTensors = {{
    {"token_embd", "embed_tokens"},
    {"output_norm", "norm"},
    {"output", "lm_head"},
    {"blk.{}.attn_norm", "layers.{}.input_layernorm"},
    {"blk.{}.attn_q", "layers.{}.self_attn.q_proj"},
    {"blk.{}.attn_k", "layers.{}.self_attn.k_proj"},
    {"blk.{}.attn_v", "layers.{}.self_attn.v_proj"},
    {"blk.{}.attn_output", "layers.{}.self_attn.o_proj"},
    {"blk.{}.ffn_norm", "layers.{}.post_attention_layernorm"},
    {"blk.{}.ffn_gate", "layers.{}.mlp.gate_proj"},
    {"blk.{}.ffn_up", "layers.{}.mlp.up_proj"},
    {"blk.{}.ffn_down", "layers.{}.mlp.down_proj"},
}};
constexpr std::array<std::string_view, 2> kPrefixes = {"model.", ""};

// New form: rope_parameters {rope_theta, rope_type, ...}. Old form: rope_theta beside
// rope_scaling {type or rope_type, factor, ...} or null.
RopeSpec rope_from_config(const nlohmann::json& config, const std::string& file) {
  static const nlohmann::json kEmpty = nlohmann::json::object();
  const auto object = [&](const char* key) -> const nlohmann::json& {
    const auto it = config.find(key);
    if (it == config.end() || it->is_null()) return kEmpty;
    if (!it->is_object()) throw_file_error(file, "{} is not an object", key);
    return *it;
  };
  const nlohmann::json& parameters = object("rope_parameters");
  const nlohmann::json& scaling = parameters.empty() ? object("rope_scaling") : parameters;
  RopeSpec rope;
  rope.enabled = true;
  rope.theta = json_number_or(parameters, "rope_theta",
                              json_number_or(config, "rope_theta", 10000.0, file), file);
  const std::string type =
      json_string_or(scaling, "rope_type", json_string_or(scaling, "type", "default", file), file);
  if (type == "default") return rope;
  rope.factor = json_number_or(scaling, "factor", 1.0, file);
  if (type == "linear") {
    rope.scaling = RopeScaling::linear;
  } else if (type == "llama3") {
    rope.scaling = RopeScaling::llama3;
    rope.low_freq_factor = json_number_or(scaling, "low_freq_factor", 1.0, file);
    rope.high_freq_factor = json_number_or(scaling, "high_freq_factor", 4.0, file);
    rope.original_context =
        json_number_or(scaling, "original_max_position_embeddings", 8192.0, file);
  } else {
    throw_error(ErrorCode::unsupported,
                "{}: rope scaling \"{}\" is not supported (default, linear and llama3 are)", file,
                type);
  }
  return rope;
}

DecoderSpec from_config(const nlohmann::json& config, const std::string& file) {
  DecoderSpec spec;
  spec.layers = json_int(config, "num_hidden_layers", file);
  spec.dim = json_int(config, "hidden_size", file);
  spec.embed_dim = spec.dim;
  spec.ffn = json_int(config, "intermediate_size", file);
  spec.heads = json_int(config, "num_attention_heads", file);
  spec.kv_heads = json_int_or(config, "num_key_value_heads", spec.heads, file);
  const std::int64_t even_share = spec.heads > 0 ? spec.dim / spec.heads : 0;
  spec.head_dim = json_int_or(config, "head_dim", even_share, file);
  spec.vocab = json_int(config, "vocab_size", file);
  spec.max_context = json_int_or(config, "max_position_embeddings", 2048, file);
  spec.norm_eps = static_cast<float>(json_number_or(config, "rms_norm_eps", 1e-6, file));
  spec.gated_mlp = true;
  spec.tied_head = json_bool_or(config, "tie_word_embeddings", false, file);
  spec.rope = rope_from_config(config, file);
  const std::string activation = json_string_or(config, "hidden_act", "silu", file);
  if (activation != "silu") {
    throw_error(ErrorCode::unsupported, "{}: hidden_act \"{}\" is not supported (silu is)", file,
                activation);
  }
  return spec;
}

RopeSpec rope_from_gguf(const ModelSource& source, std::int64_t head_dim) {
  const GgufMetadata& keys = source.gguf().metadata();
  RopeSpec rope;
  rope.enabled = true;
  rope.theta = keys.get_float("llama.rope.freq_base").value_or(10000.0);
  const std::int64_t rotated = keys.get_int("llama.rope.dimension_count").value_or(head_dim);
  if (rotated != head_dim) {
    throw_error(ErrorCode::unsupported,
                "{}: llama.rope.dimension_count is {}, but only the whole head ({}) can be rotated",
                source.path(), rotated, head_dim);
  }
  const std::string* type = keys.get_string("llama.rope.scaling.type");
  const double linear = keys.get_float("llama.rope.scale_linear").value_or(1.0);  // older files
  if (type != nullptr && *type == "linear") {
    rope.scaling = RopeScaling::linear;
    rope.factor = keys.get_float("llama.rope.scaling.factor").value_or(linear);
  } else if (type != nullptr && *type != "none") {
    throw_error(ErrorCode::unsupported, "{}: rope scaling \"{}\" is not supported", source.path(),
                *type);
  } else if (linear != 1.0) {
    rope.scaling = RopeScaling::linear;
    rope.factor = linear;
  }
  if (const TensorSource* divisors = source.find("rope_freqs.weight")) {
    if (divisors->elements() != head_dim / 2 || divisors->dtype != DType::f32) {
      throw_file_error(source.path(),
                       "tensor \"rope_freqs.weight\": {} {} elements, expected {} F32",
                       divisors->elements(), dtype_traits(divisors->dtype).name, head_dim / 2);
    }
    rope.divisors.resize(static_cast<std::size_t>(head_dim / 2));
    std::memcpy(rope.divisors.data(), divisors->data.data(), divisors->data.size());
    for (const float divisor : rope.divisors) {
      if (!(divisor > 0)) {
        throw_file_error(source.path(), "tensor \"rope_freqs.weight\" holds {}, expected > 0",
                         divisor);
      }
    }
  }
  return rope;
}

DecoderSpec from_gguf(const ModelSource& source) {
  const GgufMetadata& keys = source.gguf().metadata();
  if (keys.get_int("llama.expert_count").value_or(0) > 0) {
    throw_error(ErrorCode::unsupported, "{}: mixture-of-experts models are not supported",
                source.path());
  }
  DecoderSpec spec;
  spec.layers = gguf_int(source, "llama.block_count");
  spec.dim = gguf_int(source, "llama.embedding_length");
  spec.embed_dim = spec.dim;
  spec.ffn = gguf_int(source, "llama.feed_forward_length");
  spec.heads = gguf_int(source, "llama.attention.head_count");
  spec.kv_heads = keys.get_int("llama.attention.head_count_kv").value_or(spec.heads);
  const std::int64_t even_share = spec.heads > 0 ? spec.dim / spec.heads : 0;
  spec.head_dim = keys.get_int("llama.attention.key_length").value_or(even_share);
  if (keys.get_int("llama.attention.value_length").value_or(spec.head_dim) != spec.head_dim) {
    throw_error(ErrorCode::unsupported,
                "{}: key and value heads of different sizes are not supported", source.path());
  }
  const std::vector<std::int64_t> embedding = source.shape_of("token_embd.weight");
  spec.vocab = embedding.size() == 2 ? embedding[0] : keys.get_int("llama.vocab_size").value_or(0);
  spec.max_context = gguf_int(source, "llama.context_length");
  spec.norm_eps =
      static_cast<float>(keys.get_float("llama.attention.layer_norm_rms_epsilon").value_or(1e-5));
  spec.gated_mlp = true;
  spec.tied_head = source.shape_of("output.weight").empty();
  spec.rope = rope_from_gguf(source, spec.head_dim);
  return spec;
}

// config.json has one flag for the biases of several matrices. Throws unsupported where only some
// have them.
bool biases(const DecoderSpec& spec, std::initializer_list<const char*> matrices,
            const std::function<bool(std::string_view)>& has) {
  std::int64_t present = 0;
  std::int64_t all = 0;
  for (std::int64_t layer = 0; layer < spec.layers; ++layer) {
    for (const char* matrix : matrices) {
      present += has(fmt::format("blk.{}.{}.bias", layer, matrix)) ? 1 : 0;
      ++all;
    }
  }
  if (present == 0 || present == all) return present > 0;
  throw_error(ErrorCode::unsupported,
              "only {} of the {} biases of {} are there, which config.json cannot say", present,
              all, fmt::join(matrices, ", "));
}

// GGUF holds the divisors of llama3 scaling. The factor is the largest of them, and any between 1
// and the factor tells the original context, if the band in between is the usual one.
RopeSpec named_scaling(const DecoderSpec& spec) {
  const std::vector<float>& divisors = spec.rope.divisors;
  if (divisors.empty()) return spec.rope;
  if (spec.rope.scaling != RopeScaling::none) {
    throw_error(ErrorCode::unsupported,
                "the model has linear rope scaling and rope_freqs.weight, which config.json cannot "
                "say together");
  }
  RopeSpec plain;
  plain.theta = spec.rope.theta;
  const std::vector<double> frequencies = plain.frequencies(spec.head_dim);
  RopeSpec rope = spec.rope;
  rope.divisors.clear();
  rope.scaling = RopeScaling::llama3;
  rope.factor = static_cast<double>(*std::max_element(divisors.begin(), divisors.end()));
  for (std::size_t i = 0; i < divisors.size(); ++i) {
    const double share =
        (1.0 / static_cast<double>(divisors[i]) - 1.0 / rope.factor) / (1.0 - 1.0 / rope.factor);
    if (!(share > 0.01 && share < 0.99)) continue;
    const double turns =
        rope.low_freq_factor + share * (rope.high_freq_factor - rope.low_freq_factor);
    rope.original_context = std::round(turns * 2.0 * std::numbers::pi / frequencies[i]);
    break;
  }
  const std::vector<double> named = rope.frequencies(spec.head_dim);
  for (std::size_t i = 0; i < named.size(); ++i) {
    const double wanted = frequencies[i] / static_cast<double>(divisors[i]);
    if (std::fabs(named[i] / wanted - 1.0) < 1e-4) continue;
    throw_error(ErrorCode::unsupported,
                "the model's rope_freqs.weight is not llama3 scaling as config.json can say it");
  }
  return rope;
}

nlohmann::ordered_json to_config(const DecoderSpec& spec,
                                 const std::function<bool(std::string_view)>& has) {
  if (has("output.bias")) {
    throw_error(ErrorCode::unsupported, "the head has a bias, which config.json cannot say");
  }
  nlohmann::ordered_json config;
  config["architectures"] = {"LlamaForCausalLM"};
  config["model_type"] = "llama";
  config["hidden_act"] = "silu";
  config["hidden_size"] = spec.dim;
  config["intermediate_size"] = spec.ffn;
  config["num_hidden_layers"] = spec.layers;
  config["num_attention_heads"] = spec.heads;
  config["num_key_value_heads"] = spec.kv_heads;
  config["head_dim"] = spec.head_dim;
  config["max_position_embeddings"] = spec.max_context;
  config["vocab_size"] = spec.vocab;
  config["rms_norm_eps"] = std::stod(fmt::format("{}", spec.norm_eps));  // 1e-05, not 9.99...e-06
  config["attention_bias"] = biases(spec, {"attn_q", "attn_k", "attn_v", "attn_output"}, has);
  config["mlp_bias"] = biases(spec, {"ffn_gate", "ffn_up", "ffn_down"}, has);
  config["tie_word_embeddings"] = spec.tied_head;
  const RopeSpec rope = named_scaling(spec);
  config["rope_theta"] = rope.theta;
  config["rope_scaling"] = nullptr;
  if (rope.scaling == RopeScaling::linear) {
    config["rope_scaling"] = {{"rope_type", "linear"}, {"factor", rope.factor}};
  } else if (rope.scaling == RopeScaling::llama3) {
    config["rope_scaling"] = {
        {"rope_type", "llama3"},
        {"factor", rope.factor},
        {"low_freq_factor", rope.low_freq_factor},
        {"high_freq_factor", rope.high_freq_factor},
        {"original_max_position_embeddings", static_cast<std::int64_t>(rope.original_context)}};
  }
  return config;
}

void to_gguf(const DecoderSpec& spec, GgufMetadata& keys) {
  const auto u32 = [](std::int64_t value) { return static_cast<std::uint32_t>(value); };
  keys.set("llama.block_count", u32(spec.layers));
  keys.set("llama.context_length", u32(spec.max_context));
  keys.set("llama.embedding_length", u32(spec.dim));
  keys.set("llama.feed_forward_length", u32(spec.ffn));
  keys.set("llama.attention.head_count", u32(spec.heads));
  keys.set("llama.attention.head_count_kv", u32(spec.kv_heads));
  keys.set("llama.attention.key_length", u32(spec.head_dim));
  keys.set("llama.attention.value_length", u32(spec.head_dim));
  keys.set("llama.attention.layer_norm_rms_epsilon", spec.norm_eps);
  keys.set("llama.rope.dimension_count", u32(spec.head_dim));
  keys.set("llama.rope.freq_base", static_cast<float>(spec.rope.theta));
  keys.set("llama.vocab_size", u32(spec.vocab));
  if (spec.rope.scaling == RopeScaling::linear) {
    keys.set("llama.rope.scaling.type", std::string("linear"));
    keys.set("llama.rope.scaling.factor", static_cast<float>(spec.rope.factor));
  }
}

}  // namespace

const Family kLlama = {"llama",   kTensors,  kPrefixes, from_config,
                       from_gguf, to_config, to_gguf,   true};

}  // namespace tenfold
