#pragma once
// The vector vocabulary of the kernels, one lane wide: the reference the other units are tested
// against.

#include <cmath>
#include <cstdint>

#include "kernels/half.h"

namespace tenfold::scalar {

struct F32 {
  static constexpr int width = 1;
  static constexpr int tile_tokens = 3;
  static constexpr int accumulators = 12;
  float v;
};
inline F32 zero() { return {0.0f}; }
inline F32 set1(float x) { return {x}; }
inline F32 load(const float* p) { return {*p}; }
inline F32 load_n(const float* p, int n) { return {n > 0 ? *p : 0.0f}; }
inline void store(float* p, F32 a) { *p = a.v; }
inline void store_n(float* p, F32 a, int n) {
  if (n > 0) *p = a.v;
}
inline F32 load_f16(const std::uint16_t* p) { return {f16_to_f32(*p)}; }
inline F32 load_f16_n(const std::uint16_t* p, int n) { return {n > 0 ? f16_to_f32(*p) : 0.0f}; }
inline F32 load_bf16(const std::uint16_t* p) { return {bf16_to_f32(*p)}; }
inline F32 load_bf16_n(const std::uint16_t* p, int n) { return {n > 0 ? bf16_to_f32(*p) : 0.0f}; }
inline void store_f16(std::uint16_t* p, F32 a) { *p = f32_to_f16(a.v); }
inline F32 add(F32 a, F32 b) { return {a.v + b.v}; }
inline F32 sub(F32 a, F32 b) { return {a.v - b.v}; }
inline F32 mul(F32 a, F32 b) { return {a.v * b.v}; }
inline F32 div(F32 a, F32 b) { return {a.v / b.v}; }
inline F32 max(F32 a, F32 b) { return {a.v > b.v ? a.v : b.v}; }
inline F32 min(F32 a, F32 b) { return {a.v < b.v ? a.v : b.v}; }
inline F32 fma(F32 a, F32 b, F32 c) { return {a.v * b.v + c.v}; }
inline F32 round(F32 a) { return {std::nearbyintf(a.v)}; }
inline F32 pow2(F32 a) {
  return {std::bit_cast<float>((static_cast<std::int32_t>(a.v) + 127) << 23)};
}
inline float hsum(F32 a) { return a.v; }
inline float hmax(F32 a) { return a.v; }
inline void hsum4(F32 a, F32 b, F32 c, F32 d, float out[4]) {
  out[0] = a.v;
  out[1] = b.v;
  out[2] = c.v;
  out[3] = d.v;
}
inline double sum_as_double(F32 a) { return a.v; }
inline float sqrt_of(float x) { return std::sqrt(x); }

// Exact sums of products of 16-bit integers: kDotCols columns a step.
static constexpr int kDotCols = 1;
static constexpr int kDotTile = 2;
struct I16 {
  std::int32_t v;
};
struct I32 {
  std::int32_t v;
};
inline I16 load_i16(const std::int16_t* p) { return {*p}; }
inline I16 widen_i8(const std::int8_t* p) { return {*p}; }
inline I32 zero_sum() { return {0}; }
inline I32 dot(I32 sum, I16 a, I16 b) { return {sum.v + a.v * b.v}; }
inline void hsum4(I32 a, I32 b, I32 c, I32 d, float out[4]) {
  out[0] = static_cast<float>(a.v);
  out[1] = static_cast<float>(b.v);
  out[2] = static_cast<float>(c.v);
  out[3] = static_cast<float>(d.v);
}

// Two rows of codes side by side, and what they add up to times two factors.
struct RowPair {
  std::int32_t a, b;
};
struct PairSums {
  std::int32_t v;
};
inline RowPair pair_rows(const std::int8_t* a, const std::int8_t* b) { return {*a, *b}; }
inline RowPair pair_factor(const std::int16_t* p) { return {p[0], p[1]}; }
inline PairSums add_pair(PairSums sum, RowPair rows, RowPair factor) {
  return {sum.v + rows.a * factor.a + rows.b * factor.b};
}
inline PairSums load_sums(const std::int32_t* p) { return {*p}; }
inline void store_sums(std::int32_t* p, PairSums a) { *p = a.v; }

}  // namespace tenfold::scalar
