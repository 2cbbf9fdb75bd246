#include "runtime/files/pytorch_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "tests/support/expect_error.h"
#include "tests/support/heap_use.h"
#include "tests/support/hostile_file.h"
#include "tests/support/scratch_folder.h"
#include "tests/support/zip_builder.h"

namespace tenfold {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using namespace tenfold::testing;
using namespace std::string_literals;

const std::filesystem::path kFixtures = TENFOLD_TEST_DATA "/pytorch";

std::vector<float> floats(const TensorSource& tensor) {
  std::vector<float> values(static_cast<std::size_t>(tensor.elements()));
  dequantize(tensor.dtype, tensor.data, values);
  return values;
}

std::string refusal_of_fixture(std::string_view name, ErrorCode code) {
  return expect_error(code, [&] { PytorchFile{kFixtures / name}; });
}

std::string refusal(std::string_view file, ErrorCode code = ErrorCode::bad_file) {
  return expect_error(code, [&] { parse_pytorch(as_bytes(file), "m.bin"); });
}

TEST(PytorchFile, ReadsStateDicts) {
  for (const char* name : {"state_dict.bin", "protocol4.bin"}) {
    const PytorchFile file(kFixtures / name);
    const auto& tensors = file.tensors();
    ASSERT_EQ(tensors.size(), 5u) << name;
    EXPECT_EQ(tensors[0].name, "embed.weight");
    EXPECT_THAT(tensors[0].shape, ElementsAre(2, 3));
    EXPECT_THAT(floats(tensors[0]), ElementsAre(0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 2.5f));
    EXPECT_EQ(tensors[1].name, "embed.tail");
    EXPECT_THAT(floats(tensors[1]), ElementsAre(3.0f, 3.5f, 4.0f, 4.5f));
    EXPECT_EQ(tensors[2].dtype, DType::f16);
    EXPECT_THAT(floats(tensors[2]), ElementsAre(1.0f, -2.0f, 0.25f, 65504.0f));
    EXPECT_EQ(tensors[3].name, "brain");
    EXPECT_EQ(tensors[3].dtype, DType::bf16);
    EXPECT_THAT(floats(tensors[3]), ElementsAre(1.5f, -3.0f));
    EXPECT_TRUE(tensors[4].shape.empty());
    EXPECT_THAT(floats(tensors[4]), ElementsAre(7.0f));
    EXPECT_THAT(file.skipped(), ElementsAre("counter", "mask"));
  }
}

TEST(PytorchFile, FindsNestedStateDict) {
  for (const char* name : {"nested_model.bin", "nested_state_dict.bin"}) {
    const PytorchFile file(kFixtures / name);
    ASSERT_EQ(file.tensors().size(), 1u) << name;
    EXPECT_EQ(file.tensors()[0].name, "w");
    EXPECT_THAT(floats(file.tensors()[0]), ElementsAre(1.0f, 2.0f, 3.0f, 4.0f));
  }
}

TEST(PytorchFile, RefusesByName) {
  constexpr auto kUnsupported = ErrorCode::unsupported;
  constexpr auto kBad = ErrorCode::bad_file;
  const struct {
    const char* file;
    ErrorCode code;
    const char* message;
  } kCases[] = {
      {"os_system.bin", kUnsupported, "data.pkl: the pickle asks for \"posix.system\""},
      {"builtins_eval.bin", kUnsupported, "the pickle asks for \"builtins.eval\""},
      {"complex.bin", kUnsupported, "\"torch.ComplexFloatStorage\""},
      {"float64.bin", kUnsupported, "tensor \"w\" is float64"},
      {"transposed.bin", kUnsupported, "tensor \"w\" is not contiguous: stride 2 in dimension 1"},
      {"big_endian.bin", kUnsupported, "byte order \"big\""},
      {"compressed.bin", kUnsupported, "data.pkl\" is compressed (method 8)"},
      {"legacy.bin", kUnsupported, "the legacy torch format"},
      {"outside_storage.bin", kBad, "tensor \"w\": 4 elements at 1 do not fit in a storage of 4"},
      {"not_a_dict.bin", kBad, "the pickle holds no dict"},
      {"no_tensors.bin", kBad, "the pickle's dict holds no tensors"},
  };
  for (const auto& bad : kCases) {
    const std::string message = refusal_of_fixture(bad.file, bad.code);
    EXPECT_THAT(message, HasSubstr(bad.message));
    EXPECT_THAT(message, HasSubstr(bad.file));
  }
}

// The rest is made of hand-written pickles: {name: tensor} with one float storage "0".
std::string text(const std::string& value) {
  std::string result = "X";
  append_le(result, static_cast<std::uint32_t>(value.size()));
  return result + value;
}
std::string number(std::int64_t value) {
  std::string result = "\x8a\x08";
  append_le(result, value);
  return result;
}
std::string tensor_pickle(std::int64_t elements, std::int64_t offset, const std::string& size,
                          const std::string& stride) {
  return "ctorch._utils\n_rebuild_tensor_v2\n((" + text("storage") + "ctorch\nFloatStorage\n" +
         text("0") + text("cpu") + number(elements) + "tQ" + number(offset) + "(" + size + "t(" +
         stride + "t\x89}tR";
}
std::string archive(const std::string& dict_items, const std::string& storage) {
  return ZipBuilder{.entries = {{.name = "m/data.pkl", .data = "\x80\x02}(" + dict_items + "u."},
                                {.name = "m/data/0", .data = storage},
                                {.name = "m/version", .data = "3\n"}}}
      .build();
}
std::string one_tensor(std::int64_t elements, std::int64_t offset, const std::string& size,
                       const std::string& stride) {
  return archive(text("w") + tensor_pickle(elements, offset, size, stride), std::string(16, 'x'));
}

TEST(PytorchFile, ChecksStorageBounds) {
  const std::string one = number(1), two = number(2);
  EXPECT_EQ(parse_pytorch(as_bytes(one_tensor(4, 2, two, one)), "m.bin").tensors.size(), 1u);
  constexpr std::int64_t kMax = std::numeric_limits<std::int64_t>::max();
  constexpr std::int64_t kMin = std::numeric_limits<std::int64_t>::min();
  EXPECT_THAT(refusal(one_tensor(5, 0, two, one)), HasSubstr("has 16 bytes, expected 5 elements"));
  for (const std::int64_t elements : {kMax, kMin, std::int64_t{-1}}) {
    EXPECT_THAT(refusal(one_tensor(elements, 0, two, one)), HasSubstr("has 16 bytes, expected"));
  }
  for (const std::int64_t offset : {kMax, kMin, std::int64_t{-1}, std::int64_t{3}}) {
    EXPECT_THAT(refusal(one_tensor(4, offset, two, one)), HasSubstr("do not fit in a storage"));
  }
  for (const std::int64_t extent : {kMin, std::int64_t{-1}, std::int64_t{0}}) {
    EXPECT_THAT(refusal(one_tensor(4, 0, number(extent), one)), HasSubstr("positive integers"));
  }
  EXPECT_THAT(refusal(one_tensor(4, 0, number(kMax), one)), HasSubstr("do not fit"));
  const std::string huge = number(std::int64_t{1} << 33);
  EXPECT_THAT(refusal(one_tensor(4, 0, huge + huge, huge + one)), HasSubstr("shape overflows"));
  EXPECT_THAT(refusal(one_tensor(4, 0, two, "")), HasSubstr("1 dimensions and 0 strides"));
  EXPECT_THAT(refusal(one_tensor(4, 0, "N", "N")), HasSubstr("positive integers"));
  std::string nine;
  for (int i = 0; i < 9; ++i) nine += one;
  EXPECT_THAT(refusal(one_tensor(4, 0, nine, nine)), HasSubstr("9 dimensions"));
  EXPECT_THAT(refusal(one_tensor(4, 0, two, number(-1)), ErrorCode::unsupported),
              HasSubstr("not contiguous"));
}

TEST(PytorchFile, ChecksNames) {
  const std::string tensor = tensor_pickle(4, 0, number(4), number(1));
  const std::string storage(16, 'x');
  EXPECT_THAT(refusal(archive(text("w") + tensor + text("w") + tensor, storage)),
              HasSubstr("tensor \"w\" is there twice"));
  EXPECT_THAT(refusal(archive("K\x01" + tensor, storage)), HasSubstr("is not a string"));
  for (const std::string& name :
       {""s, std::string(1025, 'n'), "\xff"s, "\xc0\x80"s, "\xed\xa0\x80"s, "\xf4\x90\x80\x80"s,
        "a\xe2\x82"s, "\xe0\x9f\xbf"s}) {
    EXPECT_THAT(refusal(archive(text(name) + tensor, storage)), HasSubstr("bytes of UTF-8"));
  }
  const std::string fine = archive(text("\xe2\x82\xac\xf0\x9f\x98\x80") + tensor, storage);
  EXPECT_EQ(parse_pytorch(as_bytes(fine), "m.bin").tensors.size(), 1u);
}

TEST(PytorchFile, ChecksArchiveLayout) {
  const auto build = [](std::vector<ZipBuilder::Entry> entries) {
    return ZipBuilder{.entries = std::move(entries)}.build();
  };
  EXPECT_THAT(refusal(build({{.name = "a.txt", .data = "x"}})),
              HasSubstr("a zip archive without \"a.txt/data.pkl\""));
  const std::string pickle =
      "\x80\x02}" + text("w") + tensor_pickle(1, 0, number(1), number(1)) + "s.";
  EXPECT_THAT(refusal(build({{.name = "m/data.pkl", .data = pickle}})),
              HasSubstr("the archive has no storage \"0\""));
  EXPECT_THAT(
      refusal(build({{.name = "m/data.pkl", .data = pickle}, {.name = "m/version", .data = "11"}}),
              ErrorCode::unsupported),
      HasSubstr("torch archive version \"11\""));
  EXPECT_THAT(refusal("GGUF"), HasSubstr("does not start like a zip archive"));
}

TEST(PytorchFile, RefusesTruncationAtEveryByteAndSurvivesFlips) {
  const auto parse = [](std::span<const std::byte> file) {
    return parse_pytorch(file, "m.bin").tensors;
  };
  for (const char* name : {"state_dict.bin", "protocol4.bin"}) {
    const std::string good = read_file(kFixtures / name);
    expect_error_at_every_truncation(good, parse);
    expect_error_or_consistency_for_flips(good, parse);
  }
}

TEST(PytorchFile, TakesNoMoreThanTwiceTheFile) {
  std::string items = text("a") + tensor_pickle(4, 0, number(4), number(1)) + "q\x00"s;
  for (int i = 0; i < 300'000; ++i) items += text(std::to_string(i)) + "h\x00"s;
  const std::string file = archive(items, std::string(16, 'x'));
  constexpr std::size_t kFixed = 8u << 20;
  const HeapUse use;
  EXPECT_THAT(refusal(file), HasSubstr("out of proportion to the file"));
  EXPECT_LT(use.peak(), 2 * file.size() + kFixed);
}

}  // namespace
}  // namespace tenfold
