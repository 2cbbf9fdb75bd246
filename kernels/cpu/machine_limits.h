#pragma once
// What this machine can do at best, measured: bytes read from memory, and products of operands that
// never leave the registers. Benches state their figures as shares of these. A figure is the best
// of some rounds, because whatever else runs can only take away from it; each call takes a fraction
// of a second and keeps `threads` threads busy.
//
// 1 GB is 1e9 bytes. A multiply-accumulate is two operations: 400 GMAC/s are 800 Gop/s.

#include <cstddef>
#include <string_view>

#include "kernels/buffer.h"
#include "kernels/thread_pool.h"

namespace tenfold {

inline constexpr std::size_t kReadBytes = std::size_t{1} << 30;  // far more than any cache holds

// GB/s of reading memory on huge pages in order, all threads together: the best of 16-, 32- and
// 64-byte loads, those this machine has. Virtual machines change their place in the host: with two
// threads the figure may double or halve within a minute. A share of it means something only beside
// a measurement taken at the same time, which is why this can be asked again.
class ReadBandwidth {
 public:
  explicit ReadBandwidth(int threads, std::size_t bytes = kReadBytes);  // throws out_of_memory
  double measure();

 private:
  Buffer memory_;
  ThreadPool pool_;
};

// Gop/s of u8 x s8 products. avx512: vpdpbusd where the machine has it, else vpmaddubsw and a
// 16-bit sum; avx2: the latter; scalar: int32 arithmetic. isa as choose_kernels() takes it, which
// this machine must run.
double measure_int8_peak(std::string_view isa, int threads);

// Gop/s of float32 multiply-accumulates: fused on avx512 and avx2, a product and a sum on scalar.
double measure_fma_peak(std::string_view isa, int threads);

}  // namespace tenfold
