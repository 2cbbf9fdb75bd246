#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <limits>

#include "runtime/files/gguf.h"
#include "tests/support/expect_error.h"
#include "tests/support/gguf_builder.h"
#include "tests/support/scratch_folder.h"

namespace tenfold {
namespace {

using testing::expect_error;
using ::testing::HasSubstr;
using testing::read_file;
using testing::ScratchFolder;

template <typename T>
void set_limits(GgufMetadata& metadata, const std::string& name) {
  using Limits = std::numeric_limits<T>;
  metadata.set(name + ".min", Limits::lowest());
  metadata.set(name + ".max", Limits::max());
  metadata.set(name + ".array", std::vector<T>{Limits::lowest(), T{0}, Limits::max()});
  metadata.set(name + ".empty", std::vector<T>{});
}

GgufMetadata every_value_type() {
  GgufMetadata metadata;
  set_limits<std::uint8_t>(metadata, "u8");
  set_limits<std::int8_t>(metadata, "i8");
  set_limits<std::uint16_t>(metadata, "u16");
  set_limits<std::int16_t>(metadata, "i16");
  set_limits<std::uint32_t>(metadata, "u32");
  set_limits<std::int32_t>(metadata, "i32");
  set_limits<std::uint64_t>(metadata, "u64");
  set_limits<std::int64_t>(metadata, "i64");
  set_limits<float>(metadata, "f32");
  set_limits<double>(metadata, "f64");
  set_limits<bool>(metadata, "bool");
  metadata.set("string", std::string("text with a \0 byte", 18));
  metadata.set("string.empty", std::string());
  metadata.set("strings", std::vector<std::string>{"", "a", std::string(5000, 'b'), ""});
  metadata.set("strings.empty", std::vector<std::string>{});
  return metadata;
}

std::vector<std::byte> pattern(std::size_t n, int seed) {
  std::vector<std::byte> bytes(n);
  for (std::size_t i = 0; i < n; ++i)
    bytes[i] = static_cast<std::byte>((i * 7 + static_cast<std::size_t>(seed)) & 255u);
  return bytes;
}

const std::vector<GgufTensorDecl> kDecls = {{"a", {3, 5}, DType::f32},
                                            {"b", {2, 3, 2, 64}, DType::q4_1},
                                            {"c", {7}, DType::i8},
                                            {"d", {1, 256}, DType::q6_k}};
constexpr std::size_t kSizes[] = {60, 480, 7, 210};

void write_all(const std::filesystem::path& path, const GgufMetadata& metadata,
               std::size_t max_piece) {
  GgufWriter writer(path, true, metadata, kDecls);
  for (std::size_t i = 0; i < kDecls.size(); ++i) {
    const auto data = pattern(kSizes[i], static_cast<int>(i));
    for (std::size_t at = 0; at < data.size(); at += max_piece)
      writer.write(std::span(data).subspan(at, std::min(max_piece, data.size() - at)));
  }
  writer.finish();
}

TEST(GgufWriter, RoundTripsEveryValueTypeAndTensor) {
  const ScratchFolder folder;
  const GgufMetadata metadata = every_value_type();
  write_all(folder / "out.gguf", metadata, 100);
  const GgufFile file(folder / "out.gguf");

  ASSERT_EQ(file.metadata().entries.size(), metadata.entries.size() + 1);
  for (std::size_t i = 0; i < metadata.entries.size(); ++i)
    EXPECT_TRUE(file.metadata().entries[i] == metadata.entries[i]) << metadata.entries[i].first;
  EXPECT_EQ(std::get<std::uint32_t>(*file.metadata().find("general.alignment")), 64u);

  ASSERT_EQ(file.tensors().size(), kDecls.size());
  for (std::size_t i = 0; i < kDecls.size(); ++i) {
    const TensorSource& tensor = file.tensors()[i];
    EXPECT_EQ(tensor.name, kDecls[i].name);
    EXPECT_EQ(tensor.shape, kDecls[i].shape);
    EXPECT_EQ(tensor.dtype, kDecls[i].dtype);
    const auto expected = pattern(kSizes[i], static_cast<int>(i));
    EXPECT_TRUE(std::ranges::equal(tensor.data, expected)) << tensor.name;
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(tensor.data.data()) % 64, 0u);
  }
  EXPECT_EQ(file.file_bytes() % 64, 0u);
}

TEST(GgufWriter, BytesDependOnNothingElse) {
  const ScratchFolder folder;
  write_all(folder / "1", every_value_type(), 1);
  write_all(folder / "2", every_value_type(), 1000);
  EXPECT_TRUE(read_file(folder / "1") == read_file(folder / "2"));
  EXPECT_EQ(read_file(folder / "1").substr(0, 8), std::string("GGUF\3\0\0\0", 8));
}

TEST(GgufWriter, RewritesAFileByteForByte) {
  const ScratchFolder folder;
  write_all(folder / "1", every_value_type(), 1000);
  const GgufFile file(folder / "1");
  std::vector<GgufTensorDecl> decls;
  for (const TensorSource& t : file.tensors()) decls.push_back({t.name, t.shape, t.dtype});
  GgufWriter writer(folder / "2", false, file.metadata(), decls);
  for (const TensorSource& t : file.tensors()) writer.write(t.data);
  writer.finish();
  EXPECT_TRUE(read_file(folder / "1") == read_file(folder / "2"));
}

TEST(GgufWriter, UsesTheStatedAlignment) {
  const ScratchFolder folder;
  GgufMetadata metadata;
  metadata.set("general.alignment", std::int64_t{4096});
  write_all(folder / "out", metadata, 1000);
  const GgufFile file(folder / "out");
  EXPECT_EQ(std::get<std::uint32_t>(*file.metadata().find("general.alignment")), 4096u);
  EXPECT_EQ(file.file_bytes(), 5u * 4096u);
}

TEST(GgufWriter, RefusesWhatTheReaderWould) {
  const ScratchFolder folder;
  const auto message = [&](const GgufMetadata& metadata, std::vector<GgufTensorDecl> decls) {
    return expect_error(ErrorCode::bad_file,
                        [&] { GgufWriter(folder / "out", false, metadata, std::move(decls)); });
  };
  EXPECT_THAT(message({}, {{"t", {}, DType::f32}}), HasSubstr("0 dimensions"));
  EXPECT_THAT(message({}, {{"t", {1, 1, 1, 1, 1}, DType::f32}}), HasSubstr("5 dimensions"));
  EXPECT_THAT(message({}, {{"t", {0, 4}, DType::f32}}), HasSubstr("extent of 0"));
  EXPECT_THAT(message({}, {{"t", {-1}, DType::f32}}), HasSubstr("extent of -1"));
  EXPECT_THAT(message({}, {{"t", {40}, DType::q8_0}}), HasSubstr("multiple of 32"));
  EXPECT_THAT(message({}, {{"t", {std::int64_t{1} << 61, 4}, DType::f32}}), HasSubstr("overflow"));
  EXPECT_THAT(message({}, {{"t", {1}, DType::f32}, {"t", {1}, DType::f32}}), HasSubstr("twice"));
  EXPECT_THAT(message({}, {{"", {1}, DType::f32}}), HasSubstr("empty name"));
  GgufMetadata metadata;
  metadata.set("general.alignment", 48u);
  EXPECT_THAT(message(metadata, {}), HasSubstr("general.alignment is 48"));
  GgufMetadata twice;
  twice.entries = {{"k", true}, {"k", false}};
  EXPECT_THAT(message(twice, {}), HasSubstr("key \"k\" is to be written twice"));
  EXPECT_EQ(folder.n_entries(), 0u);
}

TEST(GgufWriter, CountsTheBytesOfEachTensor) {
  const ScratchFolder folder;
  const auto data = pattern(100, 0);
  {
    GgufWriter writer(folder / "out", false, {}, {{"a", {4}, DType::f32}, {"b", {4}, DType::f32}});
    writer.write(std::span(data).first(10));
    EXPECT_THAT(expect_error(ErrorCode::bad_file, [&] { writer.finish(); }),
                HasSubstr("tensor \"a\": 10 of 16 bytes were written"));
    EXPECT_THAT(expect_error(ErrorCode::bad_file, [&] { writer.write(std::span(data).first(7)); }),
                HasSubstr("tensor \"a\": 7 bytes to write, but 6 of its 16 are left"));
    writer.write(std::span(data).first(6));
    EXPECT_THAT(expect_error(ErrorCode::bad_file, [&] { writer.finish(); }), HasSubstr("\"b\": 0"));
    writer.write(std::span(data).first(16));
    EXPECT_THAT(expect_error(ErrorCode::bad_file, [&] { writer.write(std::span(data).first(1)); }),
                HasSubstr("after the last tensor"));
  }
  EXPECT_EQ(folder.n_entries(), 0u);
}

}  // namespace
}  // namespace tenfold
