// Each loop is one static function with the instruction set it needs as an attribute: nothing that
// another unit could share is compiled with these flags, and none runs before detect_cpu() said so.
#include "kernels/cpu/machine_limits.h"

#include <immintrin.h>

#include <algorithm>
#include <chrono>
#include <vector>

#include "kernels/cpu/isa.h"

namespace tenfold {
namespace {

constexpr int kPeakRounds = 10;
constexpr int kReadRounds = 3;                            // of each kind of load
constexpr std::size_t kReadChunk = std::size_t{1} << 20;  // a thread takes one at a time
// Sums that are in flight at once: latency (4 or 5 cycles) times products a cycle (2).
constexpr int kSums = 12;
constexpr std::int64_t kSteps = 1 << 20;  // of kSums vector products each: a few milliseconds

using ReadLoop = void (*)(const std::byte* p, std::size_t bytes);
using PeakLoop = void (*)(std::int64_t steps);

[[gnu::target("sse2")]] void fill(std::byte* p, std::size_t bytes) {
  const __m128i ones = _mm_set1_epi8(1);
  for (std::size_t i = 0; i < bytes; i += 16) {
    _mm_store_si128(reinterpret_cast<__m128i*>(p + i), ones);
  }
}

[[gnu::target("sse2")]] void read_16(const std::byte* p, std::size_t bytes) {
  __m128i sums[4] = {};
  for (std::size_t i = 0; i < bytes; i += 64) {
    for (std::size_t j = 0; j < 4; ++j) {
      const auto* from = reinterpret_cast<const __m128i*>(p + i + 16 * j);
      sums[j] = _mm_xor_si128(sums[j], _mm_load_si128(from));
    }
  }
  for (__m128i& sum : sums) asm volatile("" : "+x"(sum));
}

[[gnu::target("avx2")]] void read_32(const std::byte* p, std::size_t bytes) {
  __m256i sums[4] = {};
  for (std::size_t i = 0; i < bytes; i += 128) {
    for (std::size_t j = 0; j < 4; ++j) {
      const auto* from = reinterpret_cast<const __m256i*>(p + i + 32 * j);
      sums[j] = _mm256_xor_si256(sums[j], _mm256_load_si256(from));
    }
  }
  for (__m256i& sum : sums) asm volatile("" : "+x"(sum));
}

[[gnu::target("avx512f")]] void read_64(const std::byte* p, std::size_t bytes) {
  __m512i sums[4] = {};
  for (std::size_t i = 0; i < bytes; i += 256) {
    for (std::size_t j = 0; j < 4; ++j) {
      sums[j] = _mm512_xor_si512(sums[j], _mm512_load_si512(p + i + 64 * j));
    }
  }
  for (__m512i& sum : sums) asm volatile("" : "+v"(sum));
}

// An empty asm that may change a register hides its value from the compiler: no product is moved
// out of the loop or shared, and the sums are neither merged nor dropped.

[[gnu::target("avx512f,avx512bw,avx512vl,avx512vnni")]] void int8_vnni(std::int64_t steps) {
  __m512i sums[kSums] = {};
  for (__m512i& sum : sums) asm volatile("" : "+v"(sum));
  __m512i w = _mm512_set1_epi8(1);
  const __m512i x = _mm512_set1_epi8(2);
  for (std::int64_t i = 0; i < steps; ++i) {
    for (__m512i& sum : sums) sum = _mm512_dpbusd_epi32(sum, w, x);
    asm volatile("" : "+v"(w));
  }
  for (__m512i& sum : sums) asm volatile("" : "+v"(sum));
}

[[gnu::target("avx512f,avx512bw")]] void int8_avx512(std::int64_t steps) {
  __m512i sums[kSums] = {};
  for (__m512i& sum : sums) asm volatile("" : "+v"(sum));
  __m512i w = _mm512_set1_epi8(1);
  const __m512i x = _mm512_set1_epi8(2);
  for (std::int64_t i = 0; i < steps; ++i) {
    for (__m512i& sum : sums) {
      sum = _mm512_add_epi16(sum, _mm512_maddubs_epi16(w, x));
      asm volatile("" : "+v"(w));
    }
  }
  for (__m512i& sum : sums) asm volatile("" : "+v"(sum));
}

[[gnu::target("avx2")]] void int8_avx2(std::int64_t steps) {
  __m256i sums[kSums] = {};
  for (__m256i& sum : sums) asm volatile("" : "+x"(sum));
  __m256i w = _mm256_set1_epi8(1);
  const __m256i x = _mm256_set1_epi8(2);
  for (std::int64_t i = 0; i < steps; ++i) {
    for (__m256i& sum : sums) {
      sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(w, x));
      asm volatile("" : "+x"(w));
    }
  }
  for (__m256i& sum : sums) asm volatile("" : "+x"(sum));
}

[[gnu::target("avx512f")]] void fma_avx512(std::int64_t steps) {
  __m512 sums[kSums] = {};
  for (__m512& sum : sums) asm volatile("" : "+v"(sum));
  __m512 w = _mm512_set1_ps(1.0f);
  const __m512 x = _mm512_set1_ps(0x1p-20f);
  for (std::int64_t i = 0; i < steps; ++i) {
    for (__m512& sum : sums) sum = _mm512_fmadd_ps(w, x, sum);
    asm volatile("" : "+v"(w));
  }
  for (__m512& sum : sums) asm volatile("" : "+v"(sum));
}

[[gnu::target("avx2,fma")]] void fma_avx2(std::int64_t steps) {
  __m256 sums[kSums] = {};
  for (__m256& sum : sums) asm volatile("" : "+x"(sum));
  __m256 w = _mm256_set1_ps(1.0f);
  const __m256 x = _mm256_set1_ps(0x1p-20f);
  for (std::int64_t i = 0; i < steps; ++i) {
    for (__m256& sum : sums) sum = _mm256_fmadd_ps(w, x, sum);
    asm volatile("" : "+x"(w));
  }
  for (__m256& sum : sums) asm volatile("" : "+x"(sum));
}

// The scalar kernels are plain C++ that the compiler turns into four-lane SSE code.
[[gnu::target("sse4.1")]] void int32_sse(std::int64_t steps) {
  __m128i sums[kSums] = {};
  for (__m128i& sum : sums) asm volatile("" : "+x"(sum));
  __m128i w = _mm_set1_epi32(1);
  const __m128i x = _mm_set1_epi32(2);
  for (std::int64_t i = 0; i < steps; ++i) {
    for (__m128i& sum : sums) {
      sum = _mm_add_epi32(sum, _mm_mullo_epi32(w, x));
      asm volatile("" : "+x"(w));
    }
  }
  for (__m128i& sum : sums) asm volatile("" : "+x"(sum));
}

[[gnu::target("sse2")]] void multiply_add_sse(std::int64_t steps) {
  __m128 sums[kSums] = {};
  for (__m128& sum : sums) asm volatile("" : "+x"(sum));
  __m128 w = _mm_set1_ps(1.0f);
  const __m128 x = _mm_set1_ps(0x1p-20f);
  for (std::int64_t i = 0; i < steps; ++i) {
    for (__m128& sum : sums) {
      sum = _mm_add_ps(sum, _mm_mul_ps(w, x));
      asm volatile("" : "+x"(w));
    }
  }
  for (__m128& sum : sums) asm volatile("" : "+x"(sum));
}

// Units of 1e9 a second: the best round of `work()`, which does `amount` of them.
template <typename Work>
double best_rate(int rounds, double amount, Work&& work) {
  using Clock = std::chrono::steady_clock;
  double best = 0;
  for (int round = 0; round < rounds; ++round) {
    const Clock::time_point start = Clock::now();
    work();
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    best = std::max(best, amount * 1e-9 / seconds);
  }
  return best;
}

double peak(PeakLoop loop, int products_per_vector, int threads) {
  ThreadPool pool(threads);
  // Several pieces a thread: one that was kept busy elsewhere leaves its pieces to the others.
  const int pieces = threads * 4;
  const double operations = 2.0 * products_per_vector * kSums * static_cast<double>(kSteps);
  return best_rate(kPeakRounds, operations * pieces,
                   [&] { pool.run(pieces, [&](int, int) { loop(kSteps); }); });
}

}  // namespace

ReadBandwidth::ReadBandwidth(int threads, std::size_t bytes)
    : memory_(std::max<std::size_t>(1, bytes / kReadChunk) * kReadChunk), pool_(threads) {
  fill(memory_.data(), memory_.bytes());  // untouched memory is one page of zeros
}

double ReadBandwidth::measure() {
  const CpuFeatures cpu = detect_cpu();
  std::vector<ReadLoop> loops = {read_16};
  if (cpu.avx2) loops.push_back(read_32);
  if (cpu.avx512) loops.push_back(read_64);
  double best = 0;
  for (const ReadLoop loop : loops) {
    const double rate = best_rate(kReadRounds, static_cast<double>(memory_.bytes()), [&] {
      pool_.run(static_cast<int>(memory_.bytes() / kReadChunk), [&](int chunk, int) {
        loop(memory_.data() + static_cast<std::size_t>(chunk) * kReadChunk, kReadChunk);
      });
    });
    best = std::max(best, rate);
  }
  return best;
}

double measure_int8_peak(std::string_view isa, int threads) {
  if (isa == "avx512" && detect_cpu().avx512_vnni) return peak(int8_vnni, 64, threads);
  if (isa == "avx512") return peak(int8_avx512, 64, threads);
  if (isa == "avx2") return peak(int8_avx2, 32, threads);
  return peak(int32_sse, 4, threads);
}

double measure_fma_peak(std::string_view isa, int threads) {
  if (isa == "avx512") return peak(fma_avx512, 16, threads);
  if (isa == "avx2") return peak(fma_avx2, 8, threads);
  return peak(multiply_add_sse, 4, threads);
}

}  // namespace tenfold
