#include "bench/packed_bench.h"

#include <benchmark/benchmark.h>
#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/isa.h"
#include "kernels/half.h"

namespace tenfold {
namespace {

constexpr std::size_t kStreamBytes = std::size_t{128} << 20;  // of copies: decode reads from memory

struct Shape {
  Format format;
  MinKind min_kind;
  std::int64_t rows, cols, group;
};

// Copies of one random matrix, so that a product finds none of it in a cache. Any bits are codes.
struct Copies {
  Buffer memory;
  std::vector<MatrixView> views;
};

Copies random_copies(const Shape& shape, bool many) {
  const PackedLayout layout =
      packed_layout(shape.format, shape.min_kind, shape.rows, shape.cols, shape.group);
  const auto bytes = static_cast<std::size_t>(layout.code_bytes + layout.scale_bytes +
                                              (layout.min_bytes + 63) / 64 * 64);
  const std::size_t n = many ? kStreamBytes / bytes + 1 : 1;
  Copies copies{Buffer(n * bytes), {}};
  std::mt19937 random(1);
  for (std::size_t i = 0; i < n; ++i) {
    std::byte* base = copies.memory.data() + i * bytes;
    for (std::size_t b = 0; b + 4 <= bytes; b += 4) {
      const auto bits = static_cast<std::uint32_t>(random());
      std::memcpy(base + b, &bits, sizeof bits);
    }
    auto* scale = reinterpret_cast<std::uint16_t*>(base + layout.code_bytes);
    for (std::int64_t s = 0; s < layout.scale_bytes / 2; ++s) scale[s] = f32_to_f16(0.01f);
    std::byte* min = base + layout.code_bytes + layout.scale_bytes;
    for (std::int64_t s = 0; shape.min_kind == MinKind::f16 && s < layout.min_bytes / 2; ++s) {
      reinterpret_cast<std::uint16_t*>(min)[s] = f32_to_f16(-0.02f);
    }
    MatrixView view;
    view.rows = shape.rows;
    view.cols = shape.cols;
    view.n_bands = 1;
    view.bands[0] = {shape.format, shape.min_kind,           0,  shape.cols, shape.group,
                     base,         base + layout.code_bytes, min};
    copies.views.push_back(view);
  }
  return copies;
}

std::vector<float> product(CpuBackend& backend, const MatrixView& weight,
                           const std::vector<float>& x, std::int64_t tokens) {
  std::vector<float> y(static_cast<std::size_t>(tokens * weight.rows));
  const Linear linear{weight, nullptr, y.data(), weight.rows, false};
  backend.linear({&linear, 1}, x.data(), weight.cols, tokens);
  return y;
}

// No figure for a wrong result: the scalar kernels must agree but for the float sum's rounding.
void check(const std::vector<float>& y, const MatrixView& weight, const std::vector<float>& x) {
  CpuBackend scalar(scalar_kernels(), 1, Activations::int8);
  const std::vector<float> first(x.begin(), x.begin() + static_cast<std::ptrdiff_t>(weight.cols));
  const std::vector<float> expected = product(scalar, weight, first, 1);
  double norm = 0;
  for (const float v : expected) norm = std::max(norm, std::fabs(static_cast<double>(v)));
  for (std::size_t r = 0; r < expected.size(); ++r) {
    if (std::fabs(static_cast<double>(y[r] - expected[r])) <= 1e-4 * norm) continue;
    fmt::print(stderr, "row {} is {}, expected {}\n", r, y[r], expected[r]);
    std::abort();
  }
}

void run(benchmark::State& state, const KernelTable& kernels, Shape shape, double bandwidth,
         double int8_peak) {
  shape.rows = state.range(0);
  shape.cols = state.range(1);
  const std::int64_t tokens = state.range(2);
  const Copies copies = random_copies(shape, tokens == 1);
  std::vector<float> x(static_cast<std::size_t>(tokens * shape.cols));
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = std::sin(static_cast<float>(i));
  CpuBackend backend(kernels, 1, Activations::int8);
  check(product(backend, copies.views[0], x, tokens), copies.views[0], x);
  std::vector<float> y(static_cast<std::size_t>(tokens * shape.rows));
  std::size_t copy = 0;
  for (auto _ : state) {
    const Linear linear{copies.views[copy], nullptr, y.data(), shape.rows, false};
    backend.linear({&linear, 1}, x.data(), shape.cols, tokens);
    copy = (copy + 1) % copies.views.size();
    benchmark::DoNotOptimize(y.data());
  }
  using benchmark::Counter;
  const auto iterations = static_cast<double>(state.iterations());
  const double gmac = 1e-9 * static_cast<double>(shape.rows * shape.cols * tokens) * iterations;
  const double gb = 1e-9 * static_cast<double>(copies.views[0].bytes()) * iterations;
  state.counters["GMAC/s"] = Counter(gmac, Counter::kIsRate);
  state.counters["GB/s"] = Counter(gb, Counter::kIsRate);
  if (tokens == 1) {
    state.counters["of_read"] = Counter(gb / bandwidth, Counter::kIsRate);
  } else {
    state.counters["of_int8"] = Counter(2 * gmac / int8_peak, Counter::kIsRate);
  }
}

}  // namespace

void register_packed(const KernelTable& kernels, double bandwidth, double int8_peak) {
  const Format formats[] = {
#define PACKED_FORMAT(id, name, Type) Format::name,
#include "kernels/formats/formats.def"
  };
  for (const Format format : formats) {
    for (const std::int64_t group : {32, 128}) {
      const MinKind min_kind = format == Format::q1 ? MinKind::f16 : MinKind::zero;
      const Shape shape{format, min_kind, 0, 0, group};
      auto* bench = benchmark::RegisterBenchmark(
          fmt::format("{}/{}_g{}", kernels.isa, format_traits(format).name, group).c_str(),
          [&kernels, shape, bandwidth, int8_peak](benchmark::State& state) {
            run(state, kernels, shape, bandwidth, int8_peak);
          });
      for (const std::int64_t tokens : {1, 4, 16, 512}) {
        bench->Args({4096, 4096, tokens})->Args({576, 1536, tokens});
      }
    }
  }
}

}  // namespace tenfold
