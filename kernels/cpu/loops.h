#pragma once
// The inner loops of the quantizer's algebra, compiled for each instruction set. All of them give
// the same bits, so that the choice shows in time alone: nothing is fused, and each sum has its own
// fixed lanes.

#include <cstddef>
#include <cstdint>

namespace tenfold {

inline constexpr std::size_t kSideBySide = 16;  // right-hand sides that are solved together

// The values of codes: scale * code + min.
struct Levels {
  float scale = 0, min = 0;
  float inverse = 0;  // of the scale, with which codes are computed
  float top = 0;      // the greatest code
};

// Sums over weights w with codes c, each times the weight's importance: of 1, c - origin,
// (c - origin)^2, w and (c - origin) w.
struct LevelMoments {
  double n = 0, level = 0, level2 = 0, weight = 0, product = 0;
};

struct Loops {
  const char* isa;
  // y += a x.
  void (*add_scaled)(float a, const float* x, std::int64_t n, float* y) noexcept;
  // y += (a[0] x[0] + a[1] x[1]) + (a[2] x[2] + a[3] x[3]); row i of x begins at x + i * ldx.
  void (*add_four)(const float* a, const float* x, std::int64_t ldx, std::int64_t n,
                   float* y) noexcept;
  // y -= the same.
  void (*subtract_four)(const double* a, const double* x, std::int64_t ldx, std::int64_t n,
                        double* y) noexcept;
  double (*dot)(const float* a, const float* b, std::int64_t n) noexcept;
  double (*dot_double)(const float* a, const double* b, std::int64_t n) noexcept;
  // sum += a x and sum -= a x, x [n][kSideBySide].
  void (*add_products)(const double* a, const double* x, std::int64_t n, double* sum) noexcept;
  void (*subtract_products)(const float* a, const double* x, std::int64_t n, double* sum) noexcept;
  // y[i] -= a[i] x, y [n][kSideBySide].
  void (*subtract_outer)(const float* a, const double* x, std::int64_t n, double* y) noexcept;
  // Of the weights' nearest values; importance may be null, for 1.
  double (*squared_error)(const float* weights, const float* importance, std::int64_t n,
                          const Levels&) noexcept;
  LevelMoments (*moments)(const float* weights, const float* importance, std::int64_t n,
                          const Levels&, float origin) noexcept;
};

const Loops& baseline_loops() noexcept;
const Loops& avx2_loops() noexcept;
const Loops& avx512_loops() noexcept;

}  // namespace tenfold
