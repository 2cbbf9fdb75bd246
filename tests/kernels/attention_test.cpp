#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/half.h"
#include "tests/support/kernel_tables.h"
#include "tests/support/random.h"

namespace tenfold {
namespace {

// A cache of one layer with shuffled pages, filled through store_kv, and one sequence's queries.
struct Problem {
  std::int64_t heads, kv_heads, head_dim, length;
  bool f16;
  std::vector<float> k, v, q;
  std::vector<std::int32_t> pages;
  Buffer memory;
  KvLayer kv;

  Problem(std::int64_t h, std::int64_t kvh, std::int64_t d, std::int64_t n, bool half)
      : heads(h), kv_heads(kvh), head_dim(d), length(n), f16(half) {
    k = random_floats(static_cast<std::size_t>(n * kvh * d), 1);
    v = random_floats(static_cast<std::size_t>(n * kvh * d), 2);
    q = random_floats(static_cast<std::size_t>(n * h * d), 3, 4.0f);
    const auto n_pages = static_cast<std::int32_t>((n + kPageTokens - 1) / kPageTokens);
    for (std::int32_t p = n_pages; p-- > 0;) pages.push_back(p);
    kv.kv_heads = kvh;
    kv.head_dim = d;
    kv.f16 = half;
    kv.page_bytes = static_cast<std::size_t>(kvh * kPageTokens * d) * (half ? 2 : 4);
    memory = Buffer(2 * kv.page_bytes * pages.size());
    kv.k = memory.data();
    kv.v = memory.data() + kv.page_bytes * pages.size();
  }

  // Rows [begin, end) as one step.
  void step(CpuBackend& backend, std::int64_t begin, std::int64_t end, float* out) const {
    std::vector<std::int32_t> positions;
    std::vector<const std::int32_t*> tables;
    for (std::int64_t t = begin; t < end; ++t) {
      positions.push_back(static_cast<std::int32_t>(t));
      tables.push_back(pages.data());
    }
    const TokenPlaces places{positions, tables};
    backend.store_kv(kv, places, k.data() + begin * kv_heads * head_dim,
                     v.data() + begin * kv_heads * head_dim);
    const float scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
    backend.attention(kv, places, q.data() + begin * heads * head_dim, heads, scale,
                      out + begin * heads * head_dim);
  }

  float stored(float x) const { return f16 ? f16_to_f32(f32_to_f16(x)) : x; }

  std::vector<double> expected(std::int64_t t, std::int64_t h) const {
    const std::int64_t kvh = h / (heads / kv_heads);
    std::vector<double> p, out(static_cast<std::size_t>(head_dim));
    double sum = 0;
    for (std::int64_t j = 0; j <= t; ++j) {
      double s = 0;
      for (std::int64_t c = 0; c < head_dim; ++c) {
        s += static_cast<double>(q[static_cast<std::size_t>((t * heads + h) * head_dim + c)]) *
             stored(k[static_cast<std::size_t>((j * kv_heads + kvh) * head_dim + c)]);
      }
      p.push_back(std::exp(s / std::sqrt(static_cast<double>(head_dim))));
      sum += p.back();
    }
    for (std::int64_t j = 0; j <= t; ++j) {
      for (std::int64_t c = 0; c < head_dim; ++c) {
        out[static_cast<std::size_t>(c)] +=
            p[static_cast<std::size_t>(j)] / sum *
            stored(v[static_cast<std::size_t>((j * kv_heads + kvh) * head_dim + c)]);
      }
    }
    return out;
  }
};

class AttentionTest : public ::testing::TestWithParam<NamedKernels> {};

TEST_P(AttentionTest, MatchesDoubleAndIgnoresChunking) {
  struct Shape {
    std::int64_t heads, kv_heads, head_dim, length;
  };
  for (const Shape& s : {Shape{1, 1, 8, 3}, Shape{6, 2, 20, 70}, Shape{9, 3, 64, 300},
                         Shape{4, 4, 17, 129}, Shape{8, 1, 32, 600}}) {
    for (const bool f16 : {true, false}) {
      const Problem problem(s.heads, s.kv_heads, s.head_dim, s.length, f16);
      CpuBackend one(*GetParam().table, 1);
      CpuBackend three(*GetParam().table, 3);
      const auto size = static_cast<std::size_t>(s.length * s.heads * s.head_dim);
      std::vector<float> whole(size), steps(size), chunks(size);
      problem.step(one, 0, s.length, whole.data());
      for (std::int64_t t = 0; t < s.length; ++t) problem.step(three, t, t + 1, steps.data());
      for (std::int64_t t = 0; t < s.length; t += 37) {
        problem.step(three, t, std::min(s.length, t + 37), chunks.data());
      }
      ASSERT_EQ(0, std::memcmp(whole.data(), steps.data(), size * 4));
      ASSERT_EQ(0, std::memcmp(whole.data(), chunks.data(), size * 4));
      for (std::int64_t t : {std::int64_t{0}, s.length / 2, s.length - 1}) {
        for (std::int64_t h = 0; h < s.heads; ++h) {
          const std::vector<double> expected = problem.expected(t, h);
          for (std::int64_t c = 0; c < s.head_dim; ++c) {
            // |score| <= 4 sqrt(d); its relative error e moves a probability by about score * e.
            const double bound = 1.2e-7 * static_cast<double>(s.head_dim + s.length + 64) * 4;
            ASSERT_NEAR(whole[static_cast<std::size_t>((t * s.heads + h) * s.head_dim + c)],
                        expected[static_cast<std::size_t>(c)], bound)
                << "token " << t << " head " << h;
          }
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Isa, AttentionTest, ::testing::ValuesIn(all_kernels()),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace tenfold
