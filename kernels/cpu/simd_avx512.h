#pragma once
// The vector vocabulary on AVX-512 F/BW/VL/DQ: 16 lanes. A test builds this unit with
// TENFOLD_AVX512_INTRINSICS naming a header of portable stand-ins, to run it on any machine.

#ifdef TENFOLD_AVX512_INTRINSICS
#include TENFOLD_AVX512_INTRINSICS
#else
#include <immintrin.h>
#endif

#include <cstdint>

namespace tenfold::avx512 {

struct F32 {
  static constexpr int width = 16;
  static constexpr int tile_tokens = 6;    // 4 x 6 accumulators + 6 activations + 1 weight = 31 zmm
  static constexpr int accumulators = 24;  // that fit beside what they are made of
  __m512 v;
};

static inline __mmask16 lanes_below(int n) {
  return static_cast<__mmask16>(n <= 0 ? 0u : n >= 16 ? 0xffffu : (1u << n) - 1u);
}
static inline __m256i load_halves_n(const std::uint16_t* p, int n) {
  alignas(32) std::uint16_t lanes[16] = {};
  for (int i = 0; i < n; ++i) lanes[i] = p[i];
  return _mm256_load_si256(reinterpret_cast<const __m256i*>(lanes));
}

static inline F32 zero() { return {_mm512_setzero_ps()}; }
static inline F32 set1(float x) { return {_mm512_set1_ps(x)}; }
static inline F32 load(const float* p) { return {_mm512_loadu_ps(p)}; }
static inline F32 load_n(const float* p, int n) {
  return {_mm512_maskz_loadu_ps(lanes_below(n), p)};
}
static inline void store(float* p, F32 a) { _mm512_storeu_ps(p, a.v); }
static inline void store_n(float* p, F32 a, int n) {
  _mm512_mask_storeu_ps(p, lanes_below(n), a.v);
}
static inline F32 widen_f16(__m256i h) { return {_mm512_cvtph_ps(h)}; }
static inline F32 load_f16(const std::uint16_t* p) {
  return widen_f16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
static inline F32 load_f16_n(const std::uint16_t* p, int n) {
  return widen_f16(load_halves_n(p, n));
}
static inline F32 widen_bf16(__m256i h) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16))};
}
static inline F32 load_bf16(const std::uint16_t* p) {
  return widen_bf16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
static inline F32 load_bf16_n(const std::uint16_t* p, int n) {
  return widen_bf16(load_halves_n(p, n));
}
static inline __m256 low_half(F32 a) { return _mm512_castps512_ps256(a.v); }
static inline __m256 high_half(F32 a) { return _mm512_extractf32x8_ps(a.v, 1); }
static inline void store_f16(std::uint16_t* p, F32 a) {
  __m128i* out = reinterpret_cast<__m128i*>(p);
  _mm_storeu_si128(out, _mm256_cvtps_ph(low_half(a), _MM_FROUND_TO_NEAREST_INT));
  _mm_storeu_si128(out + 1, _mm256_cvtps_ph(high_half(a), _MM_FROUND_TO_NEAREST_INT));
}
static inline F32 add(F32 a, F32 b) { return {_mm512_add_ps(a.v, b.v)}; }
static inline F32 sub(F32 a, F32 b) { return {_mm512_sub_ps(a.v, b.v)}; }
static inline F32 mul(F32 a, F32 b) { return {_mm512_mul_ps(a.v, b.v)}; }
static inline F32 div(F32 a, F32 b) { return {_mm512_div_ps(a.v, b.v)}; }
static inline F32 max(F32 a, F32 b) { return {_mm512_max_ps(a.v, b.v)}; }
static inline F32 min(F32 a, F32 b) { return {_mm512_min_ps(a.v, b.v)}; }
static inline F32 fma(F32 a, F32 b, F32 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
static inline F32 round(F32 a) {
  return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
static inline F32 pow2(F32 a) {  // a: integers in [-126, 127]
  const __m512i biased = _mm512_add_epi32(_mm512_cvtps_epi32(a.v), _mm512_set1_epi32(127));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(biased, 23))};
}
// hsum and hsum4 add in the same order: halves, quarters, then (0 + 1) + (2 + 3).
static inline __m128 fold(F32 a) {
  const __m256 half = _mm256_add_ps(low_half(a), high_half(a));
  return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}
static inline float hsum(F32 a) {
  const __m128 pairs = _mm_hadd_ps(fold(a), fold(a));
  return _mm_cvtss_f32(_mm_hadd_ps(pairs, pairs));
}
static inline void hsum4(F32 a, F32 b, F32 c, F32 d, float out[4]) {
  _mm_storeu_ps(out, _mm_hadd_ps(_mm_hadd_ps(fold(a), fold(b)), _mm_hadd_ps(fold(c), fold(d))));
}
static inline float hmax(F32 a) {
  const __m256 half = _mm256_max_ps(low_half(a), high_half(a));
  __m128 m = _mm_max_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
  m = _mm_max_ps(m, _mm_movehl_ps(m, m));
  m = _mm_max_ss(m, _mm_movehdup_ps(m));
  return _mm_cvtss_f32(m);
}
static inline double sum_as_double(F32 a) {
  alignas(64) float lanes[16];
  store(lanes, a);
  double sum = 0;
  for (float lane : lanes) sum += lane;
  return sum;
}
static inline float sqrt_of(float x) { return _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(x))); }

// Exact sums of products of 16-bit integers: kDotCols columns a step.
static constexpr int kDotCols = 32;
static constexpr int kDotTile = 6;
struct I16 {
  __m512i v;
};
struct I32 {
  __m512i v;
};
static inline I16 load_i16(const std::int16_t* p) { return {_mm512_loadu_si512(p)}; }
static inline I16 widen_i8(const std::int8_t* p) {
  return {_mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
static inline I32 zero_sum() { return {_mm512_setzero_si512()}; }
static inline I32 dot(I32 sum, I16 a, I16 b) {
#ifdef TENFOLD_AVX512_INTRINSICS
  return {_mm512_dpwssd_epi32(sum.v, a.v, b.v)};
#else
  asm("vpdpwssd %2, %1, %0" : "+v"(sum.v) : "v"(a.v), "v"(b.v));  // as dot_four of packed_avx512.h
  return sum;
#endif
}
static inline __m256i half_sums(I32 a) {
  return _mm256_add_epi32(_mm512_castsi512_si256(a.v), _mm512_extracti64x4_epi64(a.v, 1));
}
// [x0 + x2, y0 + y2, x1 + x3, y1 + y3] in both lanes.
static inline __m256i add_pairs(__m256i x, __m256i y) {
  return _mm256_add_epi32(_mm256_unpacklo_epi32(x, y), _mm256_unpackhi_epi32(x, y));
}
static inline void hsum4(I32 a, I32 b, I32 c, I32 d, float out[4]) {
  const __m256i x = add_pairs(half_sums(a), half_sums(b));
  const __m256i y = add_pairs(half_sums(c), half_sums(d));
  const __m256i sums = _mm256_add_epi32(_mm256_unpacklo_epi64(x, y), _mm256_unpackhi_epi64(x, y));
  _mm_storeu_ps(out, _mm_cvtepi32_ps(_mm_add_epi32(_mm256_castsi256_si128(sums),
                                                   _mm256_extracti128_si256(sums, 1))));
}

// Two rows of codes side by side, column by column, and what they add up to times two factors: in
// the order in which unpack leaves the columns.
struct RowPair {
  __m512i low, high;
};
struct PairSums {
  __m512i low, high;
};
static inline RowPair pair_rows(const std::int8_t* a, const std::int8_t* b) {
  const __m512i x = widen_i8(a).v;
  const __m512i y = widen_i8(b).v;
  return {_mm512_unpacklo_epi16(x, y), _mm512_unpackhi_epi16(x, y)};
}
static inline I16 pair_factor(const std::int16_t* p) {
  std::int32_t both;
  __builtin_memcpy(&both, p, sizeof both);
  return {_mm512_set1_epi32(both)};
}
static inline PairSums add_pair(PairSums sum, RowPair rows, I16 factor) {
  return {dot({sum.low}, {rows.low}, factor).v, dot({sum.high}, {rows.high}, factor).v};
}
static inline PairSums load_sums(const std::int32_t* p) {
  return {_mm512_loadu_si512(p), _mm512_loadu_si512(p + 16)};
}
static inline void store_sums(std::int32_t* p, PairSums a) {
  _mm512_storeu_si512(p, a.low);
  _mm512_storeu_si512(p + 16, a.high);
}

}  // namespace tenfold::avx512
