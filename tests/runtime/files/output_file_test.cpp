#include "runtime/files/output_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

#include "tests/support/expect_error.h"
#include "tests/support/scratch_folder.h"

namespace tenfold {
namespace {

using testing::expect_error;
using ::testing::HasSubstr;
using testing::read_file;
using testing::ScratchFolder;

// Files of this process cannot grow beyond `bytes`, as on a full disk.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) : old_handler_(std::signal(SIGXFSZ, SIG_IGN)) {
    ::getrlimit(RLIMIT_FSIZE, &old_limit_);
    const rlimit limit{bytes, old_limit_.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  FileSizeLimit(const FileSizeLimit&) = delete;
  FileSizeLimit& operator=(const FileSizeLimit&) = delete;
  ~FileSizeLimit() {
    ::setrlimit(RLIMIT_FSIZE, &old_limit_);
    std::signal(SIGXFSZ, old_handler_);
  }

 private:
  rlimit old_limit_{};
  void (*old_handler_)(int);
};

TEST(OutputFile, AppearsOnlyOnCommit) {
  const ScratchFolder folder;
  OutputFile file(folder / "out", false);
  file.write("hello ");
  file.write("world");
  EXPECT_EQ(file.position(), 11u);
  EXPECT_FALSE(std::filesystem::exists(folder / "out"));
  file.commit();
  EXPECT_EQ(read_file(folder / "out"), "hello world");
  EXPECT_EQ(folder.n_entries(), 1u);
}

TEST(OutputFile, ContentSurvivesAnyMixOfWriteSizes) {
  const ScratchFolder folder;
  std::string expected;
  {
    OutputFile file(folder / "out", false);
    for (const std::size_t size : {1, 1 << 20, 5, (1 << 20) - 5, 3 << 20, 0, 7, (1 << 20) + 1}) {
      const std::string part(size, static_cast<char>('a' + expected.size() % 26));
      file.write(part);
      expected += part;
      EXPECT_EQ(file.position(), expected.size());
    }
    file.commit();
  }
  EXPECT_TRUE(read_file(folder / "out") == expected);
}

TEST(OutputFile, LeavesNothingBehindWithoutCommit) {
  const ScratchFolder folder;
  {
    OutputFile file(folder / "out", false);
    file.write(std::string(3 << 20, 'x'));
    EXPECT_EQ(folder.n_entries(), 1u);
  }
  EXPECT_EQ(folder.n_entries(), 0u);
}

TEST(OutputFile, SpaceIsThatOfItsFileSystem) {
  const ScratchFolder folder;
  check_space(folder / "out", 1);
  check_space(folder / "missing/out", 1);  // opening it says what is wrong
  const std::string said =
      expect_error(ErrorCode::io, [&] { check_space(folder / "out", std::uint64_t{1} << 62); });
  EXPECT_THAT(said, HasSubstr("out: needs 4398046511104 MiB of disk, and only "));
}

TEST(OutputFile, ReplacesOnlyWhenAsked) {
  const ScratchFolder folder;
  folder.write("out", "old");
  const std::string message =
      expect_error(ErrorCode::io, [&] { OutputFile file(folder / "out", false); });
  EXPECT_EQ(message, (folder / "out").string() + ": exists already; use --force to replace it");
  {
    OutputFile file(folder / "out", true);
    file.write("new");
    EXPECT_EQ(read_file(folder / "out"), "old");
    file.commit();
  }
  EXPECT_EQ(read_file(folder / "out"), "new");
  EXPECT_EQ(folder.n_entries(), 1u);
}

TEST(OutputFile, DoesNotReplaceAFileThatAppearedMeanwhile) {
  const ScratchFolder folder;
  {
    OutputFile file(folder / "out", false);
    file.write("ours");
    folder.write("out", "theirs");
    EXPECT_THAT(expect_error(ErrorCode::io, [&] { file.commit(); }), HasSubstr("exists already"));
  }
  EXPECT_EQ(read_file(folder / "out"), "theirs");
  EXPECT_EQ(folder.n_entries(), 1u);
}

TEST(OutputFile, TwoWritersOfOneNameDoNotMix) {
  const ScratchFolder folder;
  OutputFile first(folder / "out", true), second(folder / "out", true);
  first.write("first");
  second.write("second");
  first.commit();
  EXPECT_EQ(read_file(folder / "out"), "first");
  second.commit();
  EXPECT_EQ(read_file(folder / "out"), "second");
}

TEST(OutputFile, RemovesWhatAKilledProcessLeft) {
  const ScratchFolder folder;
  const pid_t child = ::fork();
  if (child == 0) {
    OutputFile file(folder / "out", false);
    ::raise(SIGKILL);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status));
  EXPECT_EQ(folder.n_entries(), 1u);
  OutputFile other(folder / "ou", false);
  EXPECT_EQ(folder.n_entries(), 2u);
  folder.write("out.tmp-backup", "somebody's");
  OutputFile again(folder / "out", false);
  EXPECT_EQ(folder.n_entries(), 3u);
  EXPECT_TRUE(std::filesystem::exists(folder / "out.tmp-backup"));
}

TEST(OutputFile, RefusesTargetsThatAreNoFile) {
  const ScratchFolder folder;
  const auto message = [&](const std::filesystem::path& path) {
    return expect_error(ErrorCode::io, [&] { OutputFile file(path, true); });
  };
  EXPECT_THAT(message(folder.path()), HasSubstr("is a folder"));
  EXPECT_THAT(message("/dev/null"), HasSubstr("is not a regular file"));
  EXPECT_EQ(message(folder / "absent/out"),
            (folder / "absent/out").string() + ": cannot be created: No such file or directory");
  EXPECT_EQ(folder.n_entries(), 0u);
}

TEST(OutputFile, NewFilesFollowTheUmask) {
  const ScratchFolder folder;
  const mode_t old_mask = ::umask(027);
  OutputFile file(folder / "out", false);
  ::umask(old_mask);
  file.commit();
  struct stat info {};
  ASSERT_EQ(::stat((folder / "out").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777u, 0640u);
}

TEST(OutputFile, SaysWhyALargeWriteFailedAndRemovesTheRest) {
  const ScratchFolder folder;
  folder.write("out", "old");
  const FileSizeLimit limit(64 << 10);
  std::string message;
  {
    OutputFile file(folder / "out", true);
    message = expect_error(ErrorCode::io, [&] { file.write(std::string(4 << 20, 'x')); });
  }
  EXPECT_EQ(message, (folder / "out").string() + ": cannot be written: File too large");
  EXPECT_EQ(read_file(folder / "out"), "old");
  EXPECT_EQ(folder.n_entries(), 1u);
}

TEST(OutputFile, SaysWhyCommitFailedAndRemovesTheRest) {
  const ScratchFolder folder;
  const FileSizeLimit limit(64 << 10);
  {
    OutputFile file(folder / "out", false);
    file.write(std::string(100 << 10, 'x'));  // buffered: the failure shows in commit
    EXPECT_THAT(expect_error(ErrorCode::io, [&] { file.commit(); }), HasSubstr("File too large"));
  }
  EXPECT_EQ(folder.n_entries(), 0u);
}

// In a child process: mounts a tmpfs of 64 KiB on `folder` in a namespace of its own and fills it.
// Writes the message to `out`; exit status 0, or 77 where mounting is not allowed.
[[noreturn]] void fill_tiny_disk(const std::filesystem::path& folder, int out) {
  const auto mount_tiny = [&] {
    return ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
           ::mount("none", folder.c_str(), "tmpfs", 0, "size=64k") == 0;
  };
  if (::unshare(CLONE_NEWNS) != 0 && ::unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) ::_exit(77);
  if (!mount_tiny()) ::_exit(77);
  std::string message = "no Error";
  try {
    OutputFile file(folder / "out", false);
    file.write(std::string(1 << 20, 'x'));
    file.commit();
  } catch (const Error& error) {
    message = error.what();
  }
  if (!std::filesystem::is_empty(folder)) message += " but a file was left";
  const ssize_t n = ::write(out, message.data(), message.size());
  ::_exit(n == static_cast<ssize_t>(message.size()) ? 0 : 1);
}

TEST(OutputFile, SaysWhenTheDiskIsFull) {
  const ScratchFolder folder;
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  const pid_t child = ::fork();
  if (child == 0) fill_tiny_disk(folder.path(), ends[1]);
  ::close(ends[1]);
  char text[1024];
  const ssize_t n = ::read(ends[0], text, sizeof text);
  ::close(ends[0]);
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status));
  if (WEXITSTATUS(status) == 77) GTEST_SKIP() << "MOUNTING A TINY DISK IS NOT ALLOWED HERE";
  ASSERT_EQ(WEXITSTATUS(status), 0);
  ASSERT_GT(n, 0);
  EXPECT_EQ(std::string(text, static_cast<std::size_t>(n)),
            (folder / "out").string() + ": cannot be written: No space left on device");
}

}  // namespace
}  // namespace tenfold
