// Quantized matrices in the container: there and back, and damage in every part.

#include "runtime/files/packed_matrix.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>

#include "kernels/formats/codec.h"
#include "tests/support/expect_error.h"
#include "tests/support/hostile_file.h"
#include "tests/support/scratch_folder.h"

namespace tenfold {
namespace {

using testing::expect_error;
using ::testing::HasSubstr;
using testing::ScratchFolder;

constexpr std::int64_t kRows = 19;
constexpr std::int64_t kCols = 70;

// 16 columns of q4 zero, 32 of q3 f16, 22 of bf16, with a map and factors.
MatrixView three_bands(const std::vector<std::int32_t>& map, const std::vector<float>& factor) {
  MatrixView layout;
  layout.rows = kRows;
  layout.cols = kCols;
  layout.n_bands = 3;
  layout.bands[0] = {Format::q4, MinKind::zero, 0, 16, 16};
  layout.bands[1] = {Format::q3, MinKind::f16, 16, 48, 32};
  layout.bands[2] = {Format::bf16, MinKind::zero, 48, 70, 0};
  layout.map = {map.data(), factor.data()};
  return layout;
}

struct Fixture {
  std::vector<std::int32_t> map;
  std::vector<float> factor;
  QuantizedMatrix matrix;

  Fixture() : map(kCols), factor(kCols, 0.5f) {
    for (std::int64_t c = 0; c < kCols; ++c) {
      map[static_cast<std::size_t>(c)] = static_cast<std::int32_t>(kCols - 1 - c);
    }
    matrix = allocate_matrix(three_bands(map, factor));
    std::mt19937 rng(5);
    for (const auto& part : parts(matrix.view)) {
      const bool is_map = part.size() == kCols * 4;
      for (std::size_t i = 0; i < part.size() && !is_map; ++i) {
        writable(matrix, part.data())[i] = static_cast<std::byte>(rng() & 0x3b);
      }
    }
  }
};

struct FileParts {
  GgufMetadata metadata;
  std::vector<GgufTensorDecl> decls;
  std::vector<std::vector<std::byte>> data;
};

FileParts good_file() {
  const Fixture fixture;
  FileParts file;
  file.metadata.set(std::string(kFormatVersionKey), kFormatVersion);
  file.metadata.set(std::string(kBandsPrefix) + "w", describe_bands(fixture.matrix.view));
  file.decls = declare_parts("w", fixture.matrix.view);
  for (const auto& part : parts(fixture.matrix.view)) {
    file.data.emplace_back(part.begin(), part.end());
  }
  return file;
}

std::string bytes_of(const FileParts& file) {
  const ScratchFolder folder;
  GgufWriter writer(folder / "m.gguf", true, file.metadata, file.decls);
  for (const auto& part : file.data) writer.write(part);
  writer.finish();
  return testing::read_file(folder / "m.gguf");
}

// Reads a file in memory of exactly its size, aligned as a mapping is, and every weight of it.
std::vector<TensorSource> read_all(std::span<const std::byte> bytes) {
  void* memory = nullptr;
  if (::posix_memalign(&memory, 4096, std::max<std::size_t>(bytes.size(), 1)) != 0) std::abort();
  const std::unique_ptr<void, decltype(&std::free)> owner(memory, &std::free);
  std::copy(bytes.begin(), bytes.end(), static_cast<std::byte*>(memory));
  const auto contents = parse_gguf({static_cast<const std::byte*>(memory), bytes.size()}, "m.gguf");
  for (const StoredMatrix& matrix : read_packed_matrices(contents.metadata, contents.tensors)) {
    std::vector<float> row(static_cast<std::size_t>(matrix.view.cols));
    for (std::int64_t r = 0; r < matrix.view.rows; ++r) {
      dequantize_row(matrix.view, r, row.data());
    }
  }
  return {};
}

std::string error_of(const FileParts& file, ErrorCode code = ErrorCode::bad_file) {
  const std::string bytes = bytes_of(file);
  return expect_error(code, [&] { read_all(testing::as_bytes(bytes)); });
}

TEST(PackedMatrix, RoundTrips) {
  const Fixture fixture;
  const std::string bytes = bytes_of(good_file());
  const ScratchFolder folder;
  folder.write("m.gguf", bytes);
  const GgufFile file(folder / "m.gguf");
  const auto matrices = read_packed_matrices(file.metadata(), file.tensors());
  ASSERT_EQ(matrices.size(), 1u);
  EXPECT_EQ(matrices[0].name, "w");
  const MatrixView& view = matrices[0].view;
  EXPECT_TRUE(same_layout(view, fixture.matrix.view));
  EXPECT_EQ(view.bytes(), fixture.matrix.view.bytes());
  const auto read = parts(view);
  const auto written = parts(fixture.matrix.view);
  ASSERT_EQ(read.size(), written.size());
  for (std::size_t i = 0; i < read.size(); ++i) {
    ASSERT_EQ(read[i].size(), written[i].size());
    EXPECT_EQ(std::memcmp(read[i].data(), written[i].data(), read[i].size()), 0) << i;
  }
  EXPECT_EQ(layout_text(view), "q4 row zero + q3 g32 f16 + bf16");
}

// Two bands of ascending columns: a bit a column instead of 32.
TEST(PackedMatrix, StoresWhichBandAColumnIsIn) {
  std::vector<std::int32_t> map;
  for (std::int32_t c = 0; c < kCols; ++c) {
    if (c % 4 == 1 && c < 64) map.push_back(c);
  }
  for (std::int32_t c = 0; c < kCols; ++c) {
    if (!(c % 4 == 1 && c < 64)) map.push_back(c);
  }
  MatrixView layout;
  layout.rows = kRows;
  layout.cols = kCols;
  layout.n_bands = 2;
  layout.bands[0] = {Format::q4, MinKind::zero, 0, 16, 16};
  layout.bands[1] = {Format::q1, MinKind::f16, 16, kCols, kCols - 16};
  layout.map.source = map.data();
  const std::size_t with_map = layout.bytes();
  EXPECT_EQ(format_version(layout), 1u);
  const std::vector<std::byte> mask = column_mask(layout);
  ASSERT_EQ(mask.size(), static_cast<std::size_t>(mask_bytes(kCols)));
  layout.map.mask = mask.data();
  EXPECT_EQ(layout.bytes(), with_map - kCols * 4 + mask.size());
  EXPECT_EQ(format_version(layout), 2u);

  const QuantizedMatrix matrix = allocate_matrix(layout);
  EXPECT_NE(matrix.view.map.mask, mask.data()) << "the matrix must own its mask";
  FileParts file;
  file.metadata.set(std::string(kFormatVersionKey), format_version(layout));
  file.metadata.set(std::string(kBandsPrefix) + "w", describe_bands(layout));
  file.decls = declare_parts("w", matrix.view);
  for (const auto& part : parts(matrix.view)) file.data.emplace_back(part.begin(), part.end());
  ASSERT_EQ(file.decls.back().name, "w.mask");

  const std::string bytes = bytes_of(file);
  const ScratchFolder folder;
  folder.write("m.gguf", bytes);
  const GgufFile read(folder / "m.gguf");
  const auto matrices = read_packed_matrices(read.metadata(), read.tensors());
  ASSERT_EQ(matrices.size(), 1u);
  EXPECT_TRUE(same_layout(matrices[0].view, layout));
  EXPECT_TRUE(std::equal(map.begin(), map.end(), matrices[0].view.map.source));
  EXPECT_EQ(matrices[0].view.bytes(), layout.bytes());

  FileParts bad = file;
  bad.data.back()[0] ^= std::byte{2};
  EXPECT_THAT(error_of(bad), HasSubstr("\"w.mask\": does not mark 16 columns for the first band"));
  bad = file;
  bad.data.back()[0] ^= std::byte{1};
  EXPECT_THAT(error_of(bad), HasSubstr("does not mark 16"));
  bad = file;
  bad.decls.back().shape = {2};
  bad.data.back().resize(2);
  EXPECT_THAT(error_of(bad), HasSubstr("2 bytes, expected 9"));

  bad = file;
  bad.decls.push_back({"w.map", {kCols}, DType::i32});
  bad.data.emplace_back(static_cast<std::size_t>(kCols) * 4);
  EXPECT_THAT(error_of(bad), HasSubstr("both a map and a mask"));
  bad = file;
  const std::string key = std::string(kBandsPrefix) + "w";
  MatrixView one = layout;
  one.n_bands = 1;
  one.bands[0] = {Format::q4, MinKind::zero, 0, kCols, kCols};
  bad.metadata.set(key, describe_bands(one));
  for (GgufTensorDecl& decl : bad.decls) decl.name.replace(0, 1, "x");
  bad.decls.back().name = "w.mask";
  one.map = {};
  const QuantizedMatrix whole = allocate_matrix(one);
  for (GgufTensorDecl& decl : declare_parts("w", one)) bad.decls.push_back(std::move(decl));
  for (const auto& part : parts(whole.view)) bad.data.emplace_back(part.begin(), part.end());
  EXPECT_THAT(error_of(bad), HasSubstr("its matrix has 1 bands, expected 2"));

  std::swap(map[0], map[1]);  // no longer what a mask can say
  EXPECT_TRUE(column_mask(layout).empty());
}

// Every packed format, min kind and group is described and placed as packed_layout says.
TEST(PackedMatrix, SizesAgreeWithTheLayout) {
  for (const Format format : {Format::q1, Format::q2, Format::q3, Format::q4, Format::q8}) {
    for (const MinKind kind : {MinKind::zero, MinKind::midrise, MinKind::f16}) {
      for (const std::int64_t group : {32, 64, 128, 200}) {
        MatrixView layout;
        layout.rows = 33;
        layout.cols = 200;
        layout.n_bands = 1;
        layout.bands[0] = {format, kind, 0, 200, group};
        const QuantizedMatrix matrix = allocate_matrix(layout);
        const auto decls = declare_parts("w", layout);
        const auto data = parts(matrix.view);
        ASSERT_EQ(decls.size(), data.size());
        std::size_t total = 0;
        for (std::size_t i = 0; i < decls.size(); ++i) {
          EXPECT_EQ(static_cast<std::size_t>(decls[i].shape[0] * decls[i].shape[1]),
                    data[i].size());
          EXPECT_EQ(reinterpret_cast<std::uintptr_t>(data[i].data()) % kPartAlignment, 0u);
          total += data[i].size();
        }
        EXPECT_EQ(total, layout.bytes());
        EXPECT_EQ(describe_bands(layout)[4], group == 200 ? 0u : static_cast<std::uint32_t>(group));
      }
    }
  }
}

TEST(PackedMatrix, SurvivesTruncationAndFlips) {
  std::string good = bytes_of(good_file());
  good.resize(good.size() - (64 - kCols * 4 % 64));  // padding after the last tensor is not missed
  testing::expect_error_at_every_truncation(good, read_all);
  testing::expect_error_or_consistency_for_flips(good, read_all);
}

TEST(PackedMatrix, RefusesDescriptionsThatCannotBe) {
  const FileParts good = good_file();
  const std::string key = std::string(kBandsPrefix) + "w";
  const auto numbers = std::get<std::vector<std::uint32_t>>(*good.metadata.find(key));
  const auto error = [&](std::size_t at, std::uint32_t value) {
    FileParts bad = good;
    auto changed = numbers;
    changed.at(at) = value;
    bad.metadata.set(key, changed);
    const std::string message = error_of(bad);
    EXPECT_THAT(message, HasSubstr("m.gguf: "));
    EXPECT_THAT(message, HasSubstr("w"));
    return message;
  };
  constexpr std::uint32_t kHuge = 0xffffffffu;
  EXPECT_THAT(error(0, 0), HasSubstr("shape [0, 70]"));
  EXPECT_THAT(error(0, kHuge), HasSubstr("expected extents from 1 to 16777216"));
  EXPECT_THAT(error(0, 20 * 16), HasSubstr("bytes, expected"));
  EXPECT_THAT(error(1, kHuge), HasSubstr("shape"));
  EXPECT_THAT(error(1, 71), HasSubstr("band 2"));
  EXPECT_THAT(error(2, 8), HasSubstr("format 8"));
  EXPECT_THAT(error(2, kHuge), HasSubstr("not known"));
  EXPECT_THAT(error(2, 7), HasSubstr("w.band0.codes"));
  EXPECT_THAT(error(3, 3), HasSubstr("min kind 3"));
  EXPECT_THAT(error(3, 2), HasSubstr("w.band0.min"));
  EXPECT_THAT(error(4, 48), HasSubstr("groups of 48"));
  EXPECT_THAT(error(5, 16), HasSubstr("expected a start at 0"));
  EXPECT_THAT(error(6, 17), HasSubstr("multiple of 16"));
  EXPECT_THAT(error(6, 0), HasSubstr("columns 0 to 0"));
  EXPECT_THAT(error(11, 96), HasSubstr("before 70"));
  EXPECT_THAT(error(14, 32), HasSubstr("bf16"));
  EXPECT_THAT(error(16, kHuge), HasSubstr("at 70"));
}

TEST(PackedMatrix, RefusesWrongKeysAndParts) {
  const FileParts good = good_file();
  const std::string key = std::string(kBandsPrefix) + "w";
  const auto numbers = std::get<std::vector<std::uint32_t>>(*good.metadata.find(key));
  FileParts bad = good;
  bad.metadata.set(key, std::vector<std::uint32_t>(numbers.begin(), numbers.end() - 1));
  EXPECT_THAT(error_of(bad), HasSubstr("16 numbers"));
  bad.metadata.set(key, std::vector<std::uint32_t>{kRows, kCols});
  EXPECT_THAT(error_of(bad), HasSubstr("2 numbers"));
  bad.metadata.set(key, std::vector<std::int32_t>(17));
  EXPECT_THAT(error_of(bad), HasSubstr("array of uint32"));

  bad = good;
  bad.metadata.set(std::string(kFormatVersionKey), kFormatVersion + 1);
  EXPECT_THAT(error_of(bad, ErrorCode::unsupported), HasSubstr("newer version"));
  bad.metadata.set(std::string(kFormatVersionKey), std::uint32_t{0});
  error_of(bad);
  bad.metadata.entries.erase(bad.metadata.entries.begin());
  EXPECT_THAT(error_of(bad), HasSubstr("missing"));

  bad = good;
  bad.decls[0].name = "w.band9.codes";
  EXPECT_THAT(error_of(bad), HasSubstr("\"w.band0.codes\" is missing"));
  bad = good;
  bad.decls[0].name = "w";
  EXPECT_THAT(error_of(bad), HasSubstr("both"));
  bad = good;
  bad.decls.back().dtype = DType::i32;
  EXPECT_THAT(error_of(bad), HasSubstr("type I32, expected F32"));
  bad = good;
  const std::int32_t outside = kCols;
  std::memcpy(bad.data[bad.data.size() - 2].data() + 4 * 3, &outside, 4);
  EXPECT_THAT(error_of(bad), HasSubstr("entry 3 is 70, expected 0 to 69"));
  bad = good;
  bad.metadata.set("general.alignment", std::uint32_t{8});
  bad.decls.insert(bad.decls.begin(), {"first", {3}, DType::i8});
  bad.data.insert(bad.data.begin(), std::vector<std::byte>(3));
  EXPECT_THAT(error_of(bad), HasSubstr("aligned"));
}

}  // namespace
}  // namespace tenfold
