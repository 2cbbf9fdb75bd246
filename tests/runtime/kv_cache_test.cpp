#include "runtime/kv_cache.h"

#include <gtest/gtest.h>

#include <cstring>
#include <set>

#include "tests/support/expect_error.h"

namespace tenfold {
namespace {

using testing::expect_error;

Backend& cpu() {
  static const std::unique_ptr<Backend> backend = make_cpu_backend({1, ""});
  return *backend;
}

TEST(KvCache, SequencesShareOnePool) {
  KvCache kv({2, 3, 8, KvType::f16}, 200, 2, cpu());
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
  KvCache kv({1, 1, 4, KvType::f32}, 256, 1, cpu());
  kv.resize(0, 200);
  const std::int32_t first = kv.page_table(0)[0];
  kv.resize(0, 10);
  kv.resize(0, 256);
  EXPECT_EQ(kv.page_table(0)[0], first);
}

TEST(KvCache, LayersDoNotOverlap) {
  const KvShape shape{3, 2, 4, KvType::f16};
  KvCache kv(shape, 64, 1, cpu());
  const std::size_t bytes = std::size_t{64} * 2 * 4 * 2;
  EXPECT_EQ(kv.layer(0).v, kv.layer(0).k + bytes);
  EXPECT_EQ(kv.layer(1).k, kv.layer(0).v + bytes);
  EXPECT_EQ(kv.layer(2).page_bytes, bytes);
  EXPECT_EQ(shape.bytes_per_token(), 2u * 3 * 2 * 4 * 2);
}

TEST(KvCache, EightBitSharesHoldTheirScales) {
  const KvShape shape{3, 2, 64, KvType::q8};
  KvCache kv(shape, 64, 1, cpu());
  const std::size_t share = 64 * 64 + 64 * sizeof(float);
  EXPECT_EQ(kv_share_bytes(KvType::q8, 64), share);
  EXPECT_EQ(kv.layer(0).page_bytes, 2 * share);
  EXPECT_EQ(kv.layer(0).v, kv.layer(0).k + 2 * share);
  EXPECT_EQ(kv.layer(0).type, KvType::q8);
  EXPECT_EQ(shape.bytes_per_token(), 2u * 3 * 2 * (64 + 4));
  for (const KvType type : {KvType::f32, KvType::f16, KvType::q8}) {
    for (const std::int64_t dim : {17, 20, 64, 80, 128}) {
      EXPECT_EQ(kv_share_bytes(type, dim) % 64, 0u);
    }
  }
}

TEST(KvCache, CopiesASequence) {
  const KvShape shape{2, 1, 16, KvType::f16};
  KvCache from(shape, 512, 2, cpu());
  KvCache to(shape, 512, 2, cpu());
  from.resize(0, 70);  // so that pages have other numbers there
  from.resize(1, 130);
  to.resize(0, 64);
  for (std::int64_t i = 0; i < shape.layers; ++i) {
    const KvLayer layer = from.layer(i);
    for (int page = 0; page < 3; ++page) {
      const auto at = static_cast<std::size_t>(from.page_table(1)[page]) * layer.page_bytes;
      std::memset(layer.k + at, static_cast<int>(16 * i + page + 1), layer.page_bytes);
      std::memset(layer.v + at, static_cast<int>(16 * i + page + 129), layer.page_bytes);
    }
  }
  to.copy(from, 1, 1, 100);
  EXPECT_EQ(to.length(1), 100);
  EXPECT_EQ(to.length(0), 64);
  for (std::int64_t i = 0; i < shape.layers; ++i) {
    const KvLayer layer = to.layer(i);
    for (int page = 0; page < 2; ++page) {
      const auto at = static_cast<std::size_t>(to.page_table(1)[page]) * layer.page_bytes;
      EXPECT_EQ(layer.k[at], static_cast<std::byte>(16 * i + page + 1));
      EXPECT_EQ(layer.v[at + layer.page_bytes - 1], static_cast<std::byte>(16 * i + page + 129));
    }
  }
  expect_error(ErrorCode::bad_request, [&] { to.copy(from, 1, 1, 600); });
}

// Writes the number into all of a page, of all layers.
void fill(const KvCache& kv, std::int32_t page, int number) {
  for (std::int64_t i = 0; i < kv.shape().layers; ++i) {
    const KvLayer layer = kv.layer(i);
    const std::size_t at = static_cast<std::size_t>(page) * layer.page_bytes;
    std::memset(layer.k + at, number, layer.page_bytes);
    std::memset(layer.v + at, number, layer.page_bytes);
  }
}

int number_of(const KvCache& kv, std::int32_t page) {
  const KvLayer layer = kv.layer(kv.shape().layers - 1);
  const std::size_t end = static_cast<std::size_t>(page + 1) * layer.page_bytes;
  return static_cast<int>(layer.v[end - 1]);
}

TEST(KvCache, ForksShareWholePagesAndCopyTheLast) {
  KvCache kv({2, 1, 16, KvType::f16}, 512, 3, cpu());  // 8 pages
  kv.resize(0, 150);
  for (int i = 0; i < 3; ++i) fill(kv, kv.page_table(0)[i], i + 1);
  kv.fork(0, 1, 140);
  EXPECT_EQ(kv.length(1), 140);
  EXPECT_EQ(kv.free_pages(), 4);
  EXPECT_EQ(kv.page_table(1)[0], kv.page_table(0)[0]);
  EXPECT_EQ(kv.page_table(1)[1], kv.page_table(0)[1]);
  EXPECT_NE(kv.page_table(1)[2], kv.page_table(0)[2]);
  EXPECT_EQ(number_of(kv, kv.page_table(1)[2]), 3);
  kv.fork(1, 2, 128);
  EXPECT_EQ(kv.free_pages(), 4);
  kv.resize(0, 0);
  EXPECT_EQ(kv.free_pages(), 5);  // its own last page
  EXPECT_EQ(number_of(kv, kv.page_table(2)[1]), 2);
  kv.resize(1, 0);
  kv.resize(2, 0);
  EXPECT_EQ(kv.free_pages(), 8);
}

// A sequence that goes back into a page others read must not write there.
TEST(KvCache, CuttingASharedPageCopiesIt) {
  KvCache kv({2, 1, 16, KvType::f16}, 256, 2, cpu());  // 4 pages
  kv.resize(0, 128);
  fill(kv, kv.page_table(0)[1], 7);
  kv.fork(0, 1, 128);
  kv.resize(1, 100);
  EXPECT_NE(kv.page_table(1)[1], kv.page_table(0)[1]);
  EXPECT_EQ(number_of(kv, kv.page_table(1)[1]), 7);
  EXPECT_EQ(kv.free_pages(), 1);
  KvCache full({1, 1, 16, KvType::f16}, 128, 2, cpu());
  full.resize(0, 128);
  full.fork(0, 1, 128);
  expect_error(ErrorCode::bad_request, [&] { full.resize(1, 100); });  // no page for the copy
  EXPECT_EQ(full.length(1), 128);
  full.resize(0, 64);
  full.resize(1, 100);
  EXPECT_EQ(full.free_pages(), 0);
}

TEST(KvCache, AForkThatNeedsAPageMayFail) {
  KvCache kv({1, 1, 16, KvType::f16}, 128, 2, cpu());
  kv.resize(0, 128);
  expect_error(ErrorCode::bad_request, [&] { kv.fork(0, 1, 100); });
  EXPECT_EQ(kv.length(1), 0);
  kv.fork(0, 1, 128);
  EXPECT_EQ(kv.length(1), 128);
}

TEST(KvCache, RefusesSizesOutOfRange) {
  expect_error(ErrorCode::bad_request, [] { KvCache({1, 1, 4, KvType::f16}, 0, 1, cpu()); });
  expect_error(ErrorCode::bad_request, [] {
    KvCache({1024, 1024, 1024, KvType::f32}, std::int64_t{1} << 40, 1, cpu());
  });
}

}  // namespace
}  // namespace tenfold
