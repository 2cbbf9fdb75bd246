#include "kernels/buffer.h"

#include <sys/mman.h>

#include "kernels/error.h"

namespace tenfold {

Buffer::Buffer(std::size_t bytes) : bytes_(bytes) {
  if (bytes == 0) return;
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    throw_error(ErrorCode::out_of_memory, "cannot allocate {:.1f} MiB of memory",
                static_cast<double>(bytes) / (1 << 20));
  }
  constexpr std::size_t kHugePage = 2u << 20;
  if (bytes >= kHugePage) madvise(memory, bytes, MADV_HUGEPAGE);
  data_ = static_cast<std::byte*>(memory);
}

void Buffer::unmap(void* memory, std::size_t bytes) noexcept { munmap(memory, bytes); }

}  // namespace tenfold
