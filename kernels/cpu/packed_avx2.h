#pragma once
// The integer vocabulary of packed.inl on AVX2. Without vpdpbusd, pairs of products are summed in
// 16 bits (vpmaddubsw, which saturates: codes of more than 4 bits go as two nibbles) and widened
// before they can overflow: 8 steps of 2 * 127 * 15 stay below 2^15, and 32 steps of codes up to 3.

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/cpu/simd_avx2.h"

namespace tenfold::avx2 {

static constexpr int kVectors = 2;             // F32 vectors in 16 rows
static constexpr bool kFieldsInPlace = false;  // 16-bit sums would overflow

struct Line {
  __m256i v[2];  // rows 0...7, rows 8...15
};
static inline Line load_line(const void* p) {
  const auto* q = static_cast<const __m256i*>(p);
  return {{_mm256_loadu_si256(q), _mm256_loadu_si256(q + 1)}};
}
static inline Line in_register(Line a) { return a; }
static inline void store_line(void* p, Line a) {
  auto* q = static_cast<__m256i*>(p);
  _mm256_storeu_si256(q, a.v[0]);
  _mm256_storeu_si256(q + 1, a.v[1]);
}
static inline Line either(Line a, Line b) {
  return {{_mm256_or_si256(a.v[0], b.v[0]), _mm256_or_si256(a.v[1], b.v[1])}};
}
template <int shift, int mask>
static inline __m256i bits_of(__m256i v) {
  if constexpr (shift > 0) v = _mm256_srli_epi16(v, shift);
  if constexpr (shift < 0) v = _mm256_slli_epi16(v, -shift);
  return _mm256_and_si256(v, _mm256_set1_epi8(static_cast<char>(mask)));
}
template <int shift, int mask>
static inline Line bits_of(Line a) {
  return {{bits_of<shift, mask>(a.v[0]), bits_of<shift, mask>(a.v[1])}};
}

static inline __m256i four_columns(const std::int8_t* x) {
  std::int32_t dword;
  std::memcpy(&dword, x, sizeof dword);
  return _mm256_set1_epi32(dword);
}

// At once: products that wait for their turn would take registers from the sums, and a sum that is
// kept in memory costs a store and a load of latency each step.
static inline __m256i added(__m256i sum, __m256i products) {
  sum = _mm256_add_epi16(sum, products);
  asm volatile("" : "+x"(sum));
  return sum;
}

template <int bits>
struct Dots {
  __m256i wide[2];    // 32-bit sums
  __m256i narrow[2];  // 16-bit sums of pairs, not yet in `wide`
  __m256i high[2];    // the same of the high nibbles; codes of more than 4 bits only
};
template <int bits>
static constexpr int kDots = bits > 4 ? 2 : 4;  // that registers hold beside what is multiplied
template <int bits>
static inline void clear(Dots<bits>& a) {
  for (int h = 0; h < 2; ++h) {
    a.wide[h] = a.narrow[h] = _mm256_setzero_si256();
    if constexpr (bits > 4) a.high[h] = _mm256_setzero_si256();
  }
}
template <int bits>
static inline void accumulate(Dots<bits>& a, Line codes, const std::int8_t* x) {
  const __m256i four = four_columns(x);
#pragma GCC unroll 2
  for (int h = 0; h < 2; ++h) {
    if constexpr (bits > 4) {
      const __m256i low = bits_of<0, 15>(codes.v[h]);
      const __m256i high = bits_of<4, 15>(codes.v[h]);
      a.narrow[h] = added(a.narrow[h], _mm256_maddubs_epi16(low, four));
      a.high[h] = added(a.high[h], _mm256_maddubs_epi16(high, four));
    } else {
      a.narrow[h] = added(a.narrow[h], _mm256_maddubs_epi16(codes.v[h], four));
    }
  }
}
template <int bits>
static inline void widen_sums(Dots<bits>& a) {
  const __m256i ones = _mm256_set1_epi16(1);
#pragma GCC unroll 2
  for (int h = 0; h < 2; ++h) {
    a.wide[h] = _mm256_add_epi32(a.wide[h], _mm256_madd_epi16(a.narrow[h], ones));
    a.narrow[h] = _mm256_setzero_si256();
    if constexpr (bits > 4) {
      const __m256i high = _mm256_madd_epi16(a.high[h], ones);
      a.wide[h] = _mm256_add_epi32(a.wide[h], _mm256_slli_epi32(high, 4));
      a.high[h] = _mm256_setzero_si256();
    }
  }
}
template <int bits>
static inline void to_floats(const Dots<bits>& a, F32* out) {
  out[0] = {_mm256_cvtepi32_ps(a.wide[0])};
  out[1] = {_mm256_cvtepi32_ps(a.wide[1])};
}

template <int b, int shift>
static inline void add_zeros(const std::byte* p, F32* sum) {
  const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
#pragma GCC unroll 2
  for (int h = 0; h < 2; ++h) {
    __m256i v;
    if constexpr (b == 8) {
      v = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p + 8 * h)));
    } else {
      std::uint32_t eight = 0;  // the fields of eight rows
      std::memcpy(&eight, p + h * b, b);
      const __m256i shifts = _mm256_mullo_epi32(lanes, _mm256_set1_epi32(b));
      v = _mm256_srlv_epi32(_mm256_set1_epi32(static_cast<std::int32_t>(eight)), shifts);
      v = _mm256_and_si256(v, _mm256_set1_epi32((1 << b) - 1));
    }
    if constexpr (shift > 0) v = _mm256_slli_epi32(v, shift);
    sum[h] = add(sum[h], {_mm256_cvtepi32_ps(v)});
  }
}

}  // namespace tenfold::avx2
