#pragma once
// The integer vocabulary of packed.inl in plain C++: the reference the other units are tested
// against.

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/cpu/simd_scalar.h"

namespace tenfold::scalar {

static constexpr int kVectors = 16;  // F32 vectors in 16 rows
static constexpr bool kFieldsInPlace = false;

struct Line {
  std::uint8_t v[64];
};
static inline Line load_line(const void* p) {
  Line line;
  std::memcpy(line.v, p, sizeof line.v);
  return line;
}
static inline Line in_register(const Line& a) { return a; }
static inline void store_line(void* p, const Line& a) { std::memcpy(p, a.v, sizeof a.v); }
static inline Line either(const Line& a, const Line& b) {
  Line line;
  for (int i = 0; i < 64; ++i) line.v[i] = static_cast<std::uint8_t>(a.v[i] | b.v[i]);
  return line;
}
template <int shift, int mask>
static inline Line bits_of(const Line& a) {
  Line line;
  for (int i = 0; i < 64; ++i) {
    const int v =
        shift >= 0 ? a.v[i] >> (shift >= 0 ? shift : 0) : a.v[i] << (shift < 0 ? -shift : 0);
    line.v[i] = static_cast<std::uint8_t>(v & mask);
  }
  return line;
}

template <int bits>
struct Dots {
  std::int32_t v[16];
};
template <int bits>
static constexpr int kDots = 2;  // both panels of its one token
template <int bits>
static inline void clear(Dots<bits>& a) {
  for (std::int32_t& v : a.v) v = 0;
}
template <int bits>
static inline void accumulate(Dots<bits>& a, const Line& codes, const std::int8_t* x) {
  for (int r = 0; r < 16; ++r) {
    for (int j = 0; j < 4; ++j) a.v[r] += codes.v[4 * r + j] * x[j];
  }
}
template <int bits>
static inline void widen_sums(Dots<bits>&) {}
template <int bits>
static inline void to_floats(const Dots<bits>& a, F32* out) {
  for (int r = 0; r < 16; ++r) out[r] = {static_cast<float>(a.v[r])};
}

template <int b, int shift>
static inline void add_zeros(const std::byte* p, F32* sum) {
  for (int r = 0; r < 16; ++r) {
    const int bit = r * b;
    const unsigned zero = static_cast<unsigned>(p[bit / 8]) >> bit % 8 & ((1u << b) - 1);
    sum[r].v += static_cast<float>(zero << shift);
  }
}

}  // namespace tenfold::scalar
