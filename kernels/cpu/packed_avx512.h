#pragma once
// The integer vocabulary of packed.inl on AVX-512 BW + VNNI. Included after simd_avx512.h.

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/cpu/simd_avx512.h"

namespace tenfold::avx512 {

static constexpr int kVectors = 1;            // F32 vectors in 16 rows
static constexpr bool kFieldsInPlace = true;  // 32-bit sums hold products of unshifted fields

// 64 bytes: 16 rows x 4 columns of codes, or a packed line.
struct Line {
  __m512i v;
};
static inline Line load_line(const void* p) { return {_mm512_loadu_si512(p)}; }
// Keeps GCC from loading a line again for every field of it: loads are what one token is short of.
static inline Line in_register(Line a) {
#ifndef TENFOLD_AVX512_INTRINSICS
  asm("" : "+v"(a.v));
#endif
  return a;
}
static inline void store_line(void* p, Line a) { _mm512_storeu_si512(p, a.v); }
static inline Line either(Line a, Line b) { return {_mm512_or_si512(a.v, b.v)}; }
// Each byte: (a >> shift) & mask, a left shift where negative.
template <int shift, int mask>
static inline Line bits_of(Line a) {
  __m512i v = a.v;
  if constexpr (shift > 0) v = _mm512_srli_epi16(v, shift);
  if constexpr (shift < 0) v = _mm512_slli_epi16(v, -shift);
  return {_mm512_and_si512(v, _mm512_set1_epi8(static_cast<char>(mask)))};
}

// The four consecutive activations of one token, for all rows.
static inline __m512i four_columns(const std::int8_t* x) {
  std::int32_t dword;
  std::memcpy(&dword, x, sizeof dword);
  return _mm512_set1_epi32(dword);
}

// sum += the dot product of four unsigned codes and four signed activations, in every dword. GCC 12
// copies and spills the accumulators of the intrinsic when there are more than a few; it does not
// look into assembly.
static inline __m512i dot_four(__m512i sum, __m512i codes, __m512i x) {
#ifdef TENFOLD_AVX512_INTRINSICS
  return _mm512_dpbusd_epi32(sum, codes, x);
#else
  asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(codes), "v"(x));
  return sum;
#endif
}

// Exact sums of code * activation, one a row.
template <int bits>
struct Dots {
  __m512i v;
};
template <int bits>
static constexpr int kDots = 24;  // that registers hold beside what is multiplied
template <int bits>
static inline void clear(Dots<bits>& a) {
  a.v = _mm512_setzero_si512();
}
template <int bits>
static inline void accumulate(Dots<bits>& a, Line codes, const std::int8_t* x) {
  a.v = dot_four(a.v, codes.v, four_columns(x));
}
template <int right, int left, int bits>
static inline void add_shifted(Dots<bits>& sum, const Dots<bits>& part) {
  __m512i v = part.v;
  if constexpr (right > left) v = _mm512_srai_epi32(v, right - left);
  if constexpr (right < left) v = _mm512_slli_epi32(v, left - right);
  sum.v = _mm512_add_epi32(sum.v, v);
}
template <int bits>
static inline void widen_sums(Dots<bits>&) {}
template <int bits>
static inline void to_floats(const Dots<bits>& a, F32* out) {
  out[0] = {_mm512_cvtepi32_ps(a.v)};
}

// Adds a plane of b-bit integers, one a row, shifted left, to `sum`.
template <int b, int shift>
static inline __m512i plane_of_zeros(const std::byte* p) {
  __m512i v;
  if constexpr (b == 8) {
    v = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  } else if constexpr (b == 4) {
    std::int32_t half[2];
    std::memcpy(half, p, sizeof half);
    v = _mm512_inserti64x4(_mm512_set1_epi32(half[0]), _mm256_set1_epi32(half[1]), 1);
    const __m512i shifts =
        _mm512_set_epi32(28, 24, 20, 16, 12, 8, 4, 0, 28, 24, 20, 16, 12, 8, 4, 0);
    v = _mm512_and_si512(_mm512_srlv_epi32(v, shifts), _mm512_set1_epi32(15));
  } else {
    std::uint32_t all = 0;
    std::memcpy(&all, p, 2 * b);
    const __m512i lanes = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const __m512i shifts = b == 2 ? _mm512_add_epi32(lanes, lanes) : lanes;
    v = _mm512_srlv_epi32(_mm512_set1_epi32(static_cast<std::int32_t>(all)), shifts);
    v = _mm512_and_si512(v, _mm512_set1_epi32((1 << b) - 1));
  }
  if constexpr (shift > 0) v = _mm512_slli_epi32(v, shift);
  return v;
}
template <int b, int shift>
static inline void add_zeros(const std::byte* p, F32* sum) {
  sum[0] = add(sum[0], {_mm512_cvtepi32_ps(plane_of_zeros<b, shift>(p))});
}

}  // namespace tenfold::avx512
