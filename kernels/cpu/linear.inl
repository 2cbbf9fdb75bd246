// y = W x for row-major f32/f16/bf16 weights and f32 activations. Included by each ISA unit inside
// its namespace, after its simd header.
//
// Every output (row, token) has one accumulator vector that walks the columns from left to right
// and is folded once at the end: the sum does not depend on the tile it was computed in, so decode,
// prefill and batches agree bit for bit.
//
// One token: whole cache lines of 4 short rows in turn, or of one long row after the other, which
// is what the prefetchers follow best. Few: 4 rows at once, widened in registers. Many tokens: a
// chunk of rows is widened once to f32 in scratch (L2), and tiles of 4 rows x tile_tokens tokens
// run over blocks of tokens that stay in L2 beside it.

template <WeightType type>
static inline F32 load_weight(const void* row, std::int64_t c) {
  if constexpr (type == WeightType::f32) return load(static_cast<const float*>(row) + c);
  if constexpr (type == WeightType::f16)
    return load_f16(static_cast<const std::uint16_t*>(row) + c);
  if constexpr (type == WeightType::bf16) {
    return load_bf16(static_cast<const std::uint16_t*>(row) + c);
  }
}

template <WeightType type>
static inline F32 load_weight_n(const void* row, std::int64_t c, int n) {
  if constexpr (type == WeightType::f32) return load_n(static_cast<const float*>(row) + c, n);
  if constexpr (type == WeightType::f16) {
    return load_f16_n(static_cast<const std::uint16_t*>(row) + c, n);
  }
  if constexpr (type == WeightType::bf16) {
    return load_bf16_n(static_cast<const std::uint16_t*>(row) + c, n);
  }
}

static constexpr std::int64_t weight_bytes(WeightType type) {
  return type == WeightType::f32 ? 4 : 2;
}

// out[t * 4 + r] for R = 4, out[t] for R = 1.
template <int R, int T, WeightType type>
static inline void dot_tile(const char* w, std::int64_t w_stride, const float* x, std::int64_t ldx,
                            std::int64_t cols, float* out) {
  F32 acc[R][T];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) acc[r][t] = zero();
  }
  std::int64_t c = 0;
  for (; c + F32::width <= cols; c += F32::width) {
    F32 xv[T];
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) xv[t] = load(x + t * ldx + c);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const F32 wv = load_weight<type>(w + r * w_stride, c);
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) acc[r][t] = fma(wv, xv[t], acc[r][t]);
    }
  }
  if (c < cols) {
    const int n = static_cast<int>(cols - c);
    F32 xv[T];
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) xv[t] = load_n(x + t * ldx + c, n);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const F32 wv = load_weight_n<type>(w + r * w_stride, c, n);
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) acc[r][t] = fma(wv, xv[t], acc[r][t]);
    }
  }
  if constexpr (R == 1) {
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) out[t] = hsum(acc[0][t]);
  } else {
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) hsum4(acc[0][t], acc[1][t], acc[2][t], acc[3][t], out + t * 4);
  }
}

// Adds columns [c, cols) of R rows to acc, V vectors of a row before the next row's.
template <int R, int V, WeightType type>
static inline void walk_rows(const char* w, std::int64_t w_stride, const float* x,
                             std::int64_t cols, const char* ahead, F32* acc) {
  constexpr std::int64_t kStep = V * F32::width;
  std::int64_t c = 0;
  for (; c + kStep <= cols; c += kStep) {
    if (R > 1) {
      for (std::int64_t i = 0; i < R * kStep * weight_bytes(type); i += 64) {
        __builtin_prefetch(ahead + i);
      }
      ahead += R * kStep * weight_bytes(type);
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) {
        const std::int64_t at = c + v * F32::width;
        acc[r] = fma(load_weight<type>(w + r * w_stride, at), load(x + at), acc[r]);
      }
    }
  }
  for (; c < cols; c += F32::width) {
    const int n = static_cast<int>(cols - c < F32::width ? cols - c : F32::width);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      acc[r] = fma(load_weight_n<type>(w + r * w_stride, c, n), load_n(x + c, n), acc[r]);
    }
  }
}

static constexpr std::int64_t kShortRowBytes = 2048;  // the hardware prefetcher starts too late

// Four rows, one token.
template <WeightType type>
static inline void dot_rows(const char* w, std::int64_t w_stride, const float* x, std::int64_t cols,
                            float* out) {
  constexpr std::int64_t vector_bytes = F32::width * weight_bytes(type);
  constexpr int kLineVectors = vector_bytes >= 64 ? 1 : vector_bytes >= 32 ? 2 : 4;
  F32 acc[4] = {zero(), zero(), zero(), zero()};
  if (w_stride <= kShortRowBytes) {
    walk_rows<4, kLineVectors, type>(w, w_stride, x, cols, w + 4 * w_stride, acc);
  } else {
    for (int r = 0; r < 4; ++r) {
      walk_rows<1, 4, type>(w + r * w_stride, w_stride, x, cols, nullptr, acc + r);
    }
  }
  hsum4(acc[0], acc[1], acc[2], acc[3], out);
}

static inline void finish_output(const LinearArgs& a, std::int64_t r, std::int64_t t, float sum) {
  float* y = a.y + t * a.ldy + r;
  if (a.bias != nullptr) sum += a.bias[r];
  *y = a.accumulate ? *y + sum : sum;
}

// R rows from `r` on, T tokens from `t` on; w points at row r.
template <int R, int T, WeightType type>
static inline void linear_tile(const LinearArgs& a, const char* w, std::int64_t w_stride,
                               std::int64_t r, std::int64_t t) {
  float out[R * T];
  dot_tile<R, T, type>(w, w_stride, a.x + t * a.ldx, a.ldx, a.cols, out);
  for (int j = 0; j < T; ++j) {
    for (int i = 0; i < R; ++i) {
      finish_output(a, r + i, t + j, out[j * R + i]);
    }
  }
}

template <int R, WeightType type>
static inline void linear_tokens(const LinearArgs& a, const char* w, std::int64_t w_stride,
                                 std::int64_t r, std::int64_t t, std::int64_t t_end) {
  for (; t + F32::tile_tokens <= t_end; t += F32::tile_tokens) {
    linear_tile<R, F32::tile_tokens, type>(a, w, w_stride, r, t);
  }
  for (; t + 2 <= t_end; t += 2) linear_tile<R, 2, type>(a, w, w_stride, r, t);
  for (; t < t_end; ++t) linear_tile<R, 1, type>(a, w, w_stride, r, t);
}

template <WeightType type>
static void linear_few(const LinearArgs& a, std::int64_t r, std::int64_t r_end) {
  const std::int64_t stride = a.cols * weight_bytes(type);
  const char* base = static_cast<const char*>(a.weight);
  for (; a.tokens == 1 && r + 4 <= r_end; r += 4) {
    float out[4];
    dot_rows<type>(base + r * stride, stride, a.x, a.cols, out);
    for (int i = 0; i < 4; ++i) finish_output(a, r + i, 0, out[i]);
  }
  for (; r + 4 <= r_end; r += 4) {
    linear_tokens<4, type>(a, base + r * stride, stride, r, 0, a.tokens);
  }
  for (; r < r_end; ++r) linear_tokens<1, type>(a, base + r * stride, stride, r, 0, a.tokens);
}

static constexpr std::int64_t kRowBlock = 32;                 // rows widened to f32 at a time
static constexpr std::int64_t kTokenBlockBytes = 192 * 1024;  // activations beside them in L2

template <WeightType type>
static void widen_rows(const LinearArgs& a, std::int64_t r, std::int64_t n_rows, float* scratch) {
  const std::int64_t n = n_rows * a.cols;
  const char* src = static_cast<const char*>(a.weight) + r * a.cols * weight_bytes(type);
  std::int64_t c = 0;
  for (; c + F32::width <= n; c += F32::width) store(scratch + c, load_weight<type>(src, c));
  if (c < n) {
    const int tail = static_cast<int>(n - c);
    store_n(scratch + c, load_weight_n<type>(src, c, tail), tail);
  }
}

template <WeightType type>
static void linear_many(const LinearArgs& a, std::int64_t r_begin, std::int64_t r_end,
                        float* scratch) {
  std::int64_t block = kTokenBlockBytes / (a.cols * 4) / F32::tile_tokens * F32::tile_tokens;
  if (block < F32::tile_tokens) block = F32::tile_tokens;
  for (std::int64_t r0 = r_begin; r0 < r_end; r0 += kRowBlock) {
    const std::int64_t n_rows = r_end - r0 < kRowBlock ? r_end - r0 : kRowBlock;
    const char* rows = static_cast<const char*>(a.weight) + r0 * a.cols * 4;
    if constexpr (type != WeightType::f32) {
      widen_rows<type>(a, r0, n_rows, scratch);
      rows = reinterpret_cast<const char*>(scratch);
    }
    const std::int64_t stride = a.cols * 4;
    for (std::int64_t t0 = 0; t0 < a.tokens; t0 += block) {
      const std::int64_t t1 = t0 + block < a.tokens ? t0 + block : a.tokens;
      std::int64_t i = 0;
      for (; i + 4 <= n_rows; i += 4) {
        linear_tokens<4, WeightType::f32>(a, rows + i * stride, stride, r0 + i, t0, t1);
      }
      for (; i < n_rows; ++i) {
        linear_tokens<1, WeightType::f32>(a, rows + i * stride, stride, r0 + i, t0, t1);
      }
    }
  }
}

template <WeightType type>
static void linear_typed(const LinearArgs& a, std::int64_t r_begin, std::int64_t r_end,
                         float* scratch) {
  if (a.tokens <= 2 * F32::tile_tokens) {
    linear_few<type>(a, r_begin, r_end);
  } else {
    linear_many<type>(a, r_begin, r_end, scratch);
  }
}

static void linear(const LinearArgs& a, std::int64_t r_begin, std::int64_t r_end,
                   float* scratch) noexcept {
  switch (a.type) {
    case WeightType::f32:
      return linear_typed<WeightType::f32>(a, r_begin, r_end, scratch);
    case WeightType::f16:
      return linear_typed<WeightType::f16>(a, r_begin, r_end, scratch);
    case WeightType::bf16:
      return linear_typed<WeightType::bf16>(a, r_begin, r_end, scratch);
  }
}

static std::int64_t linear_scratch(std::int64_t cols) noexcept { return kRowBlock * cols; }
