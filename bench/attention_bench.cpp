#include "bench/attention_bench.h"

#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "kernels/buffer.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/machine_limits.h"

namespace tenfold {
namespace {

constexpr std::size_t kCacheBytes = 256u << 20;  // walked through layer by layer: far beyond L3

struct Shape {
  const char* name;
  std::int64_t heads, kv_heads, head_dim;
};
constexpr Shape kShapes[] = {{"mha32x128", 32, 32, 128},   // LLaMA 2 7B
                             {"gqa32/8x128", 32, 8, 128},  // LLaMA 3 8B
                             {"gqa9/3x64", 9, 3, 64}};     // SmolLM2 135M

struct Case {
  Shape shape;
  KvType type;
  std::int64_t keys, tokens;  // the tokens are the last of the keys
  int threads;
};

float element(std::int64_t i, std::int64_t salt) {
  const auto hash = static_cast<std::uint32_t>(i * 2654435761 + salt * 40503);
  return static_cast<float>(hash >> 8) * 0x1p-23f - 1.0f;
}

// As many layers as fill kCacheBytes, all alike.
struct Cache {
  Case c;
  std::size_t half, layer_bytes, layers;
  Buffer memory;
  std::vector<std::int32_t> pages;
  std::vector<float> q, out;
  std::vector<std::int32_t> positions;
  std::vector<const std::int32_t*> tables;

  explicit Cache(const Case& wanted) : c(wanted) {
    const Shape& s = c.shape;
    const std::int64_t n_pages = (c.keys + kPageTokens - 1) / kPageTokens;
    half = static_cast<std::size_t>(n_pages * s.kv_heads) * kv_share_bytes(c.type, s.head_dim);
    layer_bytes = 2 * half;
    layers = kCacheBytes / layer_bytes + 1;
    memory = Buffer(layers * layer_bytes);
    for (std::int64_t p = 0; p < n_pages; ++p) pages.push_back(static_cast<std::int32_t>(p));
    for (std::int64_t t = c.keys - c.tokens; t < c.keys; ++t) {
      positions.push_back(static_cast<std::int32_t>(t));
    }
    tables.assign(positions.size(), pages.data());
    for (std::int64_t i = 0; i < c.tokens * s.heads * s.head_dim; ++i) q.push_back(element(i, 1));
    out.resize(q.size());
    fill();
  }

  KvLayer layer(std::size_t index) const {
    std::byte* k = memory.data() + index * layer_bytes;
    const Shape& s = c.shape;
    const std::size_t page_bytes =
        static_cast<std::size_t>(s.kv_heads) * kv_share_bytes(c.type, s.head_dim);
    return {k, k + half, page_bytes, s.kv_heads, s.head_dim, c.type};
  }

  void fill() {
    CpuBackend backend(*runnable_kernels().front(), 1, Activations::int8);
    std::vector<float> k, v;
    const std::int64_t row = c.shape.kv_heads * c.shape.head_dim;
    for (std::int64_t t = 0; t < c.keys; ++t) {
      k.clear();
      v.clear();
      for (std::int64_t i = 0; i < row; ++i) {
        k.push_back(element(t * row + i, 2));
        v.push_back(element(t * row + i, 3));
      }
      const auto position = static_cast<std::int32_t>(t);
      const std::int32_t* table = pages.data();
      backend.place({{&position, 1}, {&table, 1}});
      backend.store_kv(layer(0), k.data(), v.data());
    }
    for (std::size_t i = 1; i < layers; ++i) {
      std::memcpy(memory.data() + i * layer_bytes, memory.data(), layer_bytes);
    }
  }

  void attend(CpuBackend& backend, std::size_t index) {
    const float scale = 1.0f / std::sqrt(static_cast<float>(c.shape.head_dim));
    backend.place({positions, tables});
    backend.attention(layer(index), q.data(), c.shape.heads, scale, out.data());
  }
};

// The last token against the scalar kernels. With elements within 1 the kernels' own roundings stay
// far below this (attention_test derives the bounds); a wrong page or scale does not.
bool agrees_with_scalar(Cache& cache, CpuBackend& backend) {
  cache.attend(backend, 0);
  const auto row = static_cast<std::size_t>(cache.c.shape.heads * cache.c.shape.head_dim);
  const std::vector<float> got(cache.out.end() - static_cast<std::ptrdiff_t>(row), cache.out.end());
  std::vector<float> expected(row);
  CpuBackend scalar(scalar_kernels(), 1, Activations::int8);
  const float scale = 1.0f / std::sqrt(static_cast<float>(cache.c.shape.head_dim));
  scalar.place({{&cache.positions.back(), 1}, {&cache.tables.back(), 1}});
  scalar.attention(cache.layer(0), cache.q.data() + cache.q.size() - row, cache.c.shape.heads,
                   scale, expected.data());
  for (std::size_t i = 0; i < row; ++i) {
    if (!(std::fabs(got[i] - expected[i]) < 1e-3f)) return false;
  }
  return true;
}

void attention(benchmark::State& state, const KernelTable& kernels, const Case& c) {
  Cache cache(c);
  CpuBackend backend(kernels, c.threads, Activations::int8);
  if (!agrees_with_scalar(cache, backend)) {
    state.SkipWithError("differs from the scalar kernels");
    return;
  }
  std::size_t layer = 0;
  for (auto _ : state) {
    layer = (layer + 1) % cache.layers;
    cache.attend(backend, layer);
    benchmark::DoNotOptimize(cache.out.data());
  }
  using benchmark::Counter;
  const Shape& s = c.shape;
  const double n = static_cast<double>(state.iterations());
  if (c.tokens == 1) {
    const std::size_t key_bytes = 2 * kv_share_bytes(c.type, s.head_dim) / kPageTokens;
    const double gb =
        1e-9 * n * static_cast<double>(c.keys * s.kv_heads) * static_cast<double>(key_bytes);
    state.counters["GB/s"] = Counter(gb, Counter::kIsRate);
    // Measured beside each row: what a virtual machine gets changes by the minute.
    const double bandwidth = ReadBandwidth(c.threads, kCacheBytes).measure();
    state.counters["read_GB/s"] = bandwidth;
    state.counters["of_read"] = Counter(gb / bandwidth, Counter::kIsRate);
  } else {
    const double seen = static_cast<double>(c.tokens) *
                        (static_cast<double>(c.keys) - 0.5 * static_cast<double>(c.tokens - 1));
    const double gop = 4e-9 * n * seen * static_cast<double>(s.heads * s.head_dim);
    state.counters["Gop/s"] = Counter(gop, Counter::kIsRate);
    state.counters["of_fma"] =
        Counter(gop / measure_fma_peak(kernels.isa, c.threads), Counter::kIsRate);
  }
}

void add(const KernelTable& kernels, const Case& c) {
  const char* type = c.type == KvType::q8 ? "q8" : "f16";
  const std::string name =
      fmt::format("{}/{}attention_{}/{}/keys:{}/threads:{}", kernels.isa,
                  c.tokens == 1 ? "" : "prefill_", type, c.shape.name, c.keys, c.threads);
  benchmark::RegisterBenchmark(
      name.c_str(), [&kernels, c](benchmark::State& state) { attention(state, kernels, c); })
      ->UseRealTime()
      ->MinTime(0.25);
}

}  // namespace

void register_attention(const KernelTable& kernels) {
  const int most = default_thread_count();
  for (const Shape& shape : kShapes) {
    for (const KvType type : {KvType::f16, KvType::q8}) {
      for (int threads = 1; threads <= most; threads += std::max(1, most - 1)) {
        for (const std::int64_t keys : {128, 512, 2048, 8192}) {
          add(kernels, {shape, type, keys, 1, threads});
        }
      }
      for (const std::int64_t keys : {512, 8192}) add(kernels, {shape, type, keys, 512, most});
    }
  }
}

}  // namespace tenfold
