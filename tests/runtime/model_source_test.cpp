#include "runtime/model_source.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "runtime/files/gguf.h"
#include "tests/support/expect_error.h"
#include "tests/support/scratch_folder.h"

namespace tenfold {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::StartsWith;
using namespace tenfold::testing;

const fs::path kPytorch = TENFOLD_TEST_DATA "/pytorch";
const std::vector<std::byte> kData(64);

TensorSource tensor(const std::string& name, std::int64_t elements = 4) {
  return {
      name, {elements}, DType::f32, std::span(kData).first(static_cast<std::size_t>(elements) * 4)};
}

void write_shard(const fs::path& path, const std::vector<std::string>& names) {
  std::vector<TensorSource> tensors;
  for (const std::string& name : names) tensors.push_back(tensor(name));
  write_safetensors(path, true, tensors);
}

std::string refusal(const fs::path& path, ErrorCode code = ErrorCode::bad_file) {
  return expect_error(code, [&] { ModelSource{path}; });
}

// A model of two shards: a, b | c.
class ShardedModel {
 public:
  ShardedModel() {
    folder.write("config.json", R"({"model_type":"llama"})");
    write_shard(folder / "s1.safetensors", {"a", "b"});
    write_shard(folder / "s2.safetensors", {"c", "unlisted"});
    write_index(R"("c":"s2.safetensors","a":"s1.safetensors","b":"s1.safetensors")");
  }
  void write_index(std::string_view weight_map) {
    folder.write("model.safetensors.index.json",
                 fmt::format(R"({{"metadata":{{"total_size":48,"x":[1,null,true]}},)"
                             R"("weight_map":{{{}}}}})",
                             weight_map));
  }
  ScratchFolder folder;
};

TEST(ModelSource, OpensSingleSafetensors) {
  const ScratchFolder folder;
  folder.write("config.json", R"({"model_type":"opt","quantization_config":null})");
  write_shard(folder / "model.safetensors", {"b", "a"});
  const ModelSource model(folder.path());
  EXPECT_FALSE(model.is_gguf());
  EXPECT_EQ(model.config()["model_type"], "opt");
  ASSERT_EQ(model.tensors().size(), 2u);
  EXPECT_EQ(model.tensors()[0]->name, "b");
  EXPECT_EQ(model.find("a"), model.tensors()[1]);
  EXPECT_EQ(model.find("c"), nullptr);
  EXPECT_EQ(model.file_bytes(), fs::file_size(folder / "model.safetensors"));
  EXPECT_EQ(model.file_of("a"), (folder / "model.safetensors").string());
}

TEST(ModelSource, OpensShards) {
  const ShardedModel sharded;
  const ModelSource model(sharded.folder.path());
  EXPECT_EQ(model.tensors().size(), 3u);
  EXPECT_EQ(model.find("unlisted"), nullptr);
  EXPECT_EQ(model.file_of("b"), (sharded.folder / "s1.safetensors").string());
  EXPECT_EQ(model.file_of("c"), (sharded.folder / "s2.safetensors").string());
  EXPECT_EQ(model.file_bytes(), fs::file_size(sharded.folder / "s1.safetensors") +
                                    fs::file_size(sharded.folder / "s2.safetensors"));
}

TEST(ModelSource, OpensPytorchFilesAndShards) {
  const ScratchFolder folder;
  folder.write("config.json", "{}");
  fs::copy_file(kPytorch / "state_dict.bin", folder / "pytorch_model.bin");
  {
    const ModelSource model(folder.path());
    EXPECT_EQ(model.tensors().size(), 5u);
    EXPECT_EQ(model.file_of("half"), (folder / "pytorch_model.bin").string());
  }
  fs::rename(folder / "pytorch_model.bin", folder / "p1.bin");
  fs::copy_file(kPytorch / "nested_model.bin", folder / "p2.bin");
  // "counter" is an integer buffer: listed, present, but no weight.
  folder.write("pytorch_model.bin.index.json",
               R"({"weight_map":{"half":"p1.bin","counter":"p1.bin","w":"p2.bin"}})");
  const ModelSource model(folder.path());
  EXPECT_EQ(model.tensors().size(), 2u);
  EXPECT_EQ(model.file_of("w"), (folder / "p2.bin").string());
}

TEST(ModelSource, PrefersSafetensors) {
  const ScratchFolder folder;
  folder.write("config.json", "{}");
  folder.write("pytorch_model.bin", "not looked at");
  write_shard(folder / "model.safetensors", {"a"});
  EXPECT_NE(ModelSource(folder.path()).find("a"), nullptr);
}

TEST(ModelSource, RefusesBrokenIndexes) {
  ShardedModel sharded;
  const auto refusal_of = [&](std::string_view weight_map) {
    sharded.write_index(weight_map);
    const std::string message = refusal(sharded.folder.path());
    EXPECT_THAT(message,
                StartsWith((sharded.folder / "model.safetensors.index.json").string() + ": "));
    return message;
  };
  EXPECT_THAT(refusal_of(R"("a":"s3.safetensors")"),
              HasSubstr("lists the shard \"s3.safetensors\", which is missing"));
  EXPECT_THAT(refusal_of(R"("a":"s1.safetensors","d":"s1.safetensors")"),
              HasSubstr("lists tensor \"d\" in \"s1.safetensors\", which does not hold it"));
  EXPECT_THAT(refusal_of(R"("a":"s2.safetensors","b":"s1.safetensors")"),
              HasSubstr("tensor \"a\" is in the shard \"s1.safetensors\", but the index says"));
  EXPECT_THAT(refusal_of(R"("a":"s1.safetensors","a":"s1.safetensors")"),
              HasSubstr("lists tensor \"a\" twice"));
  for (const char* shard :
       {"", ".", "..", "../s1.safetensors", "/etc/passwd", "x/../s1.safetensors",
        "s1.safetensors\\u0000", "..\\\\s1.safetensors"}) {
    EXPECT_THAT(refusal_of(fmt::format(R"("a":"{}")", shard)),
                HasSubstr("expected the name of a file in the same folder"));
  }
  EXPECT_THAT(refusal_of(R"("a":5)"), HasSubstr("weight_map: found a number"));
  EXPECT_THAT(refusal_of(R"("a":{})"), HasSubstr("weight_map: found an object"));
  EXPECT_THAT(refusal_of(R"("a")"), HasSubstr("JSON syntax error"));
}

TEST(ModelSource, RefusesIndexWithoutWeightMap) {
  ShardedModel sharded;
  const auto refusal_of = [&](std::string_view index) {
    sharded.folder.write("model.safetensors.index.json", index);
    return refusal(sharded.folder.path());
  };
  EXPECT_THAT(refusal_of("{}"), HasSubstr("has no \"weight_map\" object"));
  EXPECT_THAT(refusal_of(R"({"x":{"weight_map":{}}})"), HasSubstr("has no \"weight_map\" object"));
  EXPECT_THAT(refusal_of(R"({"weight_map":[]})"), HasSubstr("found an array"));
  EXPECT_THAT(refusal_of(R"({"weight_map":{},"weight_map":{}})"), HasSubstr("twice"));
  EXPECT_THAT(refusal_of("[]"), HasSubstr("found an array"));
  EXPECT_THAT(refusal_of("{\"x\":" + std::string(1000, '[')), HasSubstr("nested deeper than"));
}

TEST(ModelSource, RefusesDuplicatesAcrossShards) {
  ShardedModel sharded;
  write_shard(sharded.folder / "s2.safetensors", {"c", "a"});
  EXPECT_THAT(refusal(sharded.folder.path()),
              HasSubstr("tensor \"a\" is in the shard \"s2.safetensors\", but the index says"));
}

TEST(ModelSource, RefusesQuantizedCheckpointsByMethod) {
  ShardedModel sharded;
  sharded.folder.write("config.json",
                       R"({"quantization_config":{"quant_method":"gptq","bits":4}})");
  EXPECT_THAT(refusal(sharded.folder.path(), ErrorCode::unsupported), HasSubstr("\"gptq\" model"));
  sharded.folder.write("config.json", R"({"quantization_config":{"load_in_8bit":true}})");
  EXPECT_THAT(refusal(sharded.folder.path(), ErrorCode::unsupported),
              HasSubstr("a quantized model"));
}

TEST(ModelSource, SaysWhatModelMayBe) {
  const ScratchFolder folder;
  EXPECT_THAT(refusal(folder / "absent"), HasSubstr("no such file or directory; MODEL is a GGUF"));
  EXPECT_THAT(refusal(folder.write("a.txt", "hello there")),
              HasSubstr("not a GGUF file; MODEL is a GGUF file or a Hugging Face directory"));
  EXPECT_THAT(refusal(folder.write("empty", "")), HasSubstr("not a GGUF file"));
  EXPECT_THAT(refusal("/dev/null"), HasSubstr("not a GGUF file"));
}

TEST(ModelSource, HintsAtGgufInDirectory) {
  const ScratchFolder folder;
  EXPECT_THAT(refusal(folder.path()), HasSubstr("has no config.json"));
  folder.write("z.gguf", "x");
  folder.write("m.gguf", "x");
  EXPECT_THAT(refusal(folder.path()), HasSubstr("did you mean \"" + (folder / "m.gguf").string()));
  folder.write("config.json", "{}");
  const std::string message = refusal(folder.path());
  EXPECT_THAT(message, HasSubstr("has no weights: no model.safetensors, pytorch_model.bin"));
  EXPECT_THAT(message, HasSubstr("did you mean"));
}

TEST(ModelSource, RefusesBadConfigs) {
  const ScratchFolder folder;
  folder.write("config.json", "[]");
  EXPECT_THAT(refusal(folder.path()), HasSubstr("config.json: expected a JSON object"));
  folder.write("config.json", std::string((4u << 20) + 1, ' '));
  EXPECT_THAT(refusal(folder.path()), HasSubstr("expected at most 4194304"));
}

TEST(ModelSource, OpensDirectoriesWithoutWeights) {
  const ScratchFolder folder;
  EXPECT_TRUE(ModelSource(folder.path(), false).config().is_null());
  folder.write("config.json", R"({"model_type":"opt"})");
  const ModelSource model(folder.path(), false);
  EXPECT_EQ(model.config()["model_type"], "opt");
  EXPECT_TRUE(model.tensors().empty());
}

TEST(ModelSource, OpensGguf) {
  const ScratchFolder folder;
  const fs::path path = folder / "m.gguf";
  GgufMetadata metadata;
  metadata.set("general.architecture", std::string("llama"));
  GgufWriter writer(path, false, metadata, {{"t", {8}, DType::f32}});
  writer.write(std::span(kData).first(32));
  writer.finish();
  const ModelSource model(path);
  ASSERT_TRUE(model.is_gguf());
  EXPECT_EQ(*model.gguf().metadata().get_string("general.architecture"), "llama");
  EXPECT_TRUE(model.config().is_null());
  EXPECT_EQ(model.find("t"), model.tensors().at(0));
  EXPECT_EQ(model.file_of("t"), path.string());
  EXPECT_EQ(model.file_bytes(), fs::file_size(path));
}

TEST(ModelSource, OpensRealCheckpoints) {
  const fs::path models = TENFOLD_SHARED "/goldens/models";
  if (!fs::exists(models)) GTEST_SKIP() << "NOT TESTED: " << models << " is absent";
  for (const auto& entry : fs::directory_iterator(models)) {
    const ModelSource model(entry.path());
    EXPECT_GT(model.tensors().size(), 10u) << entry.path();
    EXPECT_TRUE(model.config().contains("architectures")) << entry.path();
  }
  const ModelSource sharded(models / "llama-gqa-rope3-tied");
  EXPECT_THAT(sharded.file_of("model.embed_tokens.weight"),
              HasSubstr("model-00001-of-00005.safetensors"));
}

}  // namespace
}  // namespace tenfold
