// Norms, activations, conversions. Included by each ISA unit inside its namespace.

// exp(x) to about 1 ulp: 2^n * e^r with |r| <= ln2 / 2 and a degree-6 polynomial; exact 0 below
// -87.3, so that masked scores vanish.
static inline F32 exp_of(F32 x) {
  const F32 clamped = min(max(x, set1(-87.33654f)), set1(88.37626f));
  const F32 n = round(mul(clamped, set1(1.44269504088896341f)));
  F32 r = fma(n, set1(-0.693359375f), clamped);
  r = fma(n, set1(2.12194440e-4f), r);
  F32 p = set1(1.9875691500e-4f);
  p = fma(p, r, set1(1.3981999507e-3f));
  p = fma(p, r, set1(8.3334519073e-3f));
  p = fma(p, r, set1(4.1665795894e-2f));
  p = fma(p, r, set1(1.6666665459e-1f));
  p = fma(p, r, set1(5.0000001201e-1f));
  p = fma(mul(r, r), p, add(r, set1(1.0f)));
  return mul(p, pow2(n));
}

static void rms_norm(const float* x, const float* weight, float eps, std::int64_t dim,
                     float* y) noexcept {
  F32 acc = zero();
  std::int64_t i = 0;
  for (; i + F32::width <= dim; i += F32::width) acc = fma(load(x + i), load(x + i), acc);
  if (i < dim) {
    const F32 tail = load_n(x + i, static_cast<int>(dim - i));
    acc = fma(tail, tail, acc);
  }
  const float scale = 1.0f / sqrt_of(hsum(acc) / static_cast<float>(dim) + eps);
  const F32 factor = set1(scale);
  for (i = 0; i + F32::width <= dim; i += F32::width) {
    store(y + i, mul(mul(load(x + i), factor), load(weight + i)));
  }
  for (; i < dim; ++i) y[i] = x[i] * scale * weight[i];
}

static void layer_norm(const float* x, const float* weight, const float* bias, float eps,
                       std::int64_t dim, float* y) noexcept {
  F32 acc = zero();
  std::int64_t i = 0;
  for (; i + F32::width <= dim; i += F32::width) acc = add(load(x + i), acc);
  if (i < dim) acc = add(load_n(x + i, static_cast<int>(dim - i)), acc);
  const float mean = hsum(acc) / static_cast<float>(dim);
  acc = zero();
  for (i = 0; i + F32::width <= dim; i += F32::width) {
    const F32 d = sub(load(x + i), set1(mean));
    acc = fma(d, d, acc);
  }
  float variance = hsum(acc);
  for (std::int64_t j = i; j < dim; ++j) variance += (x[j] - mean) * (x[j] - mean);
  const float scale = 1.0f / sqrt_of(variance / static_cast<float>(dim) + eps);
  for (i = 0; i < dim; ++i) {
    float value = (x[i] - mean) * scale;
    if (weight != nullptr) value *= weight[i];
    if (bias != nullptr) value += bias[i];
    y[i] = value;
  }
}

static inline F32 silu_of(F32 x) { return div(x, add(set1(1.0f), exp_of(sub(zero(), x)))); }

static void silu_mul(const float* gate, const float* up, std::int64_t n, float* y) noexcept {
  std::int64_t i = 0;
  for (; i + F32::width <= n; i += F32::width) {
    store(y + i, mul(silu_of(load(gate + i)), load(up + i)));
  }
  if (i < n) {
    const int tail = static_cast<int>(n - i);
    store_n(y + i, mul(silu_of(load_n(gate + i, tail)), load_n(up + i, tail)), tail);
  }
}

static void relu(float* x, std::int64_t n) noexcept {
  for (std::int64_t i = 0; i < n; ++i) x[i] = x[i] > 0.0f ? x[i] : 0.0f;
}

static void scale(float* x, float factor, std::int64_t n) noexcept {
  for (std::int64_t i = 0; i < n; ++i) x[i] *= factor;
}

template <WeightType type>
static void widen(const void* src, std::int64_t n, float* dst) {
  std::int64_t i = 0;
  for (; i + F32::width <= n; i += F32::width) store(dst + i, load_weight<type>(src, i));
  if (i < n) {
    const int tail = static_cast<int>(n - i);
    store_n(dst + i, load_weight_n<type>(src, i, tail), tail);
  }
}

static void to_f32(const void* src, WeightType type, std::int64_t n, float* dst) noexcept {
  switch (type) {
    case WeightType::f32:
      return widen<WeightType::f32>(src, n, dst);
    case WeightType::f16:
      return widen<WeightType::f16>(src, n, dst);
    case WeightType::bf16:
      return widen<WeightType::bf16>(src, n, dst);
  }
}

static void to_f16(const float* src, std::int64_t n, std::uint16_t* dst) noexcept {
  std::int64_t i = 0;
  for (; i + F32::width <= n; i += F32::width) store_f16(dst + i, load(src + i));
  if (i < n) {
    const int tail = static_cast<int>(n - i);
    std::uint16_t lanes[F32::width];
    store_f16(lanes, load_n(src + i, tail));
    for (int j = 0; j < tail; ++j) dst[i + j] = lanes[j];
  }
}

// Whole numbers nearest to x / step in [-levels, levels], where step = largest |x| / levels;
// returns the step. Where the step is not a normal number all count as zero, so that 1 / step stays
// finite.
template <typename Code>
static inline float quantize(const float* x, std::int64_t n, float levels, Code* codes) {
  F32 magnitude = zero();
  std::int64_t i = 0;
  for (; i + F32::width <= n; i += F32::width) {
    const F32 v = load(x + i);
    magnitude = max(magnitude, max(v, sub(zero(), v)));
  }
  if (i < n) {
    const F32 v = load_n(x + i, static_cast<int>(n - i));
    magnitude = max(magnitude, max(v, sub(zero(), v)));
  }
  const float step = hmax(magnitude) / levels;
  const bool nothing = !(step >= 1.17549435e-38f);
  const F32 factor = set1(nothing ? 0.0f : 1.0f / step);
  constexpr std::int64_t kBlock = 64;
  alignas(64) float rounded[kBlock];
  for (std::int64_t begin = 0; begin < n; begin += kBlock) {
    const std::int64_t size = n - begin < kBlock ? n - begin : kBlock;
    for (i = 0; i < size; i += F32::width) {
      const bool whole = i + F32::width <= size;
      const F32 v = whole ? load(x + begin + i) : load_n(x + begin + i, static_cast<int>(size - i));
      store(rounded + i, max(min(round(mul(v, factor)), set1(levels)), set1(-levels)));
    }
    for (i = 0; i < size; ++i) {
      codes[begin + i] = static_cast<Code>(static_cast<std::int32_t>(rounded[i]));
    }
  }
  return nothing ? 0.0f : step;
}

static float to_q8(const float* src, std::int64_t n, std::int8_t* codes) noexcept {
  return quantize(src, n, 127.0f, codes);
}

static double log_sum_exp(const float* logits, std::int64_t n) noexcept {
  float highest = logits[0];
  for (std::int64_t i = 1; i < n; ++i) highest = logits[i] > highest ? logits[i] : highest;
  double sum = 0;
  std::int64_t i = 0;
  for (; i + F32::width <= n; i += F32::width) {
    sum += sum_as_double(exp_of(sub(load(logits + i), set1(highest))));
  }
  for (; i < n; ++i) {
    float lanes[F32::width];
    store(lanes, exp_of(set1(logits[i] - highest)));
    sum += static_cast<double>(lanes[0]);
  }
  return static_cast<double>(highest) + __builtin_log(sum);
}
