#pragma once
// A pool for short parallel regions (a few microseconds to milliseconds). The calling thread works
// too. Chunks are claimed one by one, so a core that is busy elsewhere delays only the chunk it
// holds, and a worker that wakes late finds nothing left instead of being waited for. Idle workers
// spin briefly and then sleep.

#include <atomic>
#include <cstdint>
#include <thread>
#include <type_traits>
#include <vector>

namespace tenfold {

class ThreadPool {
 public:
  // n_threads >= 1, the caller included.
  explicit ThreadPool(int n_threads);
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;
  ~ThreadPool();

  int size() const noexcept { return static_cast<int>(workers_.size()) + 1; }

  // Runs body(chunk, thread) for chunk in [0, n_chunks), thread in [0, size()); returns when all
  // are done. Bodies must not throw and must not call run(). One caller at a time.
  template <typename Body>
  void run(int n_chunks, Body&& body) {
    using Plain = std::remove_reference_t<Body>;
    run_erased(n_chunks, const_cast<void*>(static_cast<const void*>(&body)),
               [](void* context, int chunk, int thread) {
                 (*static_cast<Plain*>(context))(chunk, thread);
               });
  }

 private:
  using Function = void (*)(void* context, int chunk, int thread);
  void run_erased(int n_chunks, void* context, Function function);
  void work(std::uint32_t generation, int thread);
  void worker_loop(int thread);

  // ticket = generation << 32 | next chunk. A worker that read an old generation fails its CAS.
  alignas(64) std::atomic<std::uint64_t> ticket_{0};
  alignas(64) std::atomic<int> done_{0};
  alignas(64) std::atomic<std::uint32_t> generation_{0};
  std::atomic<int> n_chunks_{0};
  std::atomic<void*> context_{nullptr};
  std::atomic<Function> function_{nullptr};
  std::atomic<bool> stop_{false};
  std::vector<std::thread> workers_;
};

// Physical cores this process may use (affinity and cgroup quota respected); at least 1.
int default_thread_count();

}  // namespace tenfold
