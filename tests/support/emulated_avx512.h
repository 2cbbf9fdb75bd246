#pragma once
// AVX-512 for machines without it: SIMDe's portable intrinsics, and stand-ins for the few that
// Debian's SIMDe 0.7.4 lacks. Only the test of the AVX-512 kernels includes this.

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
#include <simde/x86/f16c.h>
#include <simde/x86/fma.h>

#include <cmath>
#include <cstdint>
#include <cstring>

using __mmask16 = std::uint16_t;

namespace emulated {

template <typename To, typename From>
To same_bits(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

inline __m512 maskz_loadu_ps(__mmask16 mask, const float* p) {
  float lanes[16] = {};
  for (int i = 0; i < 16; ++i) {
    if ((mask >> i & 1) != 0) lanes[i] = p[i];
  }
  return same_bits<__m512>(lanes);
}

inline void mask_storeu_ps(float* p, __mmask16 mask, __m512 a) {
  float lanes[16];
  std::memcpy(lanes, &a, sizeof lanes);
  for (int i = 0; i < 16; ++i) {
    if ((mask >> i & 1) != 0) p[i] = lanes[i];
  }
}

inline __m512i cvtepu16_epi32(__m256i a) {
  std::uint16_t in[16];
  std::int32_t out[16];
  std::memcpy(in, &a, sizeof in);
  for (int i = 0; i < 16; ++i) out[i] = in[i];
  return same_bits<__m512i>(out);
}

inline __m512i cvtps_epi32(__m512 a) {
  float in[16];
  std::int32_t out[16];
  std::memcpy(in, &a, sizeof in);
  for (int i = 0; i < 16; ++i) out[i] = static_cast<std::int32_t>(std::nearbyint(in[i]));
  return same_bits<__m512i>(out);
}

inline __m256 half_ps(__m512 a, int index) {
  float lanes[16];
  std::memcpy(lanes, &a, sizeof lanes);
  float half[8];
  std::memcpy(half, lanes + 8 * index, sizeof half);
  return same_bits<__m256>(half);
}

inline __m512 cvtph_ps(__m256i a) {
  __m128i in[2];
  std::memcpy(in, &a, sizeof in);
  const __m256 out[2] = {simde_mm256_cvtph_ps(in[0]), simde_mm256_cvtph_ps(in[1])};
  return same_bits<__m512>(out);
}

inline __m512i cvtepu8_epi32(__m128i a) {
  std::uint8_t in[16];
  std::int32_t out[16];
  std::memcpy(in, &a, sizeof in);
  for (int i = 0; i < 16; ++i) out[i] = in[i];
  return same_bits<__m512i>(out);
}

inline __m512 cvtepi32_ps(__m512i a) {
  std::int32_t in[16];
  float out[16];
  std::memcpy(in, &a, sizeof in);
  for (int i = 0; i < 16; ++i) out[i] = static_cast<float>(in[i]);
  return same_bits<__m512>(out);
}

inline __m512i srlv_epi32(__m512i a, __m512i counts) {
  std::uint32_t in[16], by[16];
  std::memcpy(in, &a, sizeof in);
  std::memcpy(by, &counts, sizeof by);
  for (int i = 0; i < 16; ++i) in[i] = by[i] < 32 ? in[i] >> by[i] : 0;
  return same_bits<__m512i>(in);
}

inline __m512i srai_epi32(__m512i a, int count) {
  std::int32_t lanes[16];
  std::memcpy(lanes, &a, sizeof lanes);
  for (std::int32_t& lane : lanes) lane >>= count;
  return same_bits<__m512i>(lanes);
}

}  // namespace emulated

#define _mm512_maskz_loadu_ps emulated::maskz_loadu_ps
#define _mm512_mask_storeu_ps emulated::mask_storeu_ps
#define _mm512_cvtepu16_epi32 emulated::cvtepu16_epi32
#define _mm512_cvtps_epi32 emulated::cvtps_epi32
#define _mm512_extractf32x8_ps emulated::half_ps
#define _mm512_cvtph_ps emulated::cvtph_ps
#define _mm512_cvtepu8_epi32 emulated::cvtepu8_epi32
#define _mm512_cvtepi32_ps emulated::cvtepi32_ps
#undef _mm512_srlv_epi32
#define _mm512_srlv_epi32 emulated::srlv_epi32
#undef _mm512_srai_epi32
#define _mm512_srai_epi32 emulated::srai_epi32
