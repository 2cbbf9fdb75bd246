#pragma once
// Heap bytes allocated since construction by operator new. Without sanitizers peak() is the highest
// point; under AddressSanitizer, whose own allocator is kept, it is what is allocated now.

#include <cstddef>

namespace tenfold::testing {

class HeapUse {
 public:
  HeapUse();
  std::size_t peak() const;

 private:
  std::size_t start_;
};

}  // namespace tenfold::testing
