#include "tests/support/heap_use.h"

#if defined(__SANITIZE_ADDRESS__)
#define TENFOLD_TEST_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define TENFOLD_TEST_ASAN 1
#endif
#endif

#ifdef TENFOLD_TEST_ASAN

// <sanitizer/allocator_interface.h> does not come with g++.
extern "C" std::size_t __sanitizer_get_current_allocated_bytes();

namespace tenfold::testing {

HeapUse::HeapUse() : start_(__sanitizer_get_current_allocated_bytes()) {}
std::size_t HeapUse::peak() const { return __sanitizer_get_current_allocated_bytes() - start_; }

}  // namespace tenfold::testing

#else

#include <malloc.h>

#include <atomic>
#include <cstdlib>
#include <new>

namespace {

std::atomic<std::size_t> now{0};
std::atomic<std::size_t> highest{0};

void* counted_allocate(std::size_t size) noexcept {
  void* p = std::malloc(size == 0 ? 1 : size);
  if (p == nullptr) return nullptr;
  const std::size_t used = now.fetch_add(malloc_usable_size(p)) + malloc_usable_size(p);
  std::size_t before = highest.load();
  while (before < used && !highest.compare_exchange_weak(before, used)) {
  }
  return p;
}

void* allocate_or_throw(std::size_t size) {
  void* p = counted_allocate(size);
  if (p == nullptr) throw std::bad_alloc();
  return p;
}

void counted_free(void* p) noexcept {
  if (p != nullptr) now.fetch_sub(malloc_usable_size(p));
  std::free(p);
}

}  // namespace

void* operator new(std::size_t size) { return allocate_or_throw(size); }
void* operator new[](std::size_t size) { return allocate_or_throw(size); }
void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
  return counted_allocate(size);
}
void* operator new[](std::size_t size, const std::nothrow_t&) noexcept {
  return counted_allocate(size);
}
void operator delete(void* p) noexcept { counted_free(p); }
void operator delete[](void* p) noexcept { counted_free(p); }
void operator delete(void* p, std::size_t) noexcept { counted_free(p); }
void operator delete[](void* p, std::size_t) noexcept { counted_free(p); }
void operator delete(void* p, const std::nothrow_t&) noexcept { counted_free(p); }
void operator delete[](void* p, const std::nothrow_t&) noexcept { counted_free(p); }

namespace tenfold::testing {

HeapUse::HeapUse() : start_(now.load()) { highest.store(start_); }
std::size_t HeapUse::peak() const { return highest.load() - start_; }

}  // namespace tenfold::testing

#endif
