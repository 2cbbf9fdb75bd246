// The KV cache and attention on a CUDA device or the interpreter in front of one: stored bytes
// against the CPU backend's, attention against double and the CPU over the same cache, and a
// token's bits over every way to cut its sequence into steps and batches.

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/backend.h"
#include "kernels/cuda/ops.h"
#include "kernels/half.h"
#include "tests/cuda/cuda_test.h"
#include "tests/cuda/device_memory.h"
#include "tests/support/random.h"

namespace tenfold {
namespace {

constexpr KvType kTypes[] = {KvType::f32, KvType::f16, KvType::q8};

struct Shape {
  std::int64_t heads, kv_heads, head_dim;
  std::int32_t length;  // of each sequence
  std::int32_t sequences = 1;
};

// Tokens of a step: sequence and position each.
struct Token {
  std::int32_t sequence, position;
};

std::vector<Token> tokens_of(std::int32_t sequence, std::int32_t begin, std::int32_t end) {
  std::vector<Token> tokens;
  for (std::int32_t p = begin; p < end; ++p) tokens.push_back({sequence, p});
  return tokens;
}

// Sequences of one length, the keys, values and queries of all their tokens, and their caches of
// one layer on the host and on the device: shuffled pages that hold NaNs until they are stored to.
class Problem {
 public:
  Problem(const Shape& shape, KvType type, int spare_pages = 0)
      : shape_(shape),
        stride_((shape.length + 63) / 64 + spare_pages),
        k_(random_floats(n_tokens() * row(shape.kv_heads), 1)),
        v_(random_floats(n_tokens() * row(shape.kv_heads), 2)),
        q_(random_floats(n_tokens() * row(shape.heads), 3, 4.0f)),
        page_bytes_(static_cast<std::size_t>(shape.kv_heads) *
                    kv_share_bytes(type, shape.head_dim)),
        host_(2 * page_bytes_ * n_pages(), std::byte{0xff}),
        device_(host_) {
    const auto n = static_cast<std::int32_t>(n_pages());
    for (std::int32_t i = 0; i < n; ++i) pages_.push_back((i * 7 + 3) % n);
    if (n % 7 == 0) {
      for (std::int32_t i = 0; i < n; ++i) pages_[static_cast<std::size_t>(i)] = n - 1 - i;
    }
    host_kv_ = layer(host_.data(), type);
    device_kv_ = layer(device_.get(), type);
  }

  std::size_t row(std::int64_t heads) const {
    return static_cast<std::size_t>(heads * shape_.head_dim);
  }
  std::vector<float>& k() { return k_; }
  std::vector<float>& v() { return v_; }
  std::vector<float>& q() { return q_; }

  void store_on_cpu(Backend& backend, const std::vector<Token>& tokens) {
    const Places places(*this, tokens);
    backend.place(places.on_host);
    backend.store_kv(host_kv_, gather(k_, tokens).data(), gather(v_, tokens).data());
  }
  void store(const std::vector<Token>& tokens) const {
    const Places places(*this, tokens);
    const DeviceArray<float> k(gather(k_, tokens)), v(gather(v_, tokens));
    check_cuda(cuda::store_kv(device_kv_, places.on_device, k, v, nullptr), "store_kv");
    check_cuda(cudaDeviceSynchronize(), "store_kv");
  }
  // Turns queries and keys by random angles and stores; returns what was turned.
  std::vector<std::vector<float>> turn_and_store(const std::vector<Token>& tokens, bool interleaved,
                                                 bool together) const {
    const Places places(*this, tokens);
    const DeviceArray<float> q(gather(q_, tokens)), k(gather(k_, tokens)), v(gather(v_, tokens));
    const auto n = static_cast<std::int64_t>(tokens.size());
    const auto angles = static_cast<std::size_t>(n * shape_.head_dim / 2);
    const DeviceArray<float> cos(random_floats(angles, 4)), sin(random_floats(angles, 5));
    if (together) {
      check_cuda(cuda::rope_and_store_kv(device_kv_, places.on_device, cos, sin, shape_.heads,
                                         interleaved, q, k, v, nullptr),
                 "rope_and_store_kv");
      return {q.read(), k.read()};
    }
    const auto turn = [&](float* x, std::int64_t heads) {
      check_cuda(cuda::rope(x, cos, sin, n, heads, shape_.head_dim, interleaved, nullptr), "rope");
    };
    turn(q, shape_.heads);
    turn(k, shape_.kv_heads);
    check_cuda(cuda::store_kv(device_kv_, places.on_device, k, v, nullptr), "store_kv");
    return {q.read(), k.read()};
  }
  const std::vector<std::byte>& host_bytes() const { return host_; }
  std::vector<std::byte> device_bytes() const { return device_.read(); }

  std::vector<float> attend(const std::vector<Token>& tokens) const {
    const Places places(*this, tokens);
    const std::vector<float> queries = gather(q_, tokens);
    const DeviceArray<float> q(queries), out(queries.size());
    const auto n = static_cast<std::int64_t>(tokens.size());
    const DeviceArray<std::byte> scratch(
        cuda::attention_scratch(n, shape_.heads, shape_.head_dim, stride_));
    check_cuda(cuda::attention(device_kv_, places.on_device, q, shape_.heads, scale(), out, scratch,
                               nullptr),
               "attention");
    return out.read();
  }
  std::vector<float> attend_on_cpu(Backend& backend, const std::vector<Token>& tokens) const {
    const std::vector<float> q = gather(q_, tokens);
    std::vector<float> out(q.size());
    const Places places(*this, tokens);
    backend.place(places.on_host);
    backend.attention(host_kv_, q.data(), shape_.heads, scale(), out.data());
    return out;
  }

  // In double, over what the host's cache holds; and what may be wrong with it on a device.
  struct Exact {
    std::vector<double> out;
    double largest = 0;  // value
    double norm = 0;     // largest sum of |q k| that a score may have been made of
  };
  Exact exact(Token token, std::int64_t head) const {
    const std::int64_t kv_head = head / (shape_.heads / shape_.kv_heads);
    const float* q = q_.data() + index(token) * row(shape_.heads) +
                     static_cast<std::size_t>(head * shape_.head_dim);
    Exact result;
    result.out.resize(static_cast<std::size_t>(shape_.head_dim));
    std::vector<double> p;
    double top = -std::numeric_limits<double>::infinity(), sum = 0;
    for (std::int32_t j = 0; j <= token.position; ++j) {
      double score = 0, norm = 0;
      for (std::int64_t c = 0; c < shape_.head_dim; ++c) {
        const double term = double{q[c]} * stored(host_kv_.k, {token.sequence, j}, kv_head, c);
        score += term * scale();
        norm += std::fabs(term * scale());
      }
      p.push_back(score);
      top = std::max(top, score);
      result.norm = std::max(result.norm, norm);
    }
    for (double& x : p) sum += x = std::exp(x - top);
    for (std::int32_t j = 0; j <= token.position; ++j) {
      for (std::int64_t c = 0; c < shape_.head_dim; ++c) {
        const double value = stored(host_kv_.v, {token.sequence, j}, kv_head, c);
        result.out[static_cast<std::size_t>(c)] += p[static_cast<std::size_t>(j)] / sum * value;
        result.largest = std::max(result.largest, std::fabs(value));
      }
    }
    return result;
  }

  const Shape& shape() const { return shape_; }
  int stride() const { return stride_; }
  float scale() const { return 1.0f / std::sqrt(static_cast<float>(shape_.head_dim)); }
  const KvLayer& device_kv() const { return device_kv_; }
  const std::vector<std::int32_t>& pages() const { return pages_; }

  // Rows of `all` that a step's tokens have.
  std::vector<float> gather(const std::vector<float>& all, const std::vector<Token>& tokens) const {
    const std::size_t width = all.size() / n_tokens();
    std::vector<float> rows;
    for (const Token& token : tokens) {
      const auto from = all.begin() + static_cast<std::ptrdiff_t>(index(token) * width);
      rows.insert(rows.end(), from, from + static_cast<std::ptrdiff_t>(width));
    }
    return rows;
  }

 private:
  struct Places {
    Places(const Problem& p, const std::vector<Token>& tokens)
        : positions(of(tokens, &Token::position)),
          device_positions(positions),
          device_tables(of(tokens, &Token::sequence)),
          device_pages(p.pages_) {
      for (const Token& token : tokens) {
        tables.push_back(p.pages_.data() + std::ptrdiff_t{token.sequence} * p.stride_);
      }
      on_host = {positions, tables};
      on_device = {device_positions, device_tables, device_pages, p.stride_,
                   static_cast<int>(tokens.size())};
    }
    static std::vector<std::int32_t> of(const std::vector<Token>& tokens,
                                        std::int32_t Token::*field) {
      std::vector<std::int32_t> values;
      for (const Token& token : tokens) values.push_back(token.*field);
      return values;
    }
    std::vector<std::int32_t> positions;
    std::vector<const std::int32_t*> tables;
    DeviceArray<std::int32_t> device_positions, device_tables, device_pages;
    TokenPlaces on_host;
    cuda::DevicePlaces on_device;
  };

  std::size_t n_tokens() const {
    return static_cast<std::size_t>(shape_.length) * static_cast<std::size_t>(shape_.sequences);
  }
  std::size_t n_pages() const {
    return static_cast<std::size_t>(stride_) * static_cast<std::size_t>(shape_.sequences);
  }
  std::size_t index(Token token) const {
    return static_cast<std::size_t>(token.sequence * shape_.length + token.position);
  }
  KvLayer layer(std::byte* memory, KvType type) const {
    KvLayer kv;
    kv.k = memory;
    kv.v = memory + page_bytes_ * n_pages();
    kv.page_bytes = page_bytes_;
    kv.kv_heads = shape_.kv_heads;
    kv.head_dim = shape_.head_dim;
    kv.type = type;
    return kv;
  }
  double stored(const std::byte* half, Token token, std::int64_t kv_head, std::int64_t c) const {
    const auto page = static_cast<std::size_t>(
        pages_[static_cast<std::size_t>(token.sequence * stride_ + token.position / 64)]);
    const std::byte* share =
        half + page * page_bytes_ +
        static_cast<std::size_t>(kv_head) * kv_share_bytes(host_kv_.type, shape_.head_dim);
    const std::int64_t slot = token.position % kPageTokens;
    const std::int64_t at = slot * shape_.head_dim + c;
    switch (host_kv_.type) {
      case KvType::f32:
        return reinterpret_cast<const float*>(share)[at];
      case KvType::f16:
        return f16_to_f32(reinterpret_cast<const std::uint16_t*>(share)[at]);
      case KvType::q8:
        return double{reinterpret_cast<const float*>(share + kPageTokens * shape_.head_dim)[slot]} *
               reinterpret_cast<const std::int8_t*>(share)[at];
    }
    return 0;
  }

  Shape shape_;
  int stride_;
  std::vector<float> k_, v_, q_;
  std::vector<std::int32_t> pages_;
  std::size_t page_bytes_;
  std::vector<std::byte> host_;
  DeviceArray<std::byte> device_;
  KvLayer host_kv_, device_kv_;
};

std::vector<Token> all_tokens(const Shape& shape) {
  std::vector<Token> tokens;
  for (std::int32_t s = 0; s < shape.sequences; ++s) {
    for (const Token& token : tokens_of(s, 0, shape.length)) tokens.push_back(token);
  }
  return tokens;
}

class CudaAttention : public CudaKernels {
 protected:
  std::unique_ptr<Backend> cpu_ = make_cpu_backend({1, "scalar"});

  void fill(Problem& problem) {
    problem.store_on_cpu(*cpu_, all_tokens(problem.shape()));
    problem.store(all_tokens(problem.shape()));
  }

  // `out` of tokens against double, and against the CPU where it has all of them.
  void check(const Problem& problem, const std::vector<Token>& tokens,
             const std::vector<float>& out) {
    const Shape& shape = problem.shape();
    const bool q8 = problem.device_kv().type == KvType::q8;
    const std::vector<float> on_cpu = problem.attend_on_cpu(*cpu_, tokens);
    double squares = 0, rms_bounds = 0;
    for (std::size_t t = 0; t < tokens.size(); ++t) {
      for (std::int64_t h = 0; h < shape.heads; ++h) {
        const Problem::Exact exact = problem.exact(tokens[t], h);
        // A score: the query to 22 bits; a rounding, by truncation on some devices, for each 8
        // products of its halves; a few factors, and 2^x with x rounded.
        const double steps = static_cast<double>(shape.head_dim) / 8 * 2 + 8;
        const double score = 0x1p-23 * steps * exact.norm + 0x1p-21;
        // The sum over values: the same, a page's weights to 2^-25 of their largest, merges.
        const double keys = tokens[t].position + 1;
        const double sum = 0x1p-23 * (2 * keys / 8 + keys / 64 * 4 + 8) + 64 * 0x1p-25;
        const double bound = exact.largest * (std::expm1(2 * score) + sum);
        // Errors that are independent of each other.
        const double rms = exact.largest * (2 * score / std::sqrt(steps) + sum / std::sqrt(keys));
        // The CPU rounds what meets codes to 16 bits: attention_test.cpp derives this.
        const double cpu_bound =
            q8 ? std::expm1(std::sqrt(static_cast<double>(shape.head_dim)) * 8 / 65534) +
                     std::min(keys, 256.0) / 65534
               : 0x1p-23 * (static_cast<double>(shape.head_dim) + keys + 64) * 4;
        for (std::int64_t c = 0; c < shape.head_dim; ++c) {
          const std::size_t i =
              t * problem.row(shape.heads) + static_cast<std::size_t>(h * shape.head_dim + c);
          const double error = out[i] - exact.out[static_cast<std::size_t>(c)];
          ASSERT_LE(std::fabs(error), bound) << "position " << tokens[t].position << " head " << h;
          ASSERT_LE(std::fabs(out[i] - on_cpu[i]), bound + cpu_bound)
              << "position " << tokens[t].position << " head " << h;
          squares += error * error;
          rms_bounds += rms * rms;
        }
      }
    }
    EXPECT_LE(squares, rms_bounds);
    worst_ = std::max(worst_, std::sqrt(squares / rms_bounds));
  }

  double worst_ = 0;
};

TEST_F(CudaAttention, StoresTheCpusBytes) {
  for (const KvType type : kTypes) {
    for (const std::int64_t head_dim : {2, 8, 20, 66, 80, 128, 256}) {
      SCOPED_TRACE(::testing::Message() << static_cast<int>(type) << " x " << head_dim);
      Problem problem({2, 2, head_dim, 70, 2}, type);
      const auto width = static_cast<std::ptrdiff_t>(head_dim);
      std::fill_n(problem.k().begin(), width, 0.0f);
      std::fill_n(problem.k().begin() + 2 * width, width, 1e-39f);
      std::fill_n(problem.v().begin() + 3 * width, width, 1e-6f);
      problem.v()[0] = 70000.0f;
      problem.v()[1] = -std::numeric_limits<float>::infinity();
      fill(problem);
      const std::vector<std::byte> device = problem.device_bytes();
      ASSERT_EQ(device, problem.host_bytes());
    }
  }
}

TEST_F(CudaAttention, TurnsAndStoresAtOnce) {
  for (const Shape& shape :
       {Shape{1, 1, 2, 1}, Shape{6, 2, 20, 33}, Shape{3, 3, 64, 16, 2}, Shape{7, 1, 80, 5},
        Shape{4, 2, 128, 2}, Shape{8, 4, 96, 64, 2}, Shape{2, 1, 256, 70}}) {
    for (const KvType type : kTypes) {
      for (const bool interleaved : {false, true}) {
        const Problem apart(shape, type), together(shape, type);
        const std::vector<Token> tokens = all_tokens(shape);
        ASSERT_EQ(apart.turn_and_store(tokens, interleaved, false),
                  together.turn_and_store(tokens, interleaved, true))
            << shape.heads << "/" << shape.kv_heads << " x " << shape.head_dim;
        ASSERT_EQ(apart.device_bytes(), together.device_bytes())
            << shape.heads << "/" << shape.kv_heads << " x " << shape.head_dim;
      }
    }
  }
}

// Whole sequences as one step each: many tokens share a thread block's loads.
TEST_F(CudaAttention, MatchesDouble) {
  for (const Shape& shape :
       {Shape{1, 1, 8, 3}, Shape{6, 2, 20, 70}, Shape{9, 3, 64, 66}, Shape{8, 1, 32, 131},
        Shape{7, 1, 80, 65}, Shape{4, 2, 128, 70}, Shape{2, 2, 96, 67}, Shape{5, 1, 66, 64},
        Shape{3, 1, 2, 40}, Shape{24, 1, 256, 5}, Shape{64, 1, 16, 20}, Shape{2, 1, 250, 33},
        Shape{2, 2, 16, 290, 2}}) {
    for (const KvType type : kTypes) {
      SCOPED_TRACE(::testing::Message()
                   << "heads " << shape.heads << "/" << shape.kv_heads << " x " << shape.head_dim
                   << ", " << shape.length << " tokens, type " << static_cast<int>(type));
      Problem problem(shape, type);
      fill(problem);
      const std::vector<float> all = problem.attend(all_tokens(shape));
      for (const std::int32_t p : {0, shape.length / 3, shape.length / 2, shape.length - 1}) {
        const std::size_t row = problem.row(shape.heads);
        const auto from = all.begin() + static_cast<std::ptrdiff_t>(row) * p;
        check(problem, {{0, p}}, {from, from + static_cast<std::ptrdiff_t>(row)});
        if (HasFatalFailure()) return;
      }
    }
  }
  RecordProperty("worst_of_rms_bound", std::to_string(worst_));
}

// One token of each of several sequences, over several chunks: they are split.
TEST_F(CudaAttention, DecodesOverSeveralChunks) {
  for (const Shape& shape : {Shape{4, 1, 64, 700, 2}, Shape{3, 3, 80, 513, 2},
                             Shape{8, 2, 128, 300, 2}, Shape{2, 1, 18, 257, 2}}) {
    for (const KvType type : kTypes) {
      SCOPED_TRACE(::testing::Message() << shape.head_dim << ", type " << static_cast<int>(type));
      Problem problem(shape, type, 3);
      fill(problem);
      const std::vector<Token> tokens = {
          {0, shape.length - 1}, {1, 255}, {1, 256}, {0, 10}, {1, shape.length - 2}};
      check(problem, tokens, problem.attend(tokens));
      if (HasFatalFailure()) return;
    }
  }
}

std::vector<float> pick(const std::vector<float>& rows, std::size_t row, std::size_t width) {
  const auto from = rows.begin() + static_cast<std::ptrdiff_t>(row * width);
  return {from, from + static_cast<std::ptrdiff_t>(width)};
}

// Tokens of a long prefill, whose thread blocks go through all chunks, against the same tokens
// alone, in small steps, in batches with other sequences, and with a longer page table.
TEST_F(CudaAttention, BitsDependOnTheSequenceAlone) {
  for (const Shape& shape : {Shape{8, 2, 16, 300, 2}, Shape{7, 7, 24, 300, 2}}) {
    ASSERT_GT(shape.heads * shape.length, 2048) << "not a long prefill";
    const std::size_t width = static_cast<std::size_t>(shape.heads * shape.head_dim);
    for (const KvType type : kTypes) {
      SCOPED_TRACE(::testing::Message() << shape.head_dim << ", type " << static_cast<int>(type));
      Problem problem(shape, type), spacious(shape, type, 9);
      problem.store(all_tokens(shape));
      spacious.store(all_tokens(shape));
      const std::vector<float> whole = problem.attend(tokens_of(1, 0, shape.length));
      for (const std::int32_t p : {0, 64, 255, 256, 299}) {
        const std::vector<float> expected = pick(whole, static_cast<std::size_t>(p), width);
        ASSERT_EQ(problem.attend({{1, p}}), expected) << p;
        ASSERT_EQ(spacious.attend({{1, p}}), expected) << p;
        const std::vector<Token> batch = {{0, 290}, {0, 291}, {1, p}, {0, 5}};
        ASSERT_EQ(pick(problem.attend(batch), 2, width), expected) << p;
      }
      const std::vector<float> step = problem.attend(tokens_of(1, 251, 262));
      for (std::size_t i = 0; i < 11; ++i) {
        ASSERT_EQ(pick(step, i, width), pick(whole, 251 + i, width)) << i;
      }
      if (type != KvType::q8) continue;
      // Each token next to one of another sequence: a thread block has several, one after another.
      std::vector<Token> turns;
      for (std::int32_t p = 0; p < shape.length; ++p) {
        turns.push_back({0, p});
        turns.push_back({1, p});
      }
      const std::vector<float> in_turn = problem.attend(turns);
      for (std::size_t i = 0; i < static_cast<std::size_t>(shape.length); ++i) {
        ASSERT_EQ(pick(in_turn, 2 * i + 1, width), pick(whole, i, width)) << i;
      }
      const std::vector<float> both = spacious.attend(all_tokens(shape));
      for (std::size_t i = 0; i < static_cast<std::size_t>(shape.length); ++i) {
        ASSERT_EQ(pick(both, static_cast<std::size_t>(shape.length) + i, width),
                  pick(whole, i, width))
            << i;
      }
    }
  }
}

// Vectors of zeros, and so small that 1 / scale would not be finite, count as zeros.
TEST_F(CudaAttention, EightBitZerosAreHarmless) {
  for (const float size : {0.0f, 1e-39f}) {
    Problem problem({2, 1, 64, 5}, KvType::q8);
    for (auto* values : {&problem.k(), &problem.v(), &problem.q()}) {
      for (float& x : *values) x *= size;
    }
    problem.store(all_tokens(problem.shape()));
    for (const float y : problem.attend(tokens_of(0, 0, 5))) ASSERT_EQ(y, 0.0f);
  }
}

// Magnitudes far from 1: what f16 cannot hold must not show.
TEST_F(CudaAttention, LargeAndSmallNumbers) {
  for (const KvType type : kTypes) {
    for (const float size : {1e-4f, 1e4f}) {
      SCOPED_TRACE(::testing::Message() << size << ", type " << static_cast<int>(type));
      Problem problem({4, 2, 64, 70}, type);
      for (float& x : problem.k()) x *= size;
      for (float& x : problem.q()) x /= size;
      if (type != KvType::f16) {
        for (float& x : problem.v()) x *= size * size * size;
      }
      fill(problem);
      const std::vector<Token> tokens = {{0, 69}};
      const std::vector<float> out = problem.attend(tokens);
      const double unit = type == KvType::f16 ? 1.0 : std::pow(double{size}, 3);
      for (std::int64_t h = 0; h < 4; ++h) {
        const Problem::Exact exact = problem.exact(tokens[0], h);
        for (std::size_t c = 0; c < 64; ++c) {
          // Far above what rounding does, far below what a lost half or scale would.
          ASSERT_NEAR(out[static_cast<std::size_t>(h) * 64 + c] / unit, exact.out[c] / unit, 2e-5);
        }
      }
    }
  }
}

TEST_F(CudaAttention, NotANumberShows) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const KvType type : kTypes) {
    Problem problem({2, 1, 16, 70, 2}, type);
    problem.q()[70 * 32 + 69 * 32 + 3] = nan;                // sequence 1, position 69, head 0
    if (type != KvType::q8) problem.v()[60 * 16 + 5] = nan;  // sequence 0, position 60
    problem.store(all_tokens(problem.shape()));
    const std::vector<float> out = problem.attend({{0, 10}, {1, 69}, {0, 69}});
    for (std::size_t c = 0; c < 32; ++c) {
      EXPECT_FALSE(std::isnan(out[c]));
      EXPECT_EQ(std::isnan(out[32 + c]), c < 16) << c;
      EXPECT_EQ(std::isnan(out[64 + c]), type != KvType::q8 && c % 16 == 5) << c;
    }
  }
}

// Captured once, for all positions that the page table has room for.
TEST_F(CudaAttention, AGraphFollowsThePositions) {
  const Shape shape{4, 2, 32, 600};
  Problem problem(shape, KvType::f16);
  const std::size_t width = problem.row(shape.heads);
  const DeviceArray<std::int32_t> positions(std::vector<std::int32_t>{0});
  const DeviceArray<std::int32_t> tables(std::vector<std::int32_t>{0});
  const DeviceArray<std::int32_t> pages(problem.pages());
  const DeviceArray<float> k(std::size_t{64}), v(std::size_t{64});
  const DeviceArray<float> q(width), out(width);
  const DeviceArray<std::byte> scratch(
      cuda::attention_scratch(1, shape.heads, shape.head_dim, problem.stride()));
  const cuda::DevicePlaces places{positions, tables, pages, problem.stride(), 1};
  cudaStream_t stream = nullptr;
  check_cuda(cudaStreamCreate(&stream), "cudaStreamCreate");
  check_cuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), "begin");
  check_cuda(cuda::store_kv(problem.device_kv(), places, k, v, stream), "store_kv");
  check_cuda(cuda::attention(problem.device_kv(), places, q, shape.heads, problem.scale(), out,
                             scratch, stream),
             "attention");
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  check_cuda(cudaStreamEndCapture(stream, &graph), "end");
  check_cuda(cudaGraphInstantiate(&exec, graph, 0), "instantiate");
  problem.store(tokens_of(0, 0, 599));
  for (const std::int32_t position : {0, 255, 256, 599}) {
    const std::vector<Token> token = {{0, position}};
    const auto put = [](const auto& to, const auto& from) {
      check_cuda(
          cudaMemcpy(to.get(), from.data(), from.size() * sizeof from[0], cudaMemcpyHostToDevice),
          "copy");
    };
    put(positions, std::vector<std::int32_t>{position});
    put(k, problem.gather(problem.k(), token));
    put(v, problem.gather(problem.v(), token));
    put(q, problem.gather(problem.q(), token));
    check_cuda(cudaGraphLaunch(exec, stream), "launch");
    check_cuda(cudaStreamSynchronize(stream), "graph");
    EXPECT_EQ(out.read(), problem.attend(token)) << position;
  }
  check_cuda(cudaGraphExecDestroy(exec), "destroy");
  check_cuda(cudaGraphDestroy(graph), "destroy");
  check_cuda(cudaStreamDestroy(stream), "destroy");
}

TEST_F(CudaAttention, RefusesWhatItCannotDo) {
  KvLayer kv;
  kv.kv_heads = 2;
  float* none = nullptr;
  const cuda::DevicePlaces places{};
  for (const std::int64_t head_dim : {0, 3, 258}) {
    kv.head_dim = head_dim;
    EXPECT_EQ(cuda::attention(kv, places, none, 4, 1, none, nullptr, nullptr),
              cudaErrorInvalidValue);
  }
  kv.head_dim = 64;
  EXPECT_EQ(cuda::attention(kv, places, none, 3, 1, none, nullptr, nullptr), cudaErrorInvalidValue);
  EXPECT_EQ(cuda::attention(kv, places, none, 4, 1, none, nullptr, nullptr), cudaSuccess);
  EXPECT_EQ(cuda::store_kv(kv, places, none, none, nullptr), cudaSuccess);
  EXPECT_EQ(cuda::rope_and_store_kv(kv, places, none, none, 4, false, none, none, none, nullptr),
            cudaSuccess);
}

// What scratch a step needs never falls with its tokens.
TEST_F(CudaAttention, ScratchGrowsWithTokens) {
  std::size_t before = 0;
  for (std::int64_t tokens = 1; tokens < 600; ++tokens) {
    const std::size_t now = cuda::attention_scratch(tokens, 12, 64, 100);
    EXPECT_GE(now, before);
    before = now;
  }
  EXPECT_EQ(cuda::attention_scratch(1, 12, 64, 4), 0u);
}

}  // namespace
}  // namespace tenfold
