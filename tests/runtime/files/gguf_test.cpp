#include "runtime/files/gguf.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <numeric>

#include "tests/support/expect_error.h"
#include "tests/support/gguf_builder.h"
#include "tests/support/heap_use.h"
#include "tests/support/scratch_folder.h"

namespace tenfold {
namespace {

using ::testing::ElementsAre;
using testing::expect_error;
using testing::GgufBuilder;
using ::testing::HasSubstr;
using testing::HeapUse;
using testing::ScratchFolder;
using testing::small_gguf;
using ::testing::StartsWith;
using B = GgufBuilder;

// Bytes in a heap block of exactly their size, so that AddressSanitizer sees any over-read.
struct Exact {
  explicit Exact(std::string_view text)
      : size(text.size()), data(std::make_unique<std::byte[]>(text.size())) {
    if (!text.empty()) std::memcpy(data.get(), text.data(), text.size());
  }
  std::span<const std::byte> bytes() const { return {data.get(), size}; }
  std::size_t size;
  std::unique_ptr<std::byte[]> data;
};

std::string message_for(std::string_view file, ErrorCode code = ErrorCode::bad_file) {
  const Exact exact(file);
  const std::string message =
      expect_error(code, [&] { parse_gguf(exact.bytes(), "dir/bad.gguf"); });
  EXPECT_THAT(message, StartsWith("dir/bad.gguf: "));
  return message;
}

void expect_sound(const GgufContents& contents, std::span<const std::byte> file) {
  for (const TensorSource& tensor : contents.tensors) {
    const DTypeTraits traits = dtype_traits(tensor.dtype);
    ASSERT_FALSE(tensor.shape.empty());
    ASSERT_EQ(tensor.shape.back() % traits.block, 0);
    ASSERT_EQ(tensor.data.size(),
              static_cast<std::uint64_t>(tensor.elements()) / traits.block * traits.bytes);
    ASSERT_GE(tensor.data.data(), file.data());
    ASSERT_LE(tensor.data.data() + tensor.data.size(), file.data() + file.size());
  }
}

TEST(Gguf, ReadsEveryKindOfValue) {
  for (const std::uint32_t version : {2u, 3u}) {
    const Exact file(small_gguf(version));
    const GgufMetadata meta = parse_gguf(file.bytes(), "small.gguf").metadata;
    EXPECT_EQ(meta.entries.size(), 19u);
    EXPECT_EQ(*meta.get_string("general.architecture"), "llama");
    EXPECT_EQ(meta.get_int("scalar.u8"), 200);
    EXPECT_EQ(meta.get_int("scalar.i8"), -3);
    EXPECT_EQ(meta.get_int("scalar.u16"), 60000);
    EXPECT_EQ(meta.get_int("scalar.i16"), -300);
    EXPECT_EQ(meta.get_int("scalar.i32"), -70000);
    EXPECT_EQ(meta.get_int("scalar.i64"), std::int64_t{-1} << 40);
    EXPECT_EQ(meta.get_float("scalar.f32"), 0.5);
    EXPECT_EQ(meta.get_float("scalar.f64"), 0.1);
    EXPECT_EQ(meta.get_float("scalar.i8"), -3.0);
    EXPECT_EQ(meta.get_bool("scalar.bool"), true);
    EXPECT_THAT(*meta.get_strings("array.str"), ElementsAre("one", "", "three"));
    EXPECT_THAT(*meta.get_ints("array.i32"), ElementsAre(-1, 2));
    EXPECT_THAT(*meta.get_ints("array.u8"), ElementsAre('a', 'b', 'c'));
    EXPECT_THAT(*meta.get_floats("array.f32"), ElementsAre(1.5f));
    EXPECT_EQ(std::get<std::vector<bool>>(*meta.find("array.bool")),
              (std::vector<bool>{false, true}));
    EXPECT_TRUE(std::get<std::vector<double>>(*meta.find("array.empty")).empty());
    EXPECT_EQ(meta.find("absent"), nullptr);
    EXPECT_EQ(meta.get_int("absent"), std::nullopt);
    EXPECT_EQ(meta.get_strings("absent"), nullptr);
  }
}

TEST(Gguf, ReadsTensorsRowMajor) {
  const Exact file(small_gguf());
  const auto tensors = parse_gguf(file.bytes(), "small.gguf").tensors;
  ASSERT_EQ(tensors.size(), 3u);
  EXPECT_EQ(tensors[0].name, "a.weight");
  EXPECT_EQ(tensors[0].dtype, DType::f32);
  EXPECT_THAT(tensors[0].shape, ElementsAre(3, 4));
  EXPECT_EQ(tensors[0].data.size(), 48u);
  EXPECT_THAT(tensors[1].shape, ElementsAre(2, 64));
  EXPECT_EQ(tensors[1].dtype, DType::q8_0);
  EXPECT_EQ(tensors[1].data.size(), 136u);
  EXPECT_EQ(std::to_integer<int>(tensors[1].data[135]), 135);
  EXPECT_THAT(tensors[2].shape, ElementsAre(5));
  EXPECT_EQ(tensors[2].data.data() + tensors[2].data.size(), file.bytes().data() + file.size);
}

TEST(Gguf, LookUpsNameFileKeyAndTypes) {
  const Exact file(small_gguf());
  const GgufMetadata meta = parse_gguf(file.bytes(), "small.gguf").metadata;
  const auto message = [](auto&& call) { return expect_error(ErrorCode::bad_file, call); };
  EXPECT_EQ(message([&] { meta.get_int("scalar.f32"); }),
            "small.gguf: key \"scalar.f32\" has type float32, expected an integer");
  EXPECT_EQ(message([&] { meta.get_int("scalar.bool"); }),
            "small.gguf: key \"scalar.bool\" has type bool, expected an integer");
  EXPECT_EQ(message([&] { meta.get_int("scalar.u64"); }),
            "small.gguf: key \"scalar.u64\" is 9223372036854775808, beyond 64 signed bits");
  EXPECT_THAT(message([&] { meta.get_ints("array.u64"); }), HasSubstr("18446744073709551615"));
  EXPECT_THAT(message([&] { meta.get_ints("array.f32"); }), HasSubstr("array of float32"));
  EXPECT_THAT(message([&] { meta.get_string("array.str"); }), HasSubstr("expected string"));
  EXPECT_THAT(message([&] { meta.get_strings("general.architecture"); }),
              HasSubstr("has type string, expected array of string"));
  EXPECT_THAT(message([&] { meta.get_bool("scalar.u8"); }), HasSubstr("has type uint8"));
  EXPECT_THAT(message([&] { meta.get_floats("array.i32"); }), HasSubstr("array of int32"));
  EXPECT_THAT(message([&] { meta.get_float("general.architecture"); }), HasSubstr("a number"));
}

TEST(Gguf, GetIntsIsBounded) {
  GgufMetadata meta;
  meta.set("k", std::vector<std::uint8_t>(kMaxGgufInts + 1));
  EXPECT_THAT(expect_error(ErrorCode::bad_file, [&] { meta.get_ints("k"); }),
              HasSubstr("4194305 elements"));
}

TEST(Gguf, SetReplaces) {
  GgufMetadata meta;
  meta.set("k", std::uint32_t{1});
  meta.set("k", std::vector<std::string>{"x", "y"});
  EXPECT_EQ(meta.entries.size(), 1u);
  EXPECT_THAT(*meta.get_strings("k"), ElementsAre("x", "y"));
}

TEST(Gguf, RefusesTruncationAtEveryByte) {
  const std::string file = small_gguf();
  for (std::size_t n = 0; n < file.size(); ++n) message_for(file.substr(0, n));
}

TEST(Gguf, RefusesTruncationOnDisk) {
  const ScratchFolder folder;
  const auto path = folder.write("small.gguf", small_gguf());
  {
    const GgufFile whole(path);
    EXPECT_EQ(whole.file_bytes(), small_gguf().size());
    EXPECT_EQ(whole.path(), path.string());
    expect_sound({whole.metadata(), whole.tensors()}, {whole.tensors()[0].data.data(), 10000});
  }
  for (std::size_t n = small_gguf().size(); n-- > 0;) {
    std::filesystem::resize_file(path, n);
    EXPECT_THAT(expect_error(ErrorCode::bad_file, [&] { GgufFile file(path); }),
                StartsWith(path.string() + ": "));
  }
}

TEST(Gguf, SurvivesEveryFlippedByteOfTheHeader) {
  const std::string valid = small_gguf();
  std::size_t n_refused = 0, n_accepted = 0;
  for (std::size_t i = 0; i < testing::small_gguf_data_begin(); ++i) {
    for (const int flip : {0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80, 0xff, 0x7f}) {
      Exact file(valid);
      file.data[i] ^= static_cast<std::byte>(flip);
      try {
        expect_sound(parse_gguf(file.bytes(), "flip.gguf"), file.bytes());
        ++n_accepted;
      } catch (const Error& error) {
        EXPECT_TRUE(error.code() == ErrorCode::bad_file || error.code() == ErrorCode::unsupported);
        EXPECT_THAT(error.what(), StartsWith("flip.gguf: "));
        ++n_refused;
      }
    }
  }
  // Flips in values and names are still valid files; those in lengths, types and shapes are not.
  EXPECT_GT(n_refused, 1000u);
  EXPECT_GT(n_accepted, 1000u);
}

TEST(Gguf, NamesWhatIsNotGguf) {
  EXPECT_EQ(
      message_for(std::string("PK\x03\x04 is a zip archive, not a model", 30)),
      "dir/bad.gguf: header: the file begins with \"PK\\x03\\x04\", expected \"GGUF\": this is "
      "not a GGUF file");
  const auto version = [](std::uint32_t v) { return B().header(0, 0, v).bytes(); };
  EXPECT_THAT(message_for(version(1), ErrorCode::unsupported), HasSubstr("version 1"));
  EXPECT_THAT(message_for(version(0x03000000), ErrorCode::unsupported), HasSubstr("big-endian"));
  EXPECT_THAT(message_for(version(4), ErrorCode::unsupported), HasSubstr("version 4, expected 2"));
  EXPECT_THAT(message_for(version(0), ErrorCode::unsupported), HasSubstr("version 0"));
}

TEST(Gguf, AcceptsAFileWithoutTensors) {
  const Exact file(B().header(0, 1).key("k", B::u8).put(std::uint8_t{7}).bytes());
  const GgufContents contents = parse_gguf(file.bytes(), "f");
  EXPECT_TRUE(contents.tensors.empty());
  EXPECT_EQ(contents.metadata.get_int("k"), 7);
}

TEST(Gguf, RefusesImpossibleCounts) {
  constexpr auto kHuge = ~std::uint64_t{0};
  EXPECT_THAT(message_for(B().header(kHuge, 0).zeros(100).bytes()), HasSubstr("at most 65536"));
  EXPECT_THAT(message_for(B().header(0, kHuge).zeros(100).bytes()), HasSubstr("at most 65536"));
  EXPECT_THAT(message_for(B().header(4, 0).zeros(100).bytes()), HasSubstr("4 tensors cannot fit"));
  EXPECT_THAT(message_for(B().header(0, 60000).zeros(100).bytes()), HasSubstr("60000 keys"));
  EXPECT_THAT(message_for(B().header(0, 1).put(kHuge).zeros(10).bytes()),
              HasSubstr("key 0: 18446744073709551615 bytes expected"));
  EXPECT_THAT(message_for(B().header(0, 1).key("k", B::str).put(kHuge).bytes()),
              HasSubstr("key \"k\": 18446744073709551615 bytes expected at byte 45, found 0"));
  for (std::uint32_t type = 0; type <= 12; ++type) {
    if (type == B::array) continue;
    for (const std::uint64_t n : {kHuge, std::uint64_t{1} << 61, std::uint64_t{1} << 60}) {
      EXPECT_THAT(
          message_for(B().header(0, 1).key("k", B::array).array_of(type, n).zeros(64).bytes()),
          HasSubstr("cannot fit in the 64 bytes that are left"));
    }
  }
}

TEST(Gguf, RefusesBadKeysAndValues) {
  EXPECT_THAT(message_for(B().header(0, 1).key("k", 13).zeros(8).bytes()),
              HasSubstr("key \"k\": value type 13 is not known"));
  EXPECT_THAT(message_for(B().header(0, 1).key("k", B::array).array_of(99, 1).zeros(8).bytes()),
              HasSubstr("array element type 99 is not known"));
  EXPECT_THAT(message_for(B().header(0, 1).key("k", B::array).array_of(B::array, 1).bytes()),
              HasSubstr("array of arrays"));
  EXPECT_THAT(message_for(B().header(0, 1).key("k", B::boolean).put(std::uint8_t{2}).bytes()),
              HasSubstr("a bool is 2"));
  EXPECT_THAT(message_for(B().header(0, 1).key("", B::u8).zeros(9).bytes()),
              HasSubstr("key 0: the key is empty"));
  EXPECT_THAT(
      message_for(B().header(0, 2).key("k", B::u8).zeros(1).key("k", B::i8).zeros(1).bytes()),
      HasSubstr("key \"k\" appears twice"));
}

TEST(Gguf, MessagesHoldNoControlBytes) {
  const std::string name = std::string("\x1b[2J\n") + std::string(1000, 'x');
  const std::string message = message_for(B().header(0, 1).key(name, 77).zeros(8).bytes());
  EXPECT_THAT(message, HasSubstr("key \"\\x1b[2J\\x0axxx"));
  EXPECT_LT(message.size(), 250u);
}

TEST(Gguf, RefusesBadAlignment) {
  for (const std::uint32_t bad : {0u, 1u, 4u, 24u, 33u, 131072u, 0xffffffffu}) {
    EXPECT_THAT(message_for(B().header(0, 1).key("general.alignment", B::u32).put(bad).bytes()),
                HasSubstr("general.alignment is " + std::to_string(bad)));
  }
  EXPECT_THAT(message_for(B().header(0, 1).key("general.alignment", B::str).text("32").bytes()),
              HasSubstr("expected an integer"));
  EXPECT_THAT(message_for(B().header(0, 1).key("general.alignment", B::i32).put(-32).bytes()),
              HasSubstr("general.alignment is -32, expected a power of two"));
}

std::string one_tensor(const std::vector<std::uint64_t>& extents, std::uint32_t type,
                       std::uint64_t offset = 0, std::size_t n_bytes = 4096) {
  return B().header(1, 0).tensor("t", extents, type, offset).pad().zeros(n_bytes).bytes();
}

TEST(Gguf, RefusesBadShapes) {
  constexpr std::uint64_t k32 = std::uint64_t{1} << 32;
  EXPECT_THAT(message_for(one_tensor({}, 0)), HasSubstr("tensor \"t\": 0 dimensions"));
  EXPECT_THAT(message_for(one_tensor({1, 1, 1, 1, 1}, 0)), HasSubstr("5 dimensions"));
  EXPECT_THAT(message_for(B().header(1, 0).text("t").put(~0u).zeros(64).bytes()),
              HasSubstr("4294967295 dimensions"));
  EXPECT_THAT(message_for(one_tensor({0}, 0)), HasSubstr("extent of 0"));
  EXPECT_THAT(message_for(one_tensor({4, 0, 4}, 0)), HasSubstr("extent of 0"));
  EXPECT_THAT(message_for(one_tensor({k32 << 31}, 0)), HasSubstr("extent of 9223372036854775808"));
  EXPECT_THAT(message_for(one_tensor({k32, k32}, 0)), HasSubstr("overflow"));
  EXPECT_THAT(message_for(one_tensor({k32, k32 / 2, 1, 2}, 24)), HasSubstr("overflow"));
  EXPECT_THAT(message_for(one_tensor({k32, k32 / 4}, 0)), HasSubstr("overflow"));
  EXPECT_THAT(message_for(one_tensor({k32, k32, k32, k32}, 0)), HasSubstr("overflow"));
  EXPECT_THAT(message_for(one_tensor({33, 2}, 8)),
              HasSubstr("rows of 33 elements, expected a multiple of 32 for Q8_0"));
  EXPECT_THAT(message_for(one_tensor({128, 2}, 12)), HasSubstr("multiple of 256 for Q4_K"));
  const Exact four_dims(one_tensor({4, 3, 2, 1}, 0));
  EXPECT_THAT(parse_gguf(four_dims.bytes(), "f").tensors[0].shape, ElementsAre(1, 2, 3, 4));
}

TEST(Gguf, NamesTensorTypesItDoesNotRead) {
  EXPECT_EQ(message_for(one_tensor({256}, 16), ErrorCode::unsupported),
            "dir/bad.gguf: tensor \"t\" has type IQ2_XXS (ggml type 16), which is not supported");
  EXPECT_THAT(message_for(one_tensor({256}, 42), ErrorCode::unsupported), HasSubstr("Q2_0"));
  EXPECT_THAT(message_for(one_tensor({256}, 43)), HasSubstr("type 43 is not known"));
  EXPECT_THAT(message_for(one_tensor({256}, ~0u)), HasSubstr("type 4294967295 is not known"));
}

TEST(Gguf, RefusesBadOffsets) {
  EXPECT_THAT(message_for(one_tensor({8}, 0, 16)), HasSubstr("offset 16, expected a multiple"));
  EXPECT_THAT(message_for(one_tensor({8}, 0, ~std::uint64_t{31})), HasSubstr("truncated"));
  EXPECT_THAT(message_for(one_tensor({8}, 0, 4096)), HasSubstr("has 4096 bytes"));
  EXPECT_THAT(message_for(one_tensor({1025}, 0)), HasSubstr("needs 4100 bytes at offset 0"));
  EXPECT_THAT(message_for(B().header(1, 0).tensor("t", {1}, 0, 0).bytes()),
              HasSubstr("the data section has 0 bytes"));
}

TEST(Gguf, RefusesOverlapAndTwoOfAName) {
  const auto two = [](const char* name, std::uint64_t first, std::uint64_t second) {
    B b;
    b.header(2, 0).tensor("t", {16}, 0, first).tensor(name, {16}, 0, second);
    return b.pad().zeros(256).bytes();
  };
  EXPECT_THAT(message_for(two("u", 0, 32)), HasSubstr("data of tensors \"t\" and \"u\" overlap"));
  EXPECT_THAT(message_for(two("u", 32, 0)), HasSubstr("overlap"));
  EXPECT_THAT(message_for(two("u", 64, 64)), HasSubstr("overlap"));
  EXPECT_THAT(message_for(two("t", 0, 64)), HasSubstr("tensor \"t\" appears twice"));
  const Exact fine(two("u", 64, 0));
  EXPECT_EQ(parse_gguf(fine.bytes(), "f").tensors.size(), 2u);
}

TEST(Gguf, DoesNotBelieveTheSizeOfASparseFile) {
  constexpr std::uint64_t kClaimed = std::uint64_t{1} << 33;
  const ScratchFolder folder;
  const auto path = folder.write(
      "big.gguf", B().header(0, 1).key("k", B::array).array_of(B::u8, kClaimed).bytes());
  std::filesystem::resize_file(path, 2 * kClaimed);
  EXPECT_THAT(expect_error(ErrorCode::bad_file, [&] { GgufFile file(path); }),
              HasSubstr("8589934592 array elements cannot fit"));
  std::filesystem::remove(path);
  folder.write("big.gguf", B().header(0, 1).key("k", B::str).put(kClaimed).bytes());
  std::filesystem::resize_file(path, 2 * kClaimed);
  EXPECT_THAT(expect_error(ErrorCode::bad_file, [&] { GgufFile file(path); }),
              HasSubstr("before the first GiB, which holds all metadata, ends"));
}

// Small entries must not grow: parsed metadata stays below twice the file and a few MiB.
void expect_small_heap(const std::string& file) {
  constexpr std::size_t kSlack = 8u << 20;
  const auto bytes = std::as_bytes(std::span(file));
  const HeapUse heap;
  std::size_t n_read = 0;
  {
    const GgufContents contents = parse_gguf(bytes, "f");
    n_read = contents.metadata.entries.size() + contents.tensors.size();
    EXPECT_LE(heap.peak(), 2 * file.size() + kSlack) << "for a file of " << file.size();
  }
  EXPECT_GT(n_read, 0u);
}

TEST(Gguf, MemoryIsBoundedForArrays) {
  constexpr std::size_t kArrayBytes = 12u << 20;
  for (std::uint32_t type = 0; type <= 12; ++type) {
    if (type == B::array) continue;
    const std::size_t bytes_each[] = {1, 1, 2, 2, 4, 4, 4, 1, 8, 0, 8, 8, 8};
    B b;
    b.header(0, 1).key("k", B::array).array_of(type, kArrayBytes / bytes_each[type]);
    expect_small_heap(b.zeros(kArrayBytes).bytes());
  }
}

TEST(Gguf, MemoryIsBoundedForKeys) {
  B b;
  b.header(0, kMaxGgufKeys);
  for (std::uint64_t i = 0; i < kMaxGgufKeys; ++i)
    b.key(std::to_string(i), B::u8).put(std::uint8_t{0});
  expect_small_heap(b.bytes());
}

TEST(Gguf, MemoryIsBoundedForTensors) {
  B b;
  b.header(kMaxGgufTensors, 1).key("general.alignment", B::u32).put(8u);
  for (std::uint64_t i = 0; i < kMaxGgufTensors; ++i) b.tensor(std::to_string(i), {1}, 24, i * 8);
  expect_small_heap(b.pad().zeros(kMaxGgufTensors * 8).bytes());
}

}  // namespace
}  // namespace tenfold
