// config.json in its old and new forms, and what is refused by name.

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "models/family.h"
#include "tests/support/expect_error.h"

namespace tenfold {
namespace {

using testing::expect_error;

using nlohmann::json;

json llama_config() {
  return {{"model_type", "llama"},    {"hidden_size", 64},
          {"intermediate_size", 128}, {"num_attention_heads", 4},
          {"num_hidden_layers", 2},   {"vocab_size", 100},
          {"rms_norm_eps", 1e-5},     {"max_position_embeddings", 512}};
}

DecoderSpec read(const json& config) {
  DecoderSpec spec = kLlama.from_config(config, "config.json");
  spec.validate("config.json");
  return spec;
}

TEST(LlamaConfig, OldFormWithoutOptionalKeys) {
  json config = llama_config();
  config["rope_theta"] = 500000.0;
  config["rope_scaling"] = nullptr;
  const DecoderSpec spec = read(config);
  EXPECT_EQ(spec.head_dim, 16);
  EXPECT_EQ(spec.kv_heads, 4);
  EXPECT_EQ(spec.rope.theta, 500000.0);
  EXPECT_EQ(spec.rope.scaling, RopeScaling::none);
  EXPECT_FALSE(spec.tied_head);
}

TEST(LlamaConfig, OldLinearScalingUsesType) {
  json config = llama_config();
  config["rope_scaling"] = {{"type", "linear"}, {"factor", 4.0}};
  const DecoderSpec spec = read(config);
  EXPECT_EQ(spec.rope.scaling, RopeScaling::linear);
  const std::vector<double> f = spec.rope.frequencies(16);
  EXPECT_DOUBLE_EQ(f[0], 0.25);
  EXPECT_DOUBLE_EQ(f[1], std::pow(10000.0, -2.0 / 16) / 4);
}

TEST(LlamaConfig, NewFormAndOldFormOfLlama3ScalingAgree) {
  json scaling = {{"rope_type", "llama3"},
                  {"factor", 8.0},
                  {"low_freq_factor", 1.0},
                  {"high_freq_factor", 4.0},
                  {"original_max_position_embeddings", 8192}};
  json old_form = llama_config();
  old_form["rope_theta"] = 500000.0;
  old_form["rope_scaling"] = scaling;
  json new_form = llama_config();
  scaling["rope_theta"] = 500000.0;
  new_form["rope_parameters"] = scaling;
  const auto a = read(old_form).rope.frequencies(128);
  EXPECT_EQ(a, read(new_form).rope.frequencies(128));
  EXPECT_DOUBLE_EQ(a.front(), 1.0);                                    // short waves are kept
  EXPECT_DOUBLE_EQ(a.back(), std::pow(500000.0, -126.0 / 128) / 8.0);  // long ones stretched
}

TEST(LlamaConfig, NullHeadDimMeansTheEvenShare) {
  json config = llama_config();
  config["head_dim"] = nullptr;
  config["num_key_value_heads"] = 2;
  EXPECT_EQ(read(config).head_dim, 16);
}

TEST(LlamaConfig, RefusesByName) {
  json yarn = llama_config();
  yarn["rope_scaling"] = {{"rope_type", "yarn"}, {"factor", 4.0}};
  EXPECT_NE(expect_error(ErrorCode::unsupported, [&] { read(yarn); }).find("yarn"),
            std::string::npos);
  json gelu = llama_config();
  gelu["hidden_act"] = "gelu";
  EXPECT_NE(expect_error(ErrorCode::unsupported, [&] { read(gelu); }).find("gelu"),
            std::string::npos);
}

TEST(LlamaConfig, RefusesSizesOutOfRange) {
  const struct {
    const char* key;
    json value;
  } cases[] = {{"hidden_size", 0},
               {"hidden_size", -64},
               {"num_attention_heads", 0},
               {"num_key_value_heads", 3},
               {"num_hidden_layers", 1e9},
               {"vocab_size", "many"},
               {"intermediate_size", 1 << 30},
               {"max_position_embeddings", 0},
               {"rms_norm_eps", -1.0},
               {"head_dim", 15},
               {"rope_theta", 0.0},
               {"rope_scaling", "linear"}};
  for (const auto& [key, value] : cases) {
    json config = llama_config();
    config[key] = value;
    const std::string message = expect_error(ErrorCode::bad_file, [&] { read(config); });
    EXPECT_EQ(message.find("config.json: "), 0u) << key << ": " << message;
  }
  json config = llama_config();
  config.erase("hidden_size");
  EXPECT_NE(expect_error(ErrorCode::bad_file, [&] { read(config); }).find("hidden_size"),
            std::string::npos);
}

TEST(OptConfig, DefaultsAndThe350mLayout) {
  json config = {{"model_type", "opt"},
                 {"hidden_size", 1024},
                 {"ffn_dim", 4096},
                 {"num_hidden_layers", 24},
                 {"num_attention_heads", 16},
                 {"vocab_size", 50272},
                 {"max_position_embeddings", 2048}};
  const DecoderSpec plain = kOpt.from_config(config, "config.json");
  EXPECT_FALSE(plain.post_norm);
  EXPECT_TRUE(plain.final_norm);
  EXPECT_TRUE(plain.tied_head);
  EXPECT_EQ(plain.embed_dim, 1024);
  config["do_layer_norm_before"] = false;
  config["word_embed_proj_dim"] = 512;
  const DecoderSpec odd = kOpt.from_config(config, "config.json");
  EXPECT_TRUE(odd.post_norm);
  EXPECT_FALSE(odd.final_norm);
  EXPECT_EQ(odd.embed_dim, 512);
  config["activation_function"] = "gelu";
  EXPECT_NE(expect_error(ErrorCode::unsupported, [&] { kOpt.from_config(config, "config.json"); })
                .find("gelu"),
            std::string::npos);
}

}  // namespace
}  // namespace tenfold
