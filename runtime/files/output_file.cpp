#include "runtime/files/output_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <system_error>

#include "kernels/error.h"

namespace tenfold {
namespace {

// Written in whole pieces of this size: what a file is written in is what the kernel keeps it in,
// and pieces of 2 MiB and more it can map with huge pages.
constexpr std::size_t kBufferBytes = 4u << 20;
constexpr int kMaxAttempts = 100;

[[noreturn]] void fail(const std::string& path, std::string_view what, int error) {
  throw_error(ErrorCode::io, "{}: {}: {}", path, what, std::generic_category().message(error));
}

[[noreturn]] void fail_exists(const std::string& path) {
  throw_error(ErrorCode::io, "{}: exists already; use --force to replace it", path);
}

// The new name survives a power loss only when its folder is synced too. Some file systems cannot
// sync a folder, and one may be writable but not readable: then the rename stands as it is.
void sync_folder_of(const std::string& path) {
  std::filesystem::path folder = std::filesystem::path(path).parent_path();
  if (folder.empty()) folder = ".";
  const int fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return;
  const int error = ::fsync(fd) == 0 ? 0 : errno;
  ::close(fd);
  if (error != 0 && error != EINVAL && error != ENOTSUP && error != EROFS)
    fail(folder.string(), "cannot be synced", error);
}

int rename_without_replacing(const std::string& from, const std::string& to) {
  if (::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_NOREPLACE) == 0) return 0;
  // A file system without the flag: the check in the constructor has to do.
  if (errno != EINVAL && errno != ENOSYS) return -1;
  return ::rename(from.c_str(), to.c_str());
}

std::string temporary_prefix(const std::string& path) { return path + ".tmp-"; }

// "<digits>-<digits>": what follows the prefix in our own names.
bool is_temporary(std::string_view rest) {
  const std::size_t dash = rest.find('-');
  return dash != std::string_view::npos && dash > 0 && dash + 1 < rest.size() &&
         rest.find_first_not_of("0123456789") == dash &&
         rest.find_first_not_of("0123456789", dash + 1) == std::string_view::npos;
}

// What a process that was killed left of this output. Whoever still writes holds a lock.
void remove_leftovers(const std::string& path) {
  const std::filesystem::path prefix = temporary_prefix(path);
  const std::filesystem::path folder = prefix.parent_path();
  std::error_code error;
  std::filesystem::directory_iterator at(folder.empty() ? "." : folder, error);
  for (; !error && at != std::filesystem::directory_iterator(); at.increment(error)) {
    const std::filesystem::path& found = at->path();
    const std::string name = found.filename().string();
    const std::string start = prefix.filename().string();
    if (!name.starts_with(start) || !is_temporary(std::string_view(name).substr(start.size()))) {
      continue;
    }
    const int fd = ::open(found.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) continue;
    if (::flock(fd, LOCK_EX | LOCK_NB) == 0) ::unlink(found.c_str());
    ::close(fd);
  }
}

}  // namespace

void check_space(const std::filesystem::path& path, std::uint64_t bytes) {
  std::error_code error;
  const auto space = std::filesystem::space(std::filesystem::absolute(path).parent_path(), error);
  if (error || space.available >= bytes) return;
  throw_error(ErrorCode::io, "{}: needs {} MiB of disk, and only {} MiB are free", path.string(),
              bytes >> 20, space.available >> 20);
}

void check_output(const std::filesystem::path& path, bool overwrite) {
  std::error_code error;
  const auto status = std::filesystem::status(path, error);
  if (std::filesystem::is_directory(status))
    throw_error(ErrorCode::io, "{}: is a folder, expected the name of a file", path.string());
  // Renaming over a device would replace the device.
  if (std::filesystem::exists(status) && !std::filesystem::is_regular_file(status))
    throw_error(ErrorCode::io, "{}: is not a regular file and will not be replaced", path.string());
  const auto link_status = std::filesystem::symlink_status(path, error);
  if (!overwrite && std::filesystem::exists(link_status)) fail_exists(path.string());
}

OutputFile::OutputFile(const std::filesystem::path& path, bool overwrite)
    : path_(path.string()), overwrite_(overwrite) {
  check_output(path, overwrite);
  remove_leftovers(path_);
  buffer_.reserve(kBufferBytes);
  for (int attempt = 0; fd_ < 0; ++attempt) {
    temporary_ = fmt::format("{}{}-{}", temporary_prefix(path_), ::getpid(), attempt);
    fd_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd_ < 0 && (errno != EEXIST || attempt == kMaxAttempts))
      fail(path_, "cannot be created", errno);
    // A file system without locks: then leftovers stay. Or another process, cleaning up, was
    // quicker: then the name is gone.
    if (fd_ < 0 || ::flock(fd_, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK) continue;
    ::close(fd_);
    fd_ = -1;
  }
}

OutputFile::~OutputFile() {
  if (fd_ >= 0) ::close(fd_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void OutputFile::write(std::string_view text) { write(std::as_bytes(std::span(text))); }

void OutputFile::write(std::span<const std::byte> data) {
  position_ += data.size();
  while (!data.empty()) {
    const std::size_t n = std::min(data.size(), kBufferBytes - buffer_.size());
    buffer_.insert(buffer_.end(), data.begin(), data.begin() + static_cast<std::ptrdiff_t>(n));
    data = data.subspan(n);
    if (buffer_.size() == kBufferBytes) flush();
  }
}

void OutputFile::flush() {
  std::span<const std::byte> data(buffer_);
  while (!data.empty()) {
    const ssize_t n = ::write(fd_, data.data(), data.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail(path_, "cannot be written", errno);
    data = data.subspan(static_cast<std::size_t>(n));
  }
  buffer_.clear();
}

void OutputFile::commit() {
  flush();
  if (::fsync(fd_) != 0) fail(path_, "cannot be written", errno);
  const int renamed = overwrite_ ? ::rename(temporary_.c_str(), path_.c_str())
                                 : rename_without_replacing(temporary_, path_);
  if (renamed != 0) {
    if (errno == EEXIST) fail_exists(path_);
    fail(path_, "cannot be renamed from its temporary name", errno);
  }
  temporary_.clear();
  ::close(fd_);
  fd_ = -1;
  sync_folder_of(path_);
}

}  // namespace tenfold
