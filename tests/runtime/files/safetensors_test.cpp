#include "runtime/files/safetensors.h"

#include <fmt/format.h>
#include <gmock/gmock.h>

#include <algorithm>
#include <filesystem>
#include <iterator>

#include "tests/support/expect_error.h"
#include "tests/support/heap_use.h"
#include "tests/support/hostile_file.h"
#include "tests/support/scratch_folder.h"

namespace tenfold {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;
using namespace tenfold::testing;

std::string make_file(std::string_view header, std::size_t data_bytes) {
  const std::uint64_t length = header.size();
  std::string file(reinterpret_cast<const char*>(&length), sizeof(length));
  file += header;
  for (std::size_t i = 0; i < data_bytes; ++i) file += static_cast<char>(i);
  return file;
}

std::vector<TensorSource> parse(std::string_view file) {
  return parse_safetensors(as_bytes(file), "m.safetensors");
}

std::string refusal(std::string_view file) {
  return expect_error(ErrorCode::bad_file, [&] { parse(file); });
}

constexpr std::string_view kGoodHeader =
    R"({"__metadata__":{"format":"pt"},"a.weight":{"dtype":"F32","shape":[2,3],)"
    R"("data_offsets":[0,24]},"b\u00e9":{"data_offsets":[24,28],"dtype":"BF16","shape":[2]},)"
    R"("s":{"dtype":"I64","shape":[],"data_offsets":[28,36]}}   )";

TEST(Safetensors, ReadsNamesShapesTypesAndData) {
  const std::string file = make_file(kGoodHeader, 36);
  const auto tensors = parse(file);
  ASSERT_EQ(tensors.size(), 3u);
  EXPECT_EQ(tensors[0].name, "a.weight");
  EXPECT_THAT(tensors[0].shape, ElementsAre(2, 3));
  EXPECT_EQ(tensors[0].dtype, DType::f32);
  EXPECT_EQ(tensors[0].data.size(), 24u);
  EXPECT_EQ(tensors[1].name, "b\u00e9");
  EXPECT_EQ(tensors[1].dtype, DType::bf16);
  EXPECT_EQ(std::to_integer<int>(tensors[1].data[0]), 24);
  EXPECT_EQ(tensors[2].dtype, DType::i64);
  EXPECT_TRUE(tensors[2].shape.empty());
  EXPECT_EQ(tensors[2].elements(), 1);
}

TEST(Safetensors, RefusesTruncationAtEveryByte) {
  expect_error_at_every_truncation(make_file(kGoodHeader, 36), [](auto file) {
    return parse_safetensors(file, "m.safetensors");
  });
}

TEST(Safetensors, SurvivesByteFlips) {
  expect_error_or_consistency_for_flips(make_file(kGoodHeader, 36), [](auto file) {
    return parse_safetensors(file, "m.safetensors");
  });
}

struct BadHeader {
  std::string_view header;
  std::string_view message;
  ErrorCode code = ErrorCode::bad_file;
};

// The data has 16 bytes.
const BadHeader kBadHeaders[] = {
    {R"([])", "does not start with"},
    {R"({"a":5})", "tensor \"a\": found a number"},
    {R"({"a":{"dtype":"F32","shape":[4]}})", "needs dtype, shape and data_offsets"},
    {R"({"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16],"x":1}})", "unknown field \"x\""},
    {R"({"a":{"dtype":"F32","dtype":"F32","shape":[4],"data_offsets":[0,16]}})", "dtype twice"},
    {R"({"a":{"dtype":"F32","shape":[4],"data_offsets":[0,17]}})", "do not lie in the 16 bytes"},
    {R"({"a":{"dtype":"F32","shape":[4],"data_offsets":[16,0]}})", "do not lie in"},
    {R"({"a":{"dtype":"F32","shape":[4],"data_offsets":[0,12]}})", "12 bytes of data, expected 16"},
    {R"({"a":{"dtype":"F32","shape":[4],"data_offsets":[0]}})", "has 1 numbers, expected 2"},
    {R"({"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16,3]}})", "more than 2 numbers"},
    {R"({"a":{"dtype":"F32","shape":[4],"data_offsets":[-1,16]}})", "negative number"},
    {R"({"a":{"dtype":"F32","shape":[-4],"data_offsets":[0,16]}})", "negative number"},
    {R"({"a":{"dtype":"F32","shape":[4.0],"data_offsets":[0,16]}})", "non-integer number"},
    {R"({"a":{"dtype":"F32","shape":["4"],"data_offsets":[0,16]}})", "found a string"},
    {R"({"a":{"dtype":"F32","shape":[[4]],"data_offsets":[0,16]}})", "found an array"},
    {R"({"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}})", "shape has a 0"},
    {R"({"a":{"dtype":"F32","shape":[9223372036854775808],"data_offsets":[0,16]}})", "too large"},
    {R"({"a":{"dtype":"F32","shape":[99999999999999999999],"data_offsets":[0,16]}})",
     "non-integer number"},
    {R"({"a":{"dtype":"F32","shape":[4294967296,4294967296,4],"data_offsets":[0,16]}})",
     "expected over 2^64"},
    {R"({"a":{"dtype":"F32","shape":[4611686018427387905],"data_offsets":[0,4]}})",
     "expected over 2^64"},
    {R"({"a":{"dtype":"F32","shape":[1,1,1,1,1,1,1,1,4],"data_offsets":[0,16]}})",
     "more than 8 numbers"},
    {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
     R"("b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})",
     "tensors \"a\" and \"b\" overlap"},
    {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
     R"("a":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}})",
     "tensor \"a\" is listed twice"},
    {R"({"a":{"dtype":"F64","shape":[2],"data_offsets":[0,16]}})", "tensor \"a\" has dtype \"F64\"",
     ErrorCode::unsupported},
    {R"({"a":{"dtype":"Q4_0","shape":[2],"data_offsets":[0,16]}})", "has dtype \"Q4_0\"",
     ErrorCode::unsupported},
    {"{\"\\u001b[31m\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}",
     "tensor \"\\x1b[31m\"", ErrorCode::unsupported},
    {R"({"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]})", "JSON syntax error"},
    {R"({"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}} x)", "JSON syntax error"},
    {"{\"\xff\":{}}", "invalid UTF-8"},
    {R"({"__metadata__":{"a":{"b":"c"}}})", "found an object"},
    {R"({"__metadata__":{"a":1}})", "found a number"},
};

TEST(Safetensors, RefusesBadHeadersByName) {
  for (const BadHeader& bad : kBadHeaders) {
    const std::string file = make_file(bad.header, 16);
    const std::string message = expect_error(bad.code, [&] { parse(file); });
    EXPECT_THAT(message, HasSubstr(std::string(bad.message))) << bad.header;
    EXPECT_THAT(message, StartsWith("m.safetensors: ")) << bad.header;
  }
}

TEST(Safetensors, RefusesDeepNestingAndLongTokens) {
  const std::string deep = make_file("{\"a\":" + std::string(1u << 19, '['), 0);
  EXPECT_THAT(refusal(deep), HasSubstr("found an array"));
  const std::string endless = make_file("{\"" + std::string(3u << 20, 'a') + "\":{}}", 0);
  EXPECT_THAT(refusal(endless), HasSubstr("a token of more than"));
  const std::string blank = make_file("{" + std::string(3u << 20, ' ') + "}", 0);
  EXPECT_THAT(refusal(blank), HasSubstr("a token of more than"));
}

TEST(Safetensors, RefusesHeaderLengthBeyondFileOrLimit) {
  std::string file = make_file("{}", 0);
  EXPECT_TRUE(parse(file).empty());
  file[0] = 3;
  EXPECT_THAT(refusal(file), HasSubstr("header of 3 bytes"));
  file[7] = '\x80';
  EXPECT_THAT(refusal(file), HasSubstr("truncated or not safetensors"));
}

TEST(Safetensors, WritesWhatItReads) {
  const ScratchFolder folder;
  const auto path = folder / "written.safetensors";
  const std::string file = make_file(kGoodHeader, 36);
  const auto tensors = parse(file);
  write_safetensors(path, false, tensors);
  expect_error(ErrorCode::io, [&] { write_safetensors(path, false, tensors); });
  const SafetensorsFile again(path);
  ASSERT_EQ(again.tensors().size(), tensors.size());
  for (const TensorSource& expected : tensors) {
    const TensorSource* found = again.find(expected.name);
    ASSERT_NE(found, nullptr) << expected.name;
    EXPECT_EQ(found->shape, expected.shape);
    EXPECT_EQ(found->dtype, expected.dtype);
    EXPECT_TRUE(std::ranges::equal(found->data, expected.data));
  }
  EXPECT_EQ(again.find("absent"), nullptr);
  EXPECT_EQ(read_file(path)[0] % 8, 0) << "the data is not aligned";
}

TEST(Safetensors, RefusesToWriteBlockTypes) {
  const ScratchFolder folder;
  const std::vector<std::byte> data(18);
  const TensorSource tensor{"q", {32}, DType::q4_0, data};
  const std::string message = expect_error(ErrorCode::unsupported, [&] {
    write_safetensors(folder / "x.safetensors", true, std::span(&tensor, 1));
  });
  EXPECT_THAT(message, HasSubstr("tensor \"q\" has type Q4_0"));
  EXPECT_EQ(folder.n_entries(), 0u);
}

// The smallest entries that are accepted: the worst case for the table of tensors.
std::string many_tiny_tensors(std::size_t n) {
  std::string header = "{";
  for (std::size_t i = 0; i < n; ++i) {
    fmt::format_to(std::back_inserter(header),
                   R"({}"{:x}":{{"dtype":"F16","shape":[1],"data_offsets":[{},{}]}})",
                   i == 0 ? "" : ",", i, 2 * i, 2 * i + 2);
  }
  return make_file(header + "}", 2 * n);
}

TEST(Safetensors, TakesNoMoreThanTwiceTheFile) {
  const std::string file = many_tiny_tensors(50'000);
  const HeapUse use;
  const auto tensors = parse(file);
  EXPECT_EQ(tensors.size(), 50'000u);
  EXPECT_LT(use.peak(), 2 * file.size());
}

TEST(Safetensors, RefusesTooManyTensors) {
  const std::string file = many_tiny_tensors(kMaxFileTensors + 1);
  EXPECT_THAT(refusal(file), HasSubstr("more than 262144 tensors"));
}

TEST(Safetensors, ReadsRealCheckpoint) {
  const std::filesystem::path path = TENFOLD_SHARED "/models/opt-1m/model.safetensors";
  if (!std::filesystem::exists(path)) GTEST_SKIP() << "NOT TESTED: " << path << " is absent";
  const SafetensorsFile file(path);
  EXPECT_GT(file.tensors().size(), 50u);
  const TensorSource* embed = file.find("model.decoder.embed_tokens.weight");
  ASSERT_NE(embed, nullptr);
  EXPECT_THAT(embed->shape, ElementsAre(2048, 128));
  EXPECT_EQ(embed->dtype, DType::f16);
}

}  // namespace
}  // namespace tenfold
