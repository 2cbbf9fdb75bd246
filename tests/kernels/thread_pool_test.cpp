#include "kernels/thread_pool.h"

#include <gtest/gtest.h>

#include <chrono>
#include <numeric>

namespace tenfold {
namespace {

TEST(ThreadPool, RunsEveryChunkOnceForAnySize) {
  for (const int threads : {1, 2, 3, 7}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.size(), threads);
    for (const int n : {0, 1, 2, 5, 64, 1000}) {
      std::vector<std::atomic<int>> hits(static_cast<std::size_t>(n));
      pool.run(n, [&](int chunk, int thread) {
        EXPECT_GE(thread, 0);
        EXPECT_LT(thread, threads);
        hits[static_cast<std::size_t>(chunk)].fetch_add(1);
      });
      for (const auto& hit : hits) EXPECT_EQ(hit.load(), 1);
    }
  }
}

TEST(ThreadPool, ManyShortRegionsInARow) {
  ThreadPool pool(4);
  std::vector<long> sums(16);
  for (int round = 0; round < 20000; ++round) {
    pool.run(16, [&](int chunk, int) { sums[static_cast<std::size_t>(chunk)] += chunk; });
  }
  for (std::size_t i = 0; i < sums.size(); ++i) EXPECT_EQ(sums[i], 20000 * static_cast<long>(i));
}

TEST(ThreadPool, WakesSleepingWorkers) {
  ThreadPool pool(2);
  for (int round = 0; round < 5; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));  // workers fall asleep
    std::atomic<int> count{0};
    pool.run(8, [&](int, int) { count.fetch_add(1); });
    EXPECT_EQ(count.load(), 8);
  }
}

TEST(ThreadPool, DefaultCountIsPositive) { EXPECT_GE(default_thread_count(), 1); }

// Short and long regions in turn: a worker that leaves one must not take a chunk of the next with
// the ticket of the last.
TEST(ThreadPool, RunsEveryChunkOnceWhateverCameBefore) {
  ThreadPool pool(4);
  std::array<std::atomic<int>, 64> runs{};
  for (int region = 0; region < 20000; ++region) {
    const int chunks = region % 2 == 0 ? 2 : 64;
    pool.run(chunks, [&runs, chunks](int chunk, int) {
      ASSERT_LT(chunk, chunks);
      ++runs[static_cast<std::size_t>(chunk)];
    });
  }
  for (int chunk = 0; chunk < 64; ++chunk) {
    EXPECT_EQ(runs[static_cast<std::size_t>(chunk)], chunk < 2 ? 20000 : 10000);
  }
}

}  // namespace
}  // namespace tenfold
