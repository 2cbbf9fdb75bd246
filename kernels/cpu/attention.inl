// One chunk of at most kAttentionChunk keys for a group of queries that share a KV head: scores by
// the dot tiles of linear.inl, a softmax partial, and the unnormalized sum over values. Included by
// each ISA unit inside its namespace.
//
// What a query gets depends only on its own vector and the keys it sees, never on the other queries
// of the group. Chunks are merged in order by attention_merge, so a long context may be split over
// threads without changing a bit. No score matrix exists beyond [n_queries, kAttentionChunk].

// f32 pages are used in place; f16 pages are widened into scratch once for the whole group.
static inline const float* page_as_f32(const AttentionChunkArgs& a, const void* page,
                                       std::int64_t n_keys, float* scratch) {
  if (!a.f16) return static_cast<const float*>(page);
  widen<WeightType::f16>(page, n_keys * a.head_dim, scratch);
  return scratch;
}

template <WeightType type>
static void score_page(const AttentionChunkArgs& a, const char* keys, std::int64_t n_keys,
                       const float* queries, float* scores) {
  const std::int64_t stride = a.head_dim * weight_bytes(type);
  LinearArgs args;
  args.rows = n_keys;
  args.cols = a.head_dim;
  args.x = queries;
  args.ldx = a.head_dim;
  args.tokens = a.n_queries;
  args.y = scores;
  args.ldy = kAttentionChunk;
  std::int64_t r = 0;
  if (a.n_queries == 1) {
    for (; r + 8 <= n_keys; r += 8) linear_tile<8, 1, type>(args, keys + r * stride, stride, r, 0);
  }
  for (; r + 4 <= n_keys; r += 4) {
    linear_tokens<4, type>(args, keys + r * stride, stride, r, 0, a.n_queries);
  }
  for (; r < n_keys; ++r) {
    linear_tokens<1, type>(args, keys + r * stride, stride, r, 0, a.n_queries);
  }
}

// scores[0, n) -> probabilities relative to the chunk's maximum.
static inline void softmax_partial(float* scores, std::int64_t n, float scale, float* max_out,
                                   float* sum_out) {
  F32 highest = set1(-__builtin_inff());
  std::int64_t i = 0;
  for (; i + F32::width <= n; i += F32::width) highest = max(highest, load(scores + i));
  float top = hmax(highest);
  for (; i < n; ++i) top = scores[i] > top ? scores[i] : top;
  const F32 shift = set1(top * scale);
  const F32 factor = set1(scale);
  F32 sum = zero();
  for (i = 0; i + F32::width <= n; i += F32::width) {
    const F32 p = exp_of(sub(mul(load(scores + i), factor), shift));
    store(scores + i, p);
    sum = add(sum, p);
  }
  if (i < n) {
    const int tail = static_cast<int>(n - i);
    const F32 p = exp_of(sub(mul(load_n(scores + i, tail), factor), shift));
    store_n(scores + i, p, tail);
    sum = add(sum, load_n(scores + i, tail));
  }
  *max_out = top * scale;
  *sum_out = hsum(sum);
}

// out[q][c..] += sum_j p[q][j] * values[j][c..] for M queries and 2 vectors of channels.
template <int M, int C>
static inline void value_tile(const float* values, std::int64_t head_dim, std::int64_t n_keys,
                              const float* probabilities, float* out) {
  F32 acc[M][C];
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) {
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) acc[m][c] = load(out + m * head_dim + c * F32::width);
  }
  for (std::int64_t j = 0; j < n_keys; ++j) {
    F32 v[C];
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) v[c] = load(values + j * head_dim + c * F32::width);
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
      const F32 p = set1(probabilities[m * kAttentionChunk + j]);
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) acc[m][c] = fma(p, v[c], acc[m][c]);
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) {
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) store(out + m * head_dim + c * F32::width, acc[m][c]);
  }
}

template <int M>
static inline void value_rows(const float* values, std::int64_t head_dim, std::int64_t n_keys,
                              const float* probabilities, float* out) {
  std::int64_t c = 0;
  for (; c + 2 * F32::width <= head_dim; c += 2 * F32::width) {
    value_tile<M, 2>(values + c, head_dim, n_keys, probabilities, out + c);
  }
  for (; c + F32::width <= head_dim; c += F32::width) {
    value_tile<M, 1>(values + c, head_dim, n_keys, probabilities, out + c);
  }
  if (c == head_dim) return;
  const int tail = static_cast<int>(head_dim - c);
  for (int m = 0; m < M; ++m) {
    F32 acc = load_n(out + m * head_dim + c, tail);
    for (std::int64_t j = 0; j < n_keys; ++j) {
      acc = fma(set1(probabilities[m * kAttentionChunk + j]),
                load_n(values + j * head_dim + c, tail), acc);
    }
    store_n(out + m * head_dim + c, acc, tail);
  }
}

static inline std::int64_t keys_in_page(std::int64_t n_keys, std::int64_t page) {
  const std::int64_t left = n_keys - page * kPageTokens;
  return left < 0 ? 0 : left > kPageTokens ? kPageTokens : left;
}

// Groups of 4 queries share the keys that all 4 see; each goes on alone over the rest.
static void add_values(const AttentionChunkArgs& a, const float* values, std::int64_t page,
                       const float* scores) {
  std::int64_t q = 0;
  for (; q + 4 <= a.n_queries; q += 4) {
    std::int64_t common = kPageTokens;
    for (int m = 0; m < 4; ++m) {
      const std::int64_t n = keys_in_page(a.n_keys[q + m], page);
      common = n < common ? n : common;
    }
    const float* p = scores + q * kAttentionChunk + page * kPageTokens;
    value_rows<4>(values, a.head_dim, common, p, a.out + q * a.head_dim);
    for (int m = 0; m < 4; ++m) {
      const std::int64_t n = keys_in_page(a.n_keys[q + m], page);
      if (n == common) continue;
      value_rows<1>(values + common * a.head_dim, a.head_dim, n - common,
                    p + m * kAttentionChunk + common, a.out + (q + m) * a.head_dim);
    }
  }
  for (; q < a.n_queries; ++q) {
    value_rows<1>(values, a.head_dim, keys_in_page(a.n_keys[q], page),
                  scores + q * kAttentionChunk + page * kPageTokens, a.out + q * a.head_dim);
  }
}

static void attention_chunk(const AttentionChunkArgs& a, float* scratch) noexcept {
  float* queries = scratch;                              // [n_queries, head_dim]
  float* page_f32 = queries + a.n_queries * a.head_dim;  // [kPageTokens, head_dim]
  float* scores = page_f32 + kPageTokens * a.head_dim;   // [n_queries, kAttentionChunk]
  std::int64_t longest = 0;
  for (std::int64_t q = 0; q < a.n_queries; ++q) {
    longest = a.n_keys[q] > longest ? a.n_keys[q] : longest;
    for (std::int64_t c = 0; c < a.head_dim; ++c) queries[q * a.head_dim + c] = a.q[q][c];
    for (std::int64_t c = 0; c < a.head_dim; ++c) a.out[q * a.head_dim + c] = 0.0f;
  }
  const std::int64_t n_pages = (longest + kPageTokens - 1) / kPageTokens;
  for (std::int64_t page = 0; page < n_pages; ++page) {
    const std::int64_t n = keys_in_page(longest, page);
    float* page_scores = scores + page * kPageTokens;
    if (a.f16 && a.n_queries < 4) {
      score_page<WeightType::f16>(a, static_cast<const char*>(a.k_pages[page]), n, queries,
                                  page_scores);
    } else {
      const float* keys = page_as_f32(a, a.k_pages[page], n, page_f32);
      score_page<WeightType::f32>(a, reinterpret_cast<const char*>(keys), n, queries, page_scores);
    }
  }
  for (std::int64_t q = 0; q < a.n_queries; ++q) {
    a.max[q] = -__builtin_inff();
    a.sum[q] = 0.0f;
    if (a.n_keys[q] > 0) {
      softmax_partial(scores + q * kAttentionChunk, a.n_keys[q], a.scale, a.max + q, a.sum + q);
    }
  }
  for (std::int64_t page = 0; page < n_pages; ++page) {
    const std::int64_t n = keys_in_page(longest, page);
    add_values(a, page_as_f32(a, a.v_pages[page], n, page_f32), page, scores);
  }
}

static std::int64_t attention_scratch(std::int64_t n_queries, std::int64_t head_dim) noexcept {
  return n_queries * (head_dim + kAttentionChunk) + kPageTokens * head_dim;
}

static inline float exp_scalar(float x) {
  float lanes[F32::width];
  store(lanes, exp_of(set1(x)));
  return lanes[0];
}

static void attention_merge(float* max_io, float* sum_io, float* out, float max2, float sum2,
                            const float* out2, std::int64_t head_dim) noexcept {
  if (sum2 == 0.0f) return;
  if (*sum_io == 0.0f) {
    *max_io = max2;
    *sum_io = sum2;
    for (std::int64_t c = 0; c < head_dim; ++c) out[c] = out2[c];
    return;
  }
  const float top = *max_io > max2 ? *max_io : max2;
  const float keep = exp_scalar(*max_io - top);
  const float add_factor = exp_scalar(max2 - top);
  for (std::int64_t c = 0; c < head_dim; ++c) out[c] = out[c] * keep + out2[c] * add_factor;
  *sum_io = *sum_io * keep + sum2 * add_factor;
  *max_io = top;
}
