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

}  // namespace tenfold::scalar
