// One row per kernel, weight type, shape and ISA. Products report Gop/s, GB/s of weights and the
// share of this machine's limit measured in the same run: FMA peak for prefill, read bandwidth for
// decode. One thread; attention also with all.

#include <benchmark/benchmark.h>

#include <cstring>
#include <string>
#include <vector>

#include "bench/attention_bench.h"
#include "bench/loops_bench.h"
#include "bench/packed_bench.h"
#include "kernels/buffer.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/machine_limits.h"

namespace tenfold {
namespace {

void linear(benchmark::State& state, const KernelTable& kernels, WeightType type, double fma_peak,
            double bandwidth) {
  const std::int64_t rows = state.range(0), cols = state.range(1), tokens = state.range(2);
  const std::size_t bytes =
      static_cast<std::size_t>(rows * cols) * (type == WeightType::f32 ? 4 : 2);
  const std::size_t copies = tokens == 1 ? (128u << 20) / bytes + 1 : 1;  // decode: from memory
  const Buffer weights(bytes * copies);
  std::memset(weights.data(), 0x11, weights.bytes());
  std::vector<float> x(static_cast<std::size_t>(tokens * cols), 0.5f);
  std::vector<float> y(static_cast<std::size_t>(tokens * rows));
  std::vector<float> scratch(static_cast<std::size_t>(kernels.linear_scratch(cols)));
  std::size_t copy = 0;
  for (auto _ : state) {
    const LinearArgs args{weights.data() + bytes * copy,
                          type,
                          rows,
                          cols,
                          nullptr,
                          x.data(),
                          cols,
                          tokens,
                          y.data(),
                          rows,
                          false};
    kernels.linear(args, 0, rows, scratch.data());
    copy = (copy + 1) % copies;
    benchmark::DoNotOptimize(y.data());
  }
  using benchmark::Counter;
  const double iterations = static_cast<double>(state.iterations());
  const double gop = 2e-9 * static_cast<double>(rows * cols * tokens) * iterations;
  const double gb = 1e-9 * static_cast<double>(bytes) * iterations;
  state.counters["Gop/s"] = Counter(gop, Counter::kIsRate);
  state.counters["GB/s"] = Counter(gb, Counter::kIsRate);
  if (tokens == 1) {
    state.counters["of_read"] = Counter(gb / bandwidth, Counter::kIsRate);
  } else {
    state.counters["of_fma"] = Counter(gop / fma_peak, Counter::kIsRate);
  }
}

void norm(benchmark::State& state, const KernelTable& kernels, bool rms) {
  const std::int64_t dim = state.range(0);
  const std::vector<float> x(static_cast<std::size_t>(dim), 0.3f);
  std::vector<float> y(x.size());
  for (auto _ : state) {
    if (rms) {
      kernels.rms_norm(x.data(), x.data(), 1e-5f, dim, y.data());
    } else {
      kernels.layer_norm(x.data(), x.data(), x.data(), 1e-5f, dim, y.data());
    }
    benchmark::DoNotOptimize(y.data());
  }
}

void silu(benchmark::State& state, const KernelTable& kernels) {
  std::vector<float> gate(static_cast<std::size_t>(state.range(0)), 0.3f);
  const std::vector<float> up(gate.size(), 1.0f);
  for (auto _ : state) {
    kernels.silu_mul(gate.data(), up.data(), state.range(0), gate.data());
    benchmark::DoNotOptimize(gate.data());
  }
}

void register_kernels(const KernelTable& kernels, double bandwidth) {
  const double peak = measure_fma_peak(kernels.isa, 1);
  std::printf("%s: FMA peak of one thread %.1f Gop/s\n", kernels.isa, peak);
  const std::string isa = kernels.isa;
  register_packed(kernels, bandwidth, measure_int8_peak(isa, 1));
  const struct {
    WeightType type;
    const char* name;
  } types[] = {{WeightType::f32, "f32"}, {WeightType::f16, "f16"}, {WeightType::bf16, "bf16"}};
  for (const auto& [type, name] : types) {
    auto* bench = benchmark::RegisterBenchmark(
        (isa + "/linear_" + name).c_str(),
        [&kernels, type = type, peak, bandwidth](benchmark::State& state) {
          linear(state, kernels, type, peak, bandwidth);
        });
    for (const std::int64_t tokens : {1, 2, 4, 8, 32, 512}) {
      bench->Args({576, 576, tokens})->Args({1536, 576, tokens})->Args({576, 1536, tokens});
      bench->Args({2048, 2048, tokens});
    }
  }
  register_attention(kernels);
  for (const bool rms : {true, false}) {
    benchmark::RegisterBenchmark(
        (isa + (rms ? "/rms_norm" : "/layer_norm")).c_str(),
        [&kernels, rms](benchmark::State& state) { norm(state, kernels, rms); })
        ->Arg(576)
        ->Arg(4096);
  }
  benchmark::RegisterBenchmark((isa + "/silu_mul").c_str(), [&kernels](benchmark::State& state) {
    silu(state, kernels);
  })->Arg(1536);
}

}  // namespace
}  // namespace tenfold

int main(int argc, char** argv) {
  const double bandwidth = tenfold::ReadBandwidth(1).measure();
  std::printf("%s, read bandwidth of one thread %.1f GB/s\n", tenfold::cpu_name().c_str(),
              bandwidth);
  for (const tenfold::KernelTable* kernels : tenfold::runnable_kernels()) {
    tenfold::register_kernels(*kernels, bandwidth);
  }
  for (const tenfold::Loops* loops : tenfold::runnable_loops()) tenfold::register_loops(*loops);
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
