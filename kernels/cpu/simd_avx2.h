#pragma once
// The vector vocabulary on AVX2 + FMA + F16C: 8 lanes.

#include <immintrin.h>

#include <cstdint>

namespace tenfold::avx2 {

struct F32 {
  static constexpr int width = 8;
  static constexpr int tile_tokens = 3;    // 4 x 3 accumulators + 3 activations + 1 weight = 16 ymm
  static constexpr int accumulators = 12;  // that fit beside what they are made of
  __m256 v;
};

static inline __m256i lanes_below(int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
static inline __m128i load_halves_n(const std::uint16_t* p, int n) {
  alignas(16) std::uint16_t lanes[8] = {};
  for (int i = 0; i < n; ++i) lanes[i] = p[i];
  return _mm_load_si128(reinterpret_cast<const __m128i*>(lanes));
}

static inline F32 zero() { return {_mm256_setzero_ps()}; }
static inline F32 set1(float x) { return {_mm256_set1_ps(x)}; }
static inline F32 load(const float* p) { return {_mm256_loadu_ps(p)}; }
static inline F32 load_n(const float* p, int n) { return {_mm256_maskload_ps(p, lanes_below(n))}; }
static inline void store(float* p, F32 a) { _mm256_storeu_ps(p, a.v); }
static inline void store_n(float* p, F32 a, int n) { _mm256_maskstore_ps(p, lanes_below(n), a.v); }
static inline F32 load_f16(const std::uint16_t* p) {
  return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
}
static inline F32 load_f16_n(const std::uint16_t* p, int n) {
  return {_mm256_cvtph_ps(load_halves_n(p, n))};
}
static inline F32 widen_bf16(__m128i h) {
  return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16))};
}
static inline F32 load_bf16(const std::uint16_t* p) {
  return widen_bf16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
static inline F32 load_bf16_n(const std::uint16_t* p, int n) {
  return widen_bf16(load_halves_n(p, n));
}
static inline void store_f16(std::uint16_t* p, F32 a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT));
}
static inline F32 add(F32 a, F32 b) { return {_mm256_add_ps(a.v, b.v)}; }
static inline F32 sub(F32 a, F32 b) { return {_mm256_sub_ps(a.v, b.v)}; }
static inline F32 mul(F32 a, F32 b) { return {_mm256_mul_ps(a.v, b.v)}; }
static inline F32 div(F32 a, F32 b) { return {_mm256_div_ps(a.v, b.v)}; }
static inline F32 max(F32 a, F32 b) { return {_mm256_max_ps(a.v, b.v)}; }
static inline F32 min(F32 a, F32 b) { return {_mm256_min_ps(a.v, b.v)}; }
static inline F32 fma(F32 a, F32 b, F32 c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
static inline F32 round(F32 a) {
  return {_mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
static inline F32 pow2(F32 a) {  // a: integers in [-126, 127]
  const __m256i biased = _mm256_add_epi32(_mm256_cvtps_epi32(a.v), _mm256_set1_epi32(127));
  return {_mm256_castsi256_ps(_mm256_slli_epi32(biased, 23))};
}
// hsum and hsum4 add in the same order: halves, then (0 + 1) + (2 + 3).
static inline __m128 fold(F32 a) {
  return _mm_add_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
}
static inline float hsum(F32 a) {
  const __m128 pairs = _mm_hadd_ps(fold(a), fold(a));
  return _mm_cvtss_f32(_mm_hadd_ps(pairs, pairs));
}
static inline void hsum4(F32 a, F32 b, F32 c, F32 d, float out[4]) {
  _mm_storeu_ps(out, _mm_hadd_ps(_mm_hadd_ps(fold(a), fold(b)), _mm_hadd_ps(fold(c), fold(d))));
}
static inline float hmax(F32 a) {
  __m128 m = _mm_max_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  m = _mm_max_ps(m, _mm_movehl_ps(m, m));
  m = _mm_max_ss(m, _mm_movehdup_ps(m));
  return _mm_cvtss_f32(m);
}
static inline double sum_as_double(F32 a) {
  const __m256d low = _mm256_cvtps_pd(_mm256_castps256_ps128(a.v));
  const __m256d high = _mm256_cvtps_pd(_mm256_extractf128_ps(a.v, 1));
  const __m256d sum = _mm256_add_pd(low, high);
  const __m128d half = _mm_add_pd(_mm256_castpd256_pd128(sum), _mm256_extractf128_pd(sum, 1));
  return _mm_cvtsd_f64(_mm_add_sd(half, _mm_unpackhi_pd(half, half)));
}
static inline float sqrt_of(float x) { return _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(x))); }

// Exact sums of products of 16-bit integers: kDotCols columns a step.
static constexpr int kDotCols = 16;
static constexpr int kDotTile = 2;  // 4 x 2 sums, what they add, 2 queries and a key
struct I16 {
  __m256i v;
};
struct I32 {
  __m256i v;
};
static inline I16 load_i16(const std::int16_t* p) {
  return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))};
}
static inline I16 widen_i8(const std::int8_t* p) {
  return {_mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
}
static inline I32 zero_sum() { return {_mm256_setzero_si256()}; }
static inline I32 dot(I32 sum, I16 a, I16 b) {
  return {_mm256_add_epi32(sum.v, _mm256_madd_epi16(a.v, b.v))};
}
// [x0 + x2, y0 + y2, x1 + x3, y1 + y3] in both lanes.
static inline __m256i add_pairs(__m256i x, __m256i y) {
  return _mm256_add_epi32(_mm256_unpacklo_epi32(x, y), _mm256_unpackhi_epi32(x, y));
}
static inline void hsum4(I32 a, I32 b, I32 c, I32 d, float out[4]) {
  const __m256i x = add_pairs(a.v, b.v);
  const __m256i y = add_pairs(c.v, d.v);
  const __m256i sums = _mm256_add_epi32(_mm256_unpacklo_epi64(x, y), _mm256_unpackhi_epi64(x, y));
  _mm_storeu_ps(out, _mm_cvtepi32_ps(_mm_add_epi32(_mm256_castsi256_si128(sums),
                                                   _mm256_extracti128_si256(sums, 1))));
}

// Two rows of codes side by side, column by column, and what they add up to times two factors: in
// the order in which unpack leaves the columns.
struct RowPair {
  __m256i low, high;
};
struct PairSums {
  __m256i low, high;
};
static inline RowPair pair_rows(const std::int8_t* a, const std::int8_t* b) {
  const __m256i x = widen_i8(a).v;
  const __m256i y = widen_i8(b).v;
  return {_mm256_unpacklo_epi16(x, y), _mm256_unpackhi_epi16(x, y)};
}
static inline I16 pair_factor(const std::int16_t* p) {
  std::int32_t both;
  __builtin_memcpy(&both, p, sizeof both);
  return {_mm256_set1_epi32(both)};
}
static inline PairSums add_pair(PairSums sum, RowPair rows, I16 factor) {
  return {dot({sum.low}, {rows.low}, factor).v, dot({sum.high}, {rows.high}, factor).v};
}
static inline PairSums load_sums(const std::int32_t* p) {
  const auto* q = reinterpret_cast<const __m256i*>(p);
  return {_mm256_loadu_si256(q), _mm256_loadu_si256(q + 1)};
}
static inline void store_sums(std::int32_t* p, PairSums a) {
  auto* q = reinterpret_cast<__m256i*>(p);
  _mm256_storeu_si256(q, a.low);
  _mm256_storeu_si256(q + 1, a.high);
}

}  // namespace tenfold::avx2
