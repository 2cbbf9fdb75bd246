#pragma once
// FNV-1a, 64 bits: tells inputs apart, not a defence against anyone.

#include <cstddef>
#include <cstdint>
#include <span>

namespace tenfold {

class Fnv {
 public:
  void add(std::span<const std::byte> bytes) noexcept {
    for (const std::byte byte : bytes) {
      hash_ = (hash_ ^ static_cast<std::uint64_t>(byte)) * 0x100000001b3;
    }
  }
  std::uint64_t value() const noexcept { return hash_; }

 private:
  std::uint64_t hash_ = 0xcbf29ce484222325;
};

}  // namespace tenfold
