#include "runtime/files/zip_archive.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/expect_error.h"
#include "tests/support/heap_use.h"
#include "tests/support/hostile_file.h"
#include "tests/support/zip_builder.h"

namespace tenfold {
namespace {

using ::testing::AnyOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;
using namespace tenfold::testing;

ZipArchive open(std::string_view file) {
  return {as_bytes(file), "m.zip", std::pmr::new_delete_resource()};
}

std::string text_of(const ZipArchive& archive, std::string_view name) {
  const auto data = archive.find(name);
  if (!data) return "(absent)";
  return {reinterpret_cast<const char*>(data->data()), data->size()};
}

std::string refusal(std::string_view file, ErrorCode code = ErrorCode::bad_file) {
  std::vector<std::byte> exact(as_bytes(file).begin(), as_bytes(file).end());
  const std::string message =
      expect_error(code, [&] { ZipArchive(exact, "m.zip", std::pmr::new_delete_resource()); });
  EXPECT_THAT(message, StartsWith("m.zip: "));
  return message;
}

ZipBuilder two_entries() {
  return {.entries = {{.name = "m/z", .data = "first"}, {.name = "m/a", .data = "second!"}}};
}

TEST(ZipArchive, ReadsStoredEntriesWithAndWithoutZip64) {
  for (const bool zip64 : {false, true}) {
    for (const bool sizes_follow : {false, true}) {
      ZipBuilder builder = two_entries();
      builder.zip64 = zip64;
      for (auto& entry : builder.entries) entry.sizes_follow = sizes_follow;
      const std::string file = builder.build();
      const ZipArchive archive = open(file);
      EXPECT_EQ(archive.entries().size(), 2u);
      EXPECT_EQ(archive.first_name(), "m/z");
      EXPECT_EQ(text_of(archive, "m/z"), "first");
      EXPECT_EQ(text_of(archive, "m/a"), "second!");
      EXPECT_EQ(text_of(archive, "m/b"), "(absent)");
    }
  }
}

TEST(ZipArchive, ReadsEmptyArchiveAndComment) {
  const std::string empty = ZipBuilder{}.build();
  EXPECT_TRUE(open(empty).entries().empty());
  ZipBuilder builder = two_entries();
  builder.comment = "a comment";
  const std::string file = builder.build();
  EXPECT_EQ(text_of(open(file), "m/z"), "first");
}

TEST(ZipArchive, RefusesCompressedAndEncryptedEntriesByName) {
  ZipBuilder builder = two_entries();
  builder.entries[1].method = 8;
  EXPECT_THAT(refusal(builder.build(), ErrorCode::unsupported),
              HasSubstr("entry \"m/a\" is compressed (method 8)"));
  builder = two_entries();
  builder.entries[0].flags = 1;
  EXPECT_THAT(refusal(builder.build(), ErrorCode::unsupported),
              HasSubstr("entry \"m/z\" is encrypted"));
}

TEST(ZipArchive, RefusesInconsistentDirectories) {
  ZipBuilder builder = two_entries();
  builder.entries[1].name = builder.entries[1].local_name = "m/z";
  EXPECT_THAT(refusal(builder.build()), HasSubstr("entry \"m/z\" is there twice"));
  builder = two_entries();
  builder.entries[1].local_name = "m/b";
  EXPECT_THAT(refusal(builder.build()), HasSubstr("\"m/a\": its local header at byte 43"));
  for (const bool zip64 : {false, true}) {
    builder = two_entries();
    builder.zip64 = zip64;
    builder.extra_count = 1;
    EXPECT_THAT(refusal(builder.build()),
                AnyOf(HasSubstr("truncated"), HasSubstr("3 entries do not fit")));
    builder.extra_count = 60'000;
    EXPECT_THAT(refusal(builder.build()), HasSubstr("60002 entries do not fit in its"));
    builder.extra_count = 0;
    builder.offset_error = 1;
    EXPECT_THAT(refusal(builder.build()), HasSubstr("its local header at byte 1 says otherwise"));
    builder.offset_error = 5000;
    EXPECT_THAT(refusal(builder.build()), HasSubstr("local header at byte 5000, expected at most"));
    builder.offset_error = 0;
    builder.size_error = 1;
    EXPECT_THAT(refusal(builder.build()), HasSubstr("says otherwise"));
    for (auto& entry : builder.entries) entry.sizes_follow = true;
    builder.size_error = 1000;
    EXPECT_THAT(refusal(builder.build()), HasSubstr("zip entry data at byte"));
  }
}

TEST(ZipArchive, RefusesHugeZip64Fields) {
  ZipBuilder builder = two_entries();
  builder.zip64 = true;
  builder.offset_error = ~std::uint64_t{0} - 10;
  EXPECT_THAT(refusal(builder.build()), HasSubstr("expected at most"));
  builder.offset_error = 0;
  builder.extra_count = ~std::uint64_t{0} - 10;
  EXPECT_THAT(refusal(builder.build()), HasSubstr("entries do not fit"));
  builder = two_entries();
  builder.zip64 = true;
  for (auto& entry : builder.entries) entry.sizes_follow = true;
  builder.size_error = ~std::uint64_t{0} - 10;
  EXPECT_THAT(refusal(builder.build()), HasSubstr("zip entry data at byte"));
}

TEST(ZipArchive, RefusesOtherFiles) {
  EXPECT_THAT(refusal("PK"), HasSubstr("no zip directory"));
  EXPECT_THAT(refusal(std::string(100'000, 'x')), HasSubstr("not a zip archive"));
}

std::vector<TensorSource> data_as_tensors(std::span<const std::byte> file) {
  const ZipArchive archive(file, "m.zip", std::pmr::new_delete_resource());
  std::vector<TensorSource> result;
  for (const ZipEntry& entry : archive.entries()) {
    const auto size = static_cast<std::int64_t>(entry.data.size());
    result.push_back({std::string(entry.name), {size}, DType::i8, entry.data});
  }
  return result;
}

TEST(ZipArchive, RefusesTruncationAtEveryByteAndSurvivesFlips) {
  for (const bool zip64 : {false, true}) {
    ZipBuilder builder = two_entries();
    builder.zip64 = zip64;
    builder.comment = "comment";
    expect_error_at_every_truncation(builder.build(), data_as_tensors);
    expect_error_or_consistency_for_flips(builder.build(), data_as_tensors);
  }
}

TEST(ZipArchive, TakesLessMemoryThanTheFile) {
  ZipBuilder builder;
  for (int i = 0; i < 20'000; ++i) builder.entries.push_back({.name = std::to_string(i)});
  const std::string file = builder.build();
  const HeapUse use;
  const ZipArchive archive = open(file);
  EXPECT_EQ(archive.entries().size(), 20'000u);
  EXPECT_LT(use.peak(), file.size());
}

}  // namespace
}  // namespace tenfold
