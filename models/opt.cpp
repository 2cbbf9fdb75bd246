// OPT, 125m to 66b. 350m is the odd one: norms after the residual sums, a narrow embedding with
// project_in and project_out, and no final norm.

#include <array>
#include <nlohmann/json.hpp>

#include "kernels/error.h"
#include "models/family.h"
#include "runtime/files/json_file.h"

namespace tenfold {
namespace {

constexpr std::int64_t kPositionOffset = 2;  // of OPTLearnedPositionalEmbedding

constexpr std::array<TensorName, 14> kTensors = {{
    {"token_embd", "decoder.embed_tokens"},
    {"position_embd", "decoder.embed_positions"},
    {"token_embd_proj", "decoder.project_in"},
    {"output_proj", "decoder.project_out"},
    {"output_norm", "decoder.final_layer_norm"},
    {"output", "lm_head"},
    {"blk.{}.attn_norm", "decoder.layers.{}.self_attn_layer_norm"},
    {"blk.{}.attn_q", "decoder.layers.{}.self_attn.q_proj"},
    {"blk.{}.attn_k", "decoder.layers.{}.self_attn.k_proj"},
    {"blk.{}.attn_v", "decoder.layers.{}.self_attn.v_proj"},
    {"blk.{}.attn_output", "decoder.layers.{}.self_attn.out_proj"},
    {"blk.{}.ffn_norm", "decoder.layers.{}.final_layer_norm"},
    {"blk.{}.ffn_up", "decoder.layers.{}.fc1"},
    {"blk.{}.ffn_down", "decoder.layers.{}.fc2"},
}};
constexpr std::array<std::string_view, 2> kPrefixes = {"model.", ""};

DecoderSpec common_spec() {
  DecoderSpec spec;
  spec.norm = NormKind::layer;
  spec.norm_eps = 1e-5f;
  spec.learned_positions = true;
  spec.position_offset = kPositionOffset;
  return spec;
}

DecoderSpec from_config(const nlohmann::json& config, const std::string& file) {
  DecoderSpec spec = common_spec();
  spec.layers = json_int(config, "num_hidden_layers", file);
  spec.dim = json_int(config, "hidden_size", file);
  spec.embed_dim = json_int_or(config, "word_embed_proj_dim", spec.dim, file);
  spec.ffn = json_int(config, "ffn_dim", file);
  spec.heads = json_int(config, "num_attention_heads", file);
  spec.kv_heads = spec.heads;
  spec.head_dim = spec.heads > 0 ? spec.dim / spec.heads : 0;
  spec.vocab = json_int(config, "vocab_size", file);
  spec.max_context = json_int(config, "max_position_embeddings", file);
  spec.post_norm = !json_bool_or(config, "do_layer_norm_before", true, file);
  spec.final_norm =
      !spec.post_norm && !json_bool_or(config, "_remove_final_layer_norm", false, file);
  spec.tied_head = json_bool_or(config, "tie_word_embeddings", true, file);
  const std::string activation = json_string_or(config, "activation_function", "relu", file);
  if (activation != "relu") {
    throw_error(ErrorCode::unsupported, "{}: activation_function \"{}\" is not supported (relu is)",
                file, activation);
  }
  if (!json_bool_or(config, "layer_norm_elementwise_affine", true, file)) {
    throw_error(ErrorCode::unsupported, "{}: layer norms without weights are not supported", file);
  }
  return spec;
}

DecoderSpec from_gguf(const ModelSource& source) {
  const GgufMetadata& keys = source.gguf().metadata();
  DecoderSpec spec = common_spec();
  spec.layers = gguf_int(source, "opt.block_count");
  spec.dim = gguf_int(source, "opt.embedding_length");
  spec.ffn = gguf_int(source, "opt.feed_forward_length");
  spec.heads = gguf_int(source, "opt.attention.head_count");
  spec.kv_heads = spec.heads;
  spec.head_dim = spec.heads > 0 ? spec.dim / spec.heads : 0;
  spec.max_context = gguf_int(source, "opt.context_length");
  spec.norm_eps =
      static_cast<float>(keys.get_float("opt.attention.layer_norm_epsilon").value_or(1e-5));
  spec.post_norm = keys.get_bool("tenfold.opt.post_norm").value_or(false);
  spec.final_norm = source.find("output_norm.weight") != nullptr;
  spec.tied_head = source.shape_of("output.weight").empty();
  const std::vector<std::int64_t> embedding = source.shape_of("token_embd.weight");
  if (embedding.size() == 2) {
    spec.vocab = embedding[0];
    spec.embed_dim = embedding[1];
  }
  return spec;
}

nlohmann::ordered_json to_config(const DecoderSpec& spec,
                                 const std::function<bool(std::string_view)>& has) {
  if (has("output.bias")) {
    throw_error(ErrorCode::unsupported, "the head has a bias, which config.json cannot say");
  }
  nlohmann::ordered_json config;
  config["architectures"] = {"OPTForCausalLM"};
  config["model_type"] = "opt";
  config["activation_function"] = "relu";
  config["do_layer_norm_before"] = !spec.post_norm;
  config["_remove_final_layer_norm"] = !spec.post_norm && !spec.final_norm;
  config["enable_bias"] = true;
  config["layer_norm_elementwise_affine"] = true;
  config["hidden_size"] = spec.dim;
  config["word_embed_proj_dim"] = spec.embed_dim;
  config["ffn_dim"] = spec.ffn;
  config["num_hidden_layers"] = spec.layers;
  config["num_attention_heads"] = spec.heads;
  config["max_position_embeddings"] = spec.max_context;
  config["vocab_size"] = spec.vocab;
  config["tie_word_embeddings"] = spec.tied_head;
  return config;
}

void to_gguf(const DecoderSpec& spec, GgufMetadata& keys) {
  const auto u32 = [](std::int64_t value) { return static_cast<std::uint32_t>(value); };
  keys.set("opt.block_count", u32(spec.layers));
  keys.set("opt.context_length", u32(spec.max_context));
  keys.set("opt.embedding_length", u32(spec.dim));
  keys.set("opt.feed_forward_length", u32(spec.ffn));
  keys.set("opt.attention.head_count", u32(spec.heads));
  keys.set("opt.attention.layer_norm_epsilon", spec.norm_eps);
  keys.set("opt.vocab_size", u32(spec.vocab));
  keys.set("tenfold.opt.post_norm", spec.post_norm);
}

}  // namespace

const Family kOpt = {"opt", kTensors, kPrefixes, from_config, from_gguf, to_config, to_gguf, false};

}  // namespace tenfold
