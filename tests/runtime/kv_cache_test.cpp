#include "runtime/kv_cache.h"

#include <gtest/gtest.h>

#include <set>

#include "tests/support/expect_error.h"

namespace tenfold {
namespace {

using testing::expect_error;

TEST(KvCache, SequencesShareOnePool) {
  KvCache kv({2, 3, 8, KvType::f16}, 200, 2);
  EXPECT_EQ(kv.capacity(), 256);
  kv.resize(0, 65);
  kv.resize(1, 128);
  std::set<std::int32_t> pages = {kv.page_table(0)[0], kv.page_table(0)[1], kv.page_table(1)[0],
                                  kv.page_table(1)[1]};
  EXPECT_EQ(pages.size(), 4u);
  expect_error(ErrorCode::bad_request, [&] { kv.resize(0, 129); });
  EXPECT_EQ(kv.length(0), 65);  // unchanged
  kv.resize(1, 0);
  kv.resize(0, 256);
  EXPECT_EQ(kv.length(0), 256);
}

TEST(KvCache, ShrinkingKeepsTheFirstPages) {
  KvCache kv({1, 1, 4, KvType::f32}, 256);
  kv.resize(0, 200);
  const std::int32_t first = kv.page_table(0)[0];
  kv.resize(0, 10);
  kv.resize(0, 256);
  EXPECT_EQ(kv.page_table(0)[0], first);
}

TEST(KvCache, LayersDoNotOverlap) {
  const KvShape shape{3, 2, 4, KvType::f16};
  KvCache kv(shape, 64);
  const std::size_t bytes = std::size_t{64} * 2 * 4 * 2;
  EXPECT_EQ(kv.layer(0).v, kv.layer(0).k + bytes);
  EXPECT_EQ(kv.layer(1).k, kv.layer(0).v + bytes);
  EXPECT_EQ(kv.layer(2).page_bytes, bytes);
  EXPECT_EQ(shape.bytes_per_token(), 2u * 3 * 2 * 4 * 2);
}

TEST(KvCache, RefusesSizesOutOfRange) {
  expect_error(ErrorCode::bad_request, [] { KvCache({1, 1, 4, KvType::f16}, 0); });
  expect_error(ErrorCode::bad_request, [] {
    KvCache({1024, 1024, 1024, KvType::f32}, std::int64_t{1} << 40);
  });
}

}  // namespace
}  // namespace tenfold
