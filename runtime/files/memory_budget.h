#pragma once
// A memory resource with a limit: readers of untrusted files build their tables in containers on
// top of it, so a small file that describes a huge structure ends in one Error, not in a full
// machine. Everything allocated counts until it is freed.

#include <cstddef>
#include <cstdint>
#include <memory_resource>
#include <string>
#include <string_view>

namespace tenfold {

class MemoryBudget : public std::pmr::memory_resource {
 public:
  // `name`: the file, for the message.
  MemoryBudget(std::uint64_t limit, std::string_view name) : limit_(limit), name_(name) {}

  // Counts memory that is allocated elsewhere. Throws bad_file beyond the limit.
  void charge(std::uint64_t bytes);
  std::uint64_t used() const noexcept { return used_; }

 private:
  void* do_allocate(std::size_t bytes, std::size_t alignment) override;
  void do_deallocate(void* memory, std::size_t bytes, std::size_t alignment) override;
  bool do_is_equal(const std::pmr::memory_resource& other) const noexcept override {
    return this == &other;
  }

  std::uint64_t limit_;
  std::uint64_t used_ = 0;
  std::string name_;
};

}  // namespace tenfold
