#include "runtime/files/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <system_error>
#include <utility>

#include "kernels/error.h"

namespace tenfold {
namespace {

std::string reason(int error) { return std::generic_category().message(error); }

void unmap(std::span<const std::byte> bytes) noexcept {
  if (!bytes.empty()) ::munmap(const_cast<std::byte*>(bytes.data()), bytes.size());
}

std::span<const std::byte> map(int fd, const std::string& path) {
  struct stat info {};
  if (::fstat(fd, &info) != 0) throw_file_error(path, "cannot be read: {}", reason(errno));
  if (S_ISDIR(info.st_mode)) throw_file_error(path, "is a folder, expected a file");
  if (!S_ISREG(info.st_mode)) throw_file_error(path, "is not a regular file");
  if (info.st_size == 0) throw_file_error(path, "is empty");
  const auto size = static_cast<std::size_t>(info.st_size);
  void* address = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd, 0);
  if (address == MAP_FAILED)
    throw_file_error(path, "cannot be mapped ({} bytes): {}", size, reason(errno));
  // Pages of 4 KiB cost a decode step a quarter of its time in address translation. A kernel that
  // caches this file system in huge pages (ext4 from 6.16 on) maps them; others ignore it.
  ::madvise(address, size, MADV_HUGEPAGE);
  return {static_cast<const std::byte*>(address), size};
}

}  // namespace

MappedFile::MappedFile(const std::filesystem::path& path) : path_(path.string()) {
  // O_NONBLOCK: a pipe is refused below rather than waited for.
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) throw_file_error(path_, "cannot be opened: {}", reason(errno));
  try {
    bytes_ = map(fd, path_);
  } catch (...) {
    ::close(fd);
    throw;
  }
  ::close(fd);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)), bytes_(std::exchange(other.bytes_, {})) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  if (this != &other) {
    unmap(bytes_);
    path_ = std::move(other.path_);
    bytes_ = std::exchange(other.bytes_, {});
  }
  return *this;
}

MappedFile::~MappedFile() { unmap(bytes_); }

void release_pages(std::span<const std::byte> part) noexcept {
  const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto first = (reinterpret_cast<std::uintptr_t>(part.data()) + page - 1) / page * page;
  const auto end = reinterpret_cast<std::uintptr_t>(part.data() + part.size()) / page * page;
  if (first < end) ::madvise(reinterpret_cast<void*>(first), end - first, MADV_DONTNEED);
}

}  // namespace tenfold
