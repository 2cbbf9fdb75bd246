#include "runtime/files/spill.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <string>

#include "kernels/error.h"

namespace tenfold {

Buffer spilled_buffer(std::size_t bytes, const std::filesystem::path& folder) {
  if (bytes == 0) return {};
  const auto fail = [&](int error) {
    throw_error(ErrorCode::io, "{}: cannot put {:.1f} MiB of activations there: {}",
                folder.string(), static_cast<double>(bytes) / (1 << 20), std::strerror(error));
  };
  std::string name = (folder / "activations-XXXXXX").string();
  const int fd = mkostemp(name.data(), O_CLOEXEC);
  if (fd < 0) fail(errno);
  unlink(name.c_str());
  const int no_space = posix_fallocate(fd, 0, static_cast<off_t>(bytes));
  void* mapping =
      no_space != 0 ? MAP_FAILED : mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  const int error = no_space != 0 ? no_space : errno;
  close(fd);
  if (mapping == MAP_FAILED) fail(error);
  return Buffer::adopt(mapping, bytes);
}

}  // namespace tenfold
