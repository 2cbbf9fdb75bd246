#include "bench/loops_bench.h"

#include <benchmark/benchmark.h>

#include <functional>
#include <string>
#include <vector>

namespace tenfold {
namespace {

constexpr std::int64_t kRow = 576;    // columns
constexpr std::int64_t kGroup = 128;  // weights

// run: once over data that it owns; count: what it does then.
void add_row(const Loops& loops, const std::string& name, const char* unit, double count,
             std::function<void()> run) {
  benchmark::RegisterBenchmark(
      (std::string(loops.isa) + "/loops/" + name).c_str(), [=](benchmark::State& state) {
        for (auto _ : state) {
          run();
          benchmark::ClobberMemory();
        }
        using benchmark::Counter;
        state.counters[unit] =
            Counter(count * static_cast<double>(state.iterations()), Counter::kIsRate);
      });
}

}  // namespace

void register_loops(const Loops& loops) {
  const auto n = static_cast<std::size_t>(kRow);
  const std::vector<float> a(n, 0.25f), x(4 * n, 0.5f), weights(n, 0.3f);
  const std::vector<double> wide(4 * n, 0.5), side(n * kSideBySide, 0.5);
  const Levels levels{0.1f, -0.2f, 10.0f, 15.0f};
  const std::string row = "/" + std::to_string(kRow), group = "/" + std::to_string(kGroup);
  const double giga = 2e-9 * static_cast<double>(kRow);
  add_row(loops, "add_scaled" + row, "Gop/s", giga, [&loops, x, y = weights]() mutable {
    loops.add_scaled(1e-3f, x.data(), kRow, y.data());
  });
  add_row(loops, "add_four" + row, "Gop/s", 4 * giga, [&loops, a, x, y = weights]() mutable {
    loops.add_four(a.data(), x.data(), kRow, kRow, y.data());
  });
  add_row(loops, "subtract_four" + row, "Gop/s", 4 * giga, [&loops, wide, y = wide]() mutable {
    loops.subtract_four(wide.data(), wide.data(), kRow, kRow, y.data());
  });
  add_row(loops, "dot" + row, "Gop/s", giga,
          [&loops, a, x] { benchmark::DoNotOptimize(loops.dot(a.data(), x.data(), kRow)); });
  add_row(loops, "dot_double" + row, "Gop/s", giga, [&loops, a, wide] {
    benchmark::DoNotOptimize(loops.dot_double(a.data(), wide.data(), kRow));
  });
  const auto sides = static_cast<double>(kSideBySide);
  add_row(loops, "add_products" + row, "Gop/s", sides * giga,
          [&loops, wide, side, sum = std::vector<double>(kSideBySide)]() mutable {
            loops.add_products(wide.data(), side.data(), kRow, sum.data());
          });
  add_row(loops, "subtract_products" + row, "Gop/s", sides * giga,
          [&loops, a, side, sum = std::vector<double>(kSideBySide)]() mutable {
            loops.subtract_products(a.data(), side.data(), kRow, sum.data());
          });
  add_row(loops, "subtract_outer" + row, "Gop/s", sides * giga,
          [&loops, a, wide, y = side]() mutable {
            loops.subtract_outer(a.data(), wide.data(), kRow, y.data());
          });
  add_row(loops, "squared_error" + group, "weights/s", static_cast<double>(kGroup),
          [&loops, weights, a, levels] {
            benchmark::DoNotOptimize(loops.squared_error(weights.data(), a.data(), kGroup, levels));
          });
  add_row(loops, "moments" + group, "weights/s", static_cast<double>(kGroup),
          [&loops, weights, a, levels] {
            benchmark::DoNotOptimize(loops.moments(weights.data(), a.data(), kGroup, levels, 7.5f));
          });
}

}  // namespace tenfold
