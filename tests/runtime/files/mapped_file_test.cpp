#include "runtime/files/mapped_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <string_view>
#include <utility>

#include "tests/support/expect_error.h"
#include "tests/support/scratch_folder.h"

namespace tenfold {
namespace {

using testing::expect_error;
using ::testing::HasSubstr;
using testing::ScratchFolder;
using ::testing::StartsWith;

std::string_view text_of(const MappedFile& file) {
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

std::string message_for(const std::filesystem::path& path) {
  const std::string message = expect_error(ErrorCode::bad_file, [&] { MappedFile file(path); });
  EXPECT_THAT(message, StartsWith(path.string() + ": "));
  return message;
}

TEST(MappedFile, HoldsTheWholeFile) {
  const ScratchFolder folder;
  const MappedFile file(folder.write("f", "some bytes"));
  EXPECT_EQ(text_of(file), "some bytes");
  EXPECT_EQ(file.path(), (folder / "f").string());
}

TEST(MappedFile, MovesItsMapping) {
  const ScratchFolder folder;
  MappedFile first(folder.write("1", "first"));
  MappedFile second(folder.write("2", "second"));
  MappedFile moved(std::move(first));
  EXPECT_EQ(text_of(moved), "first");
  moved = std::move(second);
  EXPECT_EQ(text_of(moved), "second");
  EXPECT_EQ(moved.path(), (folder / "2").string());
}

TEST(MappedFile, RefusesWhatIsNoReadableFile) {
  const ScratchFolder folder;
  EXPECT_THAT(message_for(folder / "absent"), HasSubstr("No such file or directory"));
  EXPECT_THAT(message_for(folder.write("empty", "")), HasSubstr("is empty"));
  EXPECT_THAT(message_for(folder.path()), HasSubstr("is a folder"));
  ASSERT_EQ(::mkfifo((folder / "pipe").c_str(), 0600), 0);
  EXPECT_THAT(message_for(folder / "pipe"), HasSubstr("is not a regular file"));
  EXPECT_THAT(message_for("/dev/null"), HasSubstr("is not a regular file"));
}

}  // namespace
}  // namespace tenfold
