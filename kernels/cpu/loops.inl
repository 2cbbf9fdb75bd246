// The loops of one instruction set. Included inside the unit's namespace.

#if defined(__AVX512F__)
static constexpr int kBytes = 64;
#elif defined(__AVX2__)
static constexpr int kBytes = 32;
#else
static constexpr int kBytes = 16;
#endif

template <typename T, int kSize>
struct VectorOf {
  typedef T type __attribute__((vector_size(kSize)));  // NOLINT(modernize-use-using)
};
static constexpr int kFloats = kBytes / 4, kDoubles = kBytes / 8;
using Floats = VectorOf<float, kBytes>::type;
using Ints = VectorOf<std::int32_t, kBytes>::type;
using Doubles = VectorOf<double, kBytes>::type;
using HalfFloats = VectorOf<float, kBytes / 2>::type;  // as many as Doubles
using HalfInts = VectorOf<std::int32_t, kBytes / 2>::type;

template <typename V, typename T>
static inline V load(const T* p) {
  V v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
template <typename V, typename T>
static inline void store(T* p, V v) {
  __builtin_memcpy(p, &v, sizeof v);
}
static inline Doubles widen(HalfFloats v) { return __builtin_convertvector(v, Doubles); }
static inline Doubles widened(const float* p) { return widen(load<HalfFloats>(p)); }
static inline Doubles widened(const double* p) { return load<Doubles>(p); }

// As many sums on every machine as the widest vector has, whatever they lie in.
static constexpr int kParts = 64 / kBytes;

static inline double sum_of(const Doubles (&sums)[kParts]) {
  double v[8];
  for (int part = 0; part < kParts; ++part) store(v + part * kDoubles, sums[part]);
  return ((v[0] + v[4]) + (v[1] + v[5])) + ((v[2] + v[6]) + (v[3] + v[7]));
}

static void add_scaled(float a, const float* __restrict x, std::int64_t n,
                       float* __restrict y) noexcept {
  for (std::int64_t i = 0; i < n; ++i) y[i] += a * x[i];
}

static void add_four(const float* __restrict a, const float* __restrict x, std::int64_t ldx,
                     std::int64_t n, float* __restrict y) noexcept {
  const float a0 = a[0], a1 = a[1], a2 = a[2], a3 = a[3];
  for (std::int64_t i = 0; i < n; ++i) {
    y[i] += (a0 * x[i] + a1 * x[ldx + i]) + (a2 * x[2 * ldx + i] + a3 * x[3 * ldx + i]);
  }
}

static void subtract_four(const double* __restrict a, const double* __restrict x, std::int64_t ldx,
                          std::int64_t n, double* __restrict y) noexcept {
  const double a0 = a[0], a1 = a[1], a2 = a[2], a3 = a[3];
  for (std::int64_t i = 0; i < n; ++i) {
    y[i] -= (a0 * x[i] + a1 * x[ldx + i]) + (a2 * x[2 * ldx + i] + a3 * x[3 * ldx + i]);
  }
}

template <typename T>
static double dot_of(const float* a, const T* b, std::int64_t n) {
  Doubles sums[kParts] = {};
  std::int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    for (int part = 0; part < kParts; ++part) {
      sums[part] += widened(a + i + part * kDoubles) * widened(b + i + part * kDoubles);
    }
  }
  double total = sum_of(sums);
  for (; i < n; ++i) total += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return total;
}
static double dot(const float* a, const float* b, std::int64_t n) noexcept {
  return dot_of(a, b, n);
}
static double dot_double(const float* a, const double* b, std::int64_t n) noexcept {
  return dot_of(a, b, n);
}

static constexpr int kSide = static_cast<int>(kSideBySide) / kDoubles;

// sum += sign a x; a product with -a is the negative of that with a, to the bit.
template <typename T>
static void products_of(double sign, const T* a, const double* x, std::int64_t n, double* sum) {
  Doubles sums[kSide];
  for (int k = 0; k < kSide; ++k) sums[k] = load<Doubles>(sum + k * kDoubles);
  for (std::int64_t i = 0; i < n; ++i, x += kSideBySide) {
    const double by = sign * static_cast<double>(a[i]);
    for (int k = 0; k < kSide; ++k) sums[k] += by * load<Doubles>(x + k * kDoubles);
  }
  for (int k = 0; k < kSide; ++k) store(sum + k * kDoubles, sums[k]);
}
static void add_products(const double* a, const double* x, std::int64_t n, double* sum) noexcept {
  products_of(1.0, a, x, n, sum);
}
static void subtract_products(const float* a, const double* x, std::int64_t n,
                              double* sum) noexcept {
  products_of(-1.0, a, x, n, sum);
}

static void subtract_outer(const float* a, const double* x, std::int64_t n, double* y) noexcept {
  Doubles from[kSide];
  for (int k = 0; k < kSide; ++k) from[k] = load<Doubles>(x + k * kDoubles);
  for (std::int64_t i = 0; i < n; ++i, y += kSideBySide) {
    const auto by = static_cast<double>(a[i]);
    for (int k = 0; k < kSide; ++k) {
      store(y + k * kDoubles, load<Doubles>(y + k * kDoubles) - by * from[k]);
    }
  }
}

// Codes are not negative and at most 255; lround would be slower by far.
template <typename I, typename V>
static inline V nearest_code(V weights, const Levels& levels) {
  V place = (weights - levels.min) * levels.inverse;
  place = place > 0.0f ? place : V{};
  place = place < levels.top ? place : V{} + levels.top;
  return __builtin_convertvector(__builtin_convertvector(place + 0.5f, I), V);
}

// Calls add(weights, counts) for kLanes of them at a time, counts null for 1 each; the last are
// padded with weights that do not count.
template <int kLanes, typename Add>
static inline void for_lanes(const float* weights, const float* importance, std::int64_t n,
                             Add add) {
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) add(weights + i, importance ? importance + i : nullptr);
  if (i == n) return;
  float w[kLanes] = {}, counts[kLanes] = {};
  for (int lane = 0; i < n; ++i, ++lane) {
    w[lane] = weights[i];
    counts[lane] = importance ? importance[i] : 1.0f;
  }
  add(w, counts);
}

static double squared_error(const float* weights, const float* importance, std::int64_t n,
                            const Levels& levels) noexcept {
  Floats sums[kParts] = {};
  for_lanes<16>(weights, importance, n, [&](const float* w, const float* counts) {
    for (int part = 0; part < kParts; ++part) {
      const auto weight = load<Floats>(w + part * kFloats);
      const Floats code = nearest_code<Ints>(weight, levels);
      const Floats error = weight - (levels.scale * code + levels.min);
      const Floats by = counts ? load<Floats>(counts + part * kFloats) : Floats{} + 1.0f;
      sums[part] += by * (error * error);
    }
  });
  double total = 0;
  for (int part = 0; part < kParts; ++part) {
    for (int lane = 0; lane < kFloats; ++lane) total += static_cast<double>(sums[part][lane]);
  }
  return total;
}

static LevelMoments moments(const float* weights, const float* importance, std::int64_t n,
                            const Levels& levels, float origin) noexcept {
  Doubles sum_n[kParts] = {}, sum_level[kParts] = {}, sum_level2[kParts] = {};
  Doubles sum_weight[kParts] = {}, sum_product[kParts] = {};
  for_lanes<8>(weights, importance, n, [&](const float* w, const float* counts) {
    for (int part = 0; part < kParts; ++part) {
      const auto weight = load<HalfFloats>(w + part * kDoubles);
      const Doubles level = widen(nearest_code<HalfInts>(weight, levels) - origin);
      const Doubles by = counts ? widened(counts + part * kDoubles) : Doubles{} + 1.0;
      const Doubles weighted = by * level;
      sum_n[part] += by;
      sum_level[part] += weighted;
      sum_level2[part] += weighted * level;
      sum_weight[part] += by * widen(weight);
      sum_product[part] += weighted * widen(weight);
    }
  });
  return {sum_of(sum_n), sum_of(sum_level), sum_of(sum_level2), sum_of(sum_weight),
          sum_of(sum_product)};
}

static constexpr Loops make_loops(const char* isa) {
  return {isa,          add_scaled,        add_four,       subtract_four, dot,    dot_double,
          add_products, subtract_products, subtract_outer, squared_error, moments};
}
