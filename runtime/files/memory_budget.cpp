#include "runtime/files/memory_budget.h"

#include "kernels/error.h"

namespace tenfold {
namespace {

constexpr std::size_t kAllocatorOverhead = 16;  // what malloc adds to each block, about

}  // namespace

void MemoryBudget::charge(std::uint64_t bytes) {
  if (bytes > limit_ - used_) {
    throw_file_error(name_,
                     "reading its tables would take more than {} bytes of memory, out of "
                     "proportion to the file; it is damaged or made to exhaust memory",
                     limit_);
  }
  used_ += bytes;
}

void* MemoryBudget::do_allocate(std::size_t bytes, std::size_t alignment) {
  charge(bytes + kAllocatorOverhead);
  try {
    return std::pmr::new_delete_resource()->allocate(bytes, alignment);
  } catch (...) {
    used_ -= bytes + kAllocatorOverhead;
    throw;
  }
}

void MemoryBudget::do_deallocate(void* memory, std::size_t bytes, std::size_t alignment) {
  std::pmr::new_delete_resource()->deallocate(memory, bytes, alignment);
  used_ -= bytes + kAllocatorOverhead;
}

}  // namespace tenfold
