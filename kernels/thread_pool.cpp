#include "kernels/thread_pool.h"

#include <sched.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <set>
#include <string>

namespace tenfold {
namespace {

constexpr int kSpins = 4000;  // some 50 microseconds: longer than the gap between two layers

constexpr std::uint64_t kClosed = 0x7fffffff;  // as the next chunk: there is none

void relax() noexcept { __builtin_ia32_pause(); }

// cgroup v2 "max 100000" or "150000 100000"; 0 where there is no limit.
int cgroup_cpu_limit() {
  std::ifstream file("/sys/fs/cgroup/cpu.max");
  double quota = 0;
  double period = 0;
  if (!(file >> quota >> period) || period <= 0) return 0;
  return std::max(1, static_cast<int>(std::lround(quota / period)));
}

}  // namespace

int default_thread_count() {
  cpu_set_t affinity;
  CPU_ZERO(&affinity);
  if (sched_getaffinity(0, sizeof affinity, &affinity) != 0) return 1;
  std::set<std::string> cores;  // hyper-threads of one core share a line in this file
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &affinity)) continue;
    std::ifstream file("/sys/devices/system/cpu/cpu" + std::to_string(cpu) +
                       "/topology/thread_siblings_list");
    std::string siblings;
    if (!(file >> siblings)) siblings = std::to_string(cpu);
    cores.insert(siblings);
  }
  int count = std::max(1, static_cast<int>(cores.size()));
  if (const int limit = cgroup_cpu_limit(); limit > 0) count = std::min(count, limit);
  return count;
}

ThreadPool::ThreadPool(int n_threads) {
  for (int thread = 1; thread < n_threads; ++thread) {
    workers_.emplace_back([this, thread] { worker_loop(thread); });
  }
}

ThreadPool::~ThreadPool() {
  stop_.store(true);
  generation_.fetch_add(1);
  generation_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::run_erased(int n_chunks, void* context, Function function) {
  if (n_chunks <= 0) return;
  if (n_chunks == 1 || workers_.empty()) {
    for (int chunk = 0; chunk < n_chunks; ++chunk) function(context, chunk, 0);
    return;
  }
  const std::uint32_t generation = generation_.load(std::memory_order_relaxed) + 1;
  // The previous region is complete, but a worker may still hold its last ticket, about to find
  // that no chunk is left. Closing the ticket first makes that worker's CAS fail even where it
  // reads the new number of chunks: whoever sees one of the stores below sees this one too.
  ticket_.store(std::uint64_t{generation} << 32 | kClosed, std::memory_order_relaxed);
  n_chunks_.store(n_chunks, std::memory_order_release);
  context_.store(context, std::memory_order_release);
  function_.store(function, std::memory_order_release);
  done_.store(0, std::memory_order_relaxed);
  ticket_.store(static_cast<std::uint64_t>(generation) << 32, std::memory_order_release);
  generation_.store(generation, std::memory_order_release);
  generation_.notify_all();
  work(generation, 0);
  for (int spins = 0; done_.load(std::memory_order_acquire) != n_chunks; ++spins) {
    if (spins < kSpins) {
      relax();
    } else {
      std::this_thread::yield();
    }
  }
}

void ThreadPool::work(std::uint32_t generation, int thread) {
  while (true) {
    std::uint64_t ticket = ticket_.load(std::memory_order_acquire);
    if (static_cast<std::uint32_t>(ticket >> 32) != generation) return;
    const int chunk = static_cast<int>(static_cast<std::uint32_t>(ticket));
    const int n_chunks = n_chunks_.load(std::memory_order_acquire);
    const Function function = function_.load(std::memory_order_acquire);
    void* const context = context_.load(std::memory_order_acquire);
    if (chunk >= n_chunks) return;
    if (!ticket_.compare_exchange_weak(ticket, ticket + 1, std::memory_order_acq_rel)) continue;
    function(context, chunk, thread);
    done_.fetch_add(1, std::memory_order_acq_rel);
  }
}

void ThreadPool::worker_loop(int thread) {
  std::uint32_t seen = 0;
  while (true) {
    std::uint32_t generation = generation_.load(std::memory_order_acquire);
    for (int spins = 0; generation == seen && spins < kSpins; ++spins) {
      relax();
      generation = generation_.load(std::memory_order_acquire);
    }
    if (generation == seen) {
      generation_.wait(seen, std::memory_order_acquire);
      continue;
    }
    if (stop_.load()) return;
    seen = generation;
    work(generation, thread);
  }
}

}  // namespace tenfold
