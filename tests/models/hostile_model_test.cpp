// Whole models with damaged headers: one clear Error, or a model consistent with its shapes that
// runs. Never a crash.

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "kernels/error.h"
#include "models/convert.h"
#include "quantizer/quantize.h"
#include "tests/support/expect_error.h"
#include "tests/support/step.h"

namespace tenfold {
namespace {

using testing::expect_error;

std::filesystem::path folder_of(const char* name) {
  return std::filesystem::path(TENFOLD_TEST_DATA) / "models" / name;
}

std::filesystem::path temporary(const std::string& name) {
  // The process id: ctest runs these tests side by side.
  const auto path =
      std::filesystem::path(::testing::TempDir()) / (std::to_string(::getpid()) + "-" + name);
  std::filesystem::remove_all(path);
  return path;
}

std::string read_file(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

void write_file(const std::filesystem::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

// Loads and runs two tokens. True where the file was accepted.
bool survives(const std::filesystem::path& path) {
  try {
    LoadedModel m(path, 1);
    const auto logits = run_prompts(m, {{0, 0}}, 0, KvType::f32);
    EXPECT_EQ(logits.front().size(), 2 * static_cast<std::size_t>(m.model->info().vocab));
    return true;
  } catch (const Error& error) {
    EXPECT_FALSE(std::string(error.what()).empty());
    return false;
  }
}

// Damages one bit of every `stride`-th byte of metadata and tensor table; returns how many of these
// files were refused.
int refused_flips(const std::filesystem::path& good, std::size_t stride) {
  const std::string bytes = read_file(good);
  const GgufFile file(good);
  const auto data = file.tensors().back().data.data() + file.tensors().back().data.size() -
                    file.tensors().front().data.data();
  const std::size_t header = bytes.size() - static_cast<std::size_t>(data) - 64;
  const auto bad = temporary("bad.gguf");
  int refused = 0;
  for (std::size_t at = 0; at < header; at += stride) {
    std::string damaged = bytes;
    damaged[at] = static_cast<char>(damaged[at] ^ (1 << (at % 8)));
    write_file(bad, damaged);
    refused += survives(bad) ? 0 : 1;
  }
  EXPECT_TRUE(survives(good));
  return refused;
}

TEST(HostileModel, FlippedHeaderBytesOfAGguf) {
  const auto good = temporary("good.gguf");
  convert_to_gguf(ModelSource(folder_of("llama-gqa-rope3-tied")), good, {DType::f16, false}, {});
  EXPECT_GT(refused_flips(good, 11), 40);
}

TEST(HostileModel, FlippedHeaderBytesOfAPackedGguf) {
  const auto good = temporary("packed.gguf");
  QuantizeOptions options;
  options.recipe.bits = 1;
  options.recipe.group = 0;
  options.recipe.mixed = 0.3;  // two bands and a map for each matrix
  quantize(std::make_shared<const ModelSource>(folder_of("llama-gqa-rope3-tied")), good, options,
           {});
  EXPECT_GT(refused_flips(good, 29), 40);
}

TEST(HostileModel, PackedMatricesMustFitTheModel) {
  const auto good = temporary("fit.gguf");
  QuantizeOptions options;
  quantize(std::make_shared<const ModelSource>(folder_of("llama-mha")), good, options, {});
  const std::string bytes = read_file(good);
  const auto with_edit = [&](const std::string& from, const std::string& to) {
    std::string edited = bytes;
    const std::size_t at = edited.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    edited.replace(at, from.size(), to);
    const auto bad = temporary("unfit.gguf");
    write_file(bad, edited);
    return expect_error(ErrorCode::bad_file, [&] { LoadedModel m(bad); });
  };
  // The description of one matrix lost its name.
  EXPECT_NE(with_edit("tenfold.bands.blk.1.attn_v.weight", "tenfold_bands.blk.1.attn_v.weight")
                .find("\"blk.1.attn_v.weight\" is missing"),
            std::string::npos);
  EXPECT_NE(with_edit("blk.1.ffn_up.weight.band0.scale", "blk.1.ffn_up.weight.band0.skale")
                .find("\"blk.1.ffn_up.weight.band0.scale\" is missing"),
            std::string::npos);
  // The model says another width than its matrices have.
  const std::string ffn("llama.feed_forward_length\4\0\0\0\x60\1\0\0", 33);
  std::string wider = ffn;
  wider[29] = '\x70';
  EXPECT_NE(with_edit(ffn, wider).find("shape [352, 128], expected [368, 128]"), std::string::npos);
}

TEST(HostileModel, EditedConfigNumbers) {
  const auto folder = temporary("edited");
  std::filesystem::copy(folder_of("opt-post-ln-proj"), folder);
  std::filesystem::permissions(folder / "config.json", std::filesystem::perms::owner_write,
                               std::filesystem::perm_options::add);
  const auto config = nlohmann::json::parse(read_file(folder / "config.json"));
  int refused = 0;
  for (const char* key : {"hidden_size", "ffn_dim", "num_hidden_layers", "num_attention_heads",
                          "vocab_size", "word_embed_proj_dim", "max_position_embeddings"}) {
    for (const std::int64_t value : {std::int64_t{-1}, std::int64_t{0}, std::int64_t{3},
                                     std::int64_t{1} << 31, std::int64_t{1} << 62}) {
      auto edited = config;
      edited[key] = value;
      write_file(folder / "config.json", edited.dump());
      refused += survives(folder) ? 0 : 1;
    }
  }
  EXPECT_EQ(refused, 35);
}

TEST(HostileModel, ErrorsNameTheTensor) {
  const auto folder = temporary("shape");
  std::filesystem::copy(folder_of("llama-mha"), folder);
  auto config = nlohmann::json::parse(read_file(folder / "config.json"));
  config["intermediate_size"] = 351;
  std::filesystem::permissions(folder / "config.json", std::filesystem::perms::owner_write,
                               std::filesystem::perm_options::add);
  write_file(folder / "config.json", config.dump());
  const std::string message = expect_error(ErrorCode::bad_file, [&] { LoadedModel m(folder); });
  EXPECT_NE(message.find("mlp.gate_proj.weight"), std::string::npos) << message;
  EXPECT_NE(message.find("[352, 128], expected [351, 128]"), std::string::npos) << message;
}

TEST(HostileModel, TokensAndPositionsAreChecked) {
  LoadedModel m(folder_of("opt-pre-ln"));
  KvCache kv(kv_shape(m.model->info(), KvType::f16), 64, 1, *m.ws.backend);
  Batch batch;
  batch.add(384, 0, 0);
  expect_error(ErrorCode::bad_request, [&] { forward(*m.model, batch, kv, m.ws); });
  batch.tokens[0] = -1;
  expect_error(ErrorCode::bad_request, [&] { forward(*m.model, batch, kv, m.ws); });
  batch.tokens[0] = 1;
  batch.positions[0] = 64;  // within the model, past the cache
  expect_error(ErrorCode::bad_request, [&] { forward(*m.model, batch, kv, m.ws); });
  batch.positions[0] = 256;  // past the model
  expect_error(ErrorCode::bad_request, [&] { forward(*m.model, batch, kv, m.ws); });
}

}  // namespace
}  // namespace tenfold
