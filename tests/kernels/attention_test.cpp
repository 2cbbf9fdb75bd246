#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/half.h"
#include "tests/support/kernel_tables.h"
#include "tests/support/random.h"

namespace tenfold {
namespace {

constexpr float kLargestQuery = 4.0f;  // keys and values lie within 1

struct Shape {
  std::int64_t heads, kv_heads, head_dim, length;
};

// A cache of one layer with shuffled pages, filled through store_kv, and one sequence's queries.
struct Problem {
  std::int64_t heads, kv_heads, head_dim, length;
  std::vector<float> k, v, q;
  std::vector<std::int32_t> pages;
  Buffer memory;
  KvLayer kv;

  Problem(const Shape& s, KvType type)
      : heads(s.heads), kv_heads(s.kv_heads), head_dim(s.head_dim), length(s.length) {
    k = random_floats(static_cast<std::size_t>(length * kv_heads * head_dim), 1);
    v = random_floats(static_cast<std::size_t>(length * kv_heads * head_dim), 2);
    q = random_floats(static_cast<std::size_t>(length * heads * head_dim), 3, kLargestQuery);
    const auto n_pages = static_cast<std::int32_t>((length + kPageTokens - 1) / kPageTokens);
    for (std::int32_t p = n_pages; p-- > 0;) pages.push_back(p);
    kv.kv_heads = kv_heads;
    kv.head_dim = head_dim;
    kv.type = type;
    kv.page_bytes = static_cast<std::size_t>(kv_heads) * kv_share_bytes(type, head_dim);
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
    backend.place({positions, tables});
    backend.store_kv(kv, k.data() + begin * kv_heads * head_dim,
                     v.data() + begin * kv_heads * head_dim);
    const float scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
    backend.attention(kv, q.data() + begin * heads * head_dim, heads, scale,
                      out + begin * heads * head_dim);
  }

  // What the cache holds for an element, in double; `half`: kv.k or kv.v.
  double stored(const std::byte* half, std::int64_t t, std::int64_t kvh, std::int64_t c) const {
    const std::byte* share =
        half +
        static_cast<std::size_t>(pages[static_cast<std::size_t>(t / kPageTokens)]) * kv.page_bytes +
        static_cast<std::size_t>(kvh) * kv_share_bytes(kv.type, head_dim);
    const std::int64_t slot = t % kPageTokens;
    const std::int64_t at = slot * head_dim + c;
    switch (kv.type) {
      case KvType::f32:
        return reinterpret_cast<const float*>(share)[at];
      case KvType::f16:
        return f16_to_f32(reinterpret_cast<const std::uint16_t*>(share)[at]);
      case KvType::q8:
        return double{reinterpret_cast<const float*>(share + kPageTokens * head_dim)[slot]} *
               reinterpret_cast<const std::int8_t*>(share)[at];
    }
    return 0;
  }

  std::vector<double> expected(std::int64_t t, std::int64_t h) const {
    const std::int64_t kvh = h / (heads / kv_heads);
    std::vector<double> p, out(static_cast<std::size_t>(head_dim));
    double sum = 0;
    for (std::int64_t j = 0; j <= t; ++j) {
      double s = 0;
      for (std::int64_t c = 0; c < head_dim; ++c) {
        s += double{q[static_cast<std::size_t>((t * heads + h) * head_dim + c)]} *
             stored(kv.k, j, kvh, c);
      }
      p.push_back(std::exp(s / std::sqrt(static_cast<double>(head_dim))));
      sum += p.back();
    }
    for (std::int64_t j = 0; j <= t; ++j) {
      for (std::int64_t c = 0; c < head_dim; ++c) {
        out[static_cast<std::size_t>(c)] +=
            p[static_cast<std::size_t>(j)] / sum * stored(kv.v, j, kvh, c);
      }
    }
    return out;
  }

  // What rounding in the kernels may move an output by.
  double bound() const {
    // |score| <= 4 sqrt(d); its relative error e moves a probability by about score * e.
    const double rounding = 1.2e-7 * static_cast<double>(head_dim + length + 64) * kLargestQuery;
    if (kv.type != KvType::q8) return rounding;
    // The query's elements move by half a step of largest / 32767, a score by d of them times
    // 1 / sqrt(d); scores that move by e move the weighted mean by e^2e - 1 at most.
    const double e = std::sqrt(static_cast<double>(head_dim)) * kLargestQuery / 65534;
    // Each key's probability moves by half of 1 / 32767 of the chunk's largest.
    const auto keys = static_cast<double>(std::min(length, kAttentionChunk));
    return rounding + std::expm1(2 * e) + keys / 65534;
  }
  // The same for the root mean square: errors of many keys and columns are independent.
  double rms_bound() const {
    if (kv.type != KvType::q8) return bound();
    const double e = kLargestQuery / 65534;
    const auto keys = static_cast<double>(std::min(length, kAttentionChunk));
    return 1.2e-7 * static_cast<double>(head_dim + length + 64) * kLargestQuery + 2 * e +
           std::sqrt(keys / 12) / 32767;
  }
};

class AttentionTest : public ::testing::TestWithParam<NamedKernels> {};

void check_against_double(const Problem& problem, const std::vector<float>& result) {
  double squares = 0;
  double n = 0;
  for (const std::int64_t t : {std::int64_t{0}, problem.length / 2, problem.length - 1}) {
    for (std::int64_t h = 0; h < problem.heads; ++h) {
      const std::vector<double> expected = problem.expected(t, h);
      for (std::int64_t c = 0; c < problem.head_dim; ++c) {
        const double y = double{
            result[static_cast<std::size_t>((t * problem.heads + h) * problem.head_dim + c)]};
        const double error = y - expected[static_cast<std::size_t>(c)];
        ASSERT_LE(std::fabs(error), problem.bound()) << "token " << t << " head " << h;
        squares += error * error;
        n += 1;
      }
    }
  }
  EXPECT_LE(std::sqrt(squares / n), problem.rms_bound());
}

TEST_P(AttentionTest, MatchesDoubleAndIgnoresChunking) {
  for (const Shape& s : {Shape{1, 1, 8, 3}, Shape{6, 2, 20, 70}, Shape{9, 3, 64, 300},
                         Shape{4, 4, 17, 129}, Shape{8, 1, 32, 600}, Shape{7, 1, 80, 65},
                         Shape{4, 1, 128, 257}, Shape{2, 2, 96, 130}, Shape{5, 1, 66, 64}}) {
    for (const KvType type : {KvType::f32, KvType::f16, KvType::q8}) {
      SCOPED_TRACE(::testing::Message()
                   << "heads " << s.heads << "/" << s.kv_heads << " x " << s.head_dim << ", "
                   << s.length << " tokens, type " << static_cast<int>(type));
      const Problem problem(s, type);
      CpuBackend one(*GetParam().table, 1, Activations::int8);
      CpuBackend three(*GetParam().table, 3, Activations::int8);
      const auto size = static_cast<std::size_t>(s.length * s.heads * s.head_dim);
      std::vector<float> whole(size), steps(size), chunks(size);
      problem.step(one, 0, s.length, whole.data());
      for (std::int64_t t = 0; t < s.length; ++t) problem.step(three, t, t + 1, steps.data());
      for (std::int64_t t = 0; t < s.length; t += 37) {
        problem.step(three, t, std::min(s.length, t + 37), chunks.data());
      }
      ASSERT_EQ(0, std::memcmp(whole.data(), steps.data(), size * 4));
      ASSERT_EQ(0, std::memcmp(whole.data(), chunks.data(), size * 4));
      check_against_double(problem, whole);
    }
  }
}

// Sequences of one batch give what each gives alone.
TEST_P(AttentionTest, BatchesOfSequencesShareNothing) {
  const Shape shape{6, 2, 64, 300};
  for (const KvType type : {KvType::f16, KvType::q8}) {
    const Problem problem(shape, type);
    CpuBackend backend(*GetParam().table, 2, Activations::int8);
    const auto size = static_cast<std::size_t>(shape.length * shape.heads * shape.head_dim);
    std::vector<float> alone(size);
    problem.step(backend, 0, shape.length, alone.data());
    // The same tokens as three sequences of one token each, over the filled cache; tables of their
    // own make them sequences of their own.
    const std::vector<std::vector<std::int32_t>> tables(3, problem.pages);
    const std::vector<std::int32_t> positions = {299, 10, 128};
    std::vector<const std::int32_t*> pages;
    std::vector<float> q, out(3 * static_cast<std::size_t>(shape.heads * shape.head_dim));
    const auto row = static_cast<std::size_t>(shape.heads * shape.head_dim);
    for (std::size_t i = 0; i < 3; ++i) {
      pages.push_back(tables[i].data());
      const auto from = problem.q.begin() + positions[i] * static_cast<std::ptrdiff_t>(row);
      q.insert(q.end(), from, from + static_cast<std::ptrdiff_t>(row));
    }
    const float scale = 1.0f / std::sqrt(static_cast<float>(shape.head_dim));
    backend.place({positions, pages});
    backend.attention(problem.kv, q.data(), shape.heads, scale, out.data());
    for (std::size_t i = 0; i < 3; ++i) {
      EXPECT_EQ(0, std::memcmp(out.data() + i * row,
                               alone.data() + static_cast<std::size_t>(positions[i]) * row,
                               row * sizeof(float)));
    }
  }
}

TEST_P(AttentionTest, EightBitCodesAreTheNearest) {
  const Shape shape{2, 2, 33, 70};
  const Problem problem(shape, KvType::q8);
  CpuBackend backend(*GetParam().table, 1, Activations::int8);
  std::vector<float> out(static_cast<std::size_t>(shape.length * shape.heads * shape.head_dim));
  problem.step(backend, 0, shape.length, out.data());
  for (std::int64_t t = 0; t < shape.length; ++t) {
    for (std::int64_t h = 0; h < shape.kv_heads; ++h) {
      const float* x = problem.k.data() + (t * shape.kv_heads + h) * shape.head_dim;
      float largest = 0;
      for (std::int64_t c = 0; c < shape.head_dim; ++c) {
        largest = std::max(largest, std::fabs(x[c]));
      }
      // Half a step, and the rounding of x / step.
      const double most = double{largest} / 254 * (1 + 1e-4);
      for (std::int64_t c = 0; c < shape.head_dim; ++c) {
        ASSERT_NEAR(problem.stored(problem.kv.k, t, h, c), double{x[c]}, most);
      }
    }
  }
}

// Vectors of zeros, and so small that 1 / scale would not be finite, count as zeros.
TEST_P(AttentionTest, EightBitZerosAreHarmless) {
  const Shape shape{2, 1, 64, 5};
  for (const float size : {0.0f, 1e-39f}) {
    Problem problem(shape, KvType::q8);
    for (auto* values : {&problem.k, &problem.v, &problem.q}) {
      for (float& x : *values) x *= size;
    }
    CpuBackend backend(*GetParam().table, 1, Activations::int8);
    std::vector<float> out(static_cast<std::size_t>(shape.length * shape.heads * shape.head_dim),
                           1.0f);
    problem.step(backend, 0, shape.length, out.data());
    for (const float y : out) ASSERT_EQ(y, 0.0f);
  }
}

INSTANTIATE_TEST_SUITE_P(Isa, AttentionTest, ::testing::ValuesIn(all_kernels()),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace tenfold
