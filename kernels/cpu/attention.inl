// One chunk of at most kAttentionChunk keys for a group of queries that share a KV head: scores, a
// softmax partial, and the unnormalized sum over values. Included by each ISA unit inside its
// namespace.
//
// What a query gets depends only on its own vector and the keys it sees, never on the other queries
// of the group: tiles cover any number of queries, but each (query, key) score and each (query,
// channel) sum is computed in one order. Chunks are merged in order by attention_merge, so a long
// context may be split over threads without changing a bit. No score matrix exists beyond
// [n_queries, kAttentionChunk].
//
// Keys and values are widened in registers, once for the queries of a tile. With few queries the
// time is that of reading them, so every page is fetched into L2 while the one before it is worked
// on: pages lie apart, and the hardware prefetcher stops at the end of each.
//
// q8: everything meets the codes as integers of 16 bits, twice as fast as floats and exact,
// whatever the tile. The query is rounded to its largest element / 32767, an error 250 times below
// that of the keys, whose scales are applied to the scores. A probability is multiplied by its
// value's scale and rounded to 1 / 32767 of the largest of the chunk.

static constexpr std::int64_t kLine = 64;  // bytes of a cache line

static constexpr std::int64_t element_bytes(KvType type) {
  return type == KvType::q8 ? 1 : type == KvType::f16 ? 2 : 4;
}

template <KvType type>
static inline F32 load_element(const void* row, std::int64_t c) {
  if constexpr (type == KvType::f32) return load_weight<WeightType::f32>(row, c);
  if constexpr (type == KvType::f16) return load_weight<WeightType::f16>(row, c);
}
template <KvType type>
static inline F32 load_element_n(const void* row, std::int64_t c, int n) {
  if constexpr (type == KvType::f32) return load_weight_n<WeightType::f32>(row, c, n);
  if constexpr (type == KvType::f16) return load_weight_n<WeightType::f16>(row, c, n);
}

static inline const float* q8_scales(const void* share, std::int64_t head_dim) {
  return reinterpret_cast<const float*>(static_cast<const char*>(share) + kPageTokens * head_dim);
}

static inline void fetch(const char* p, std::int64_t bytes) {
  for (std::int64_t b = 0; b < bytes; b += kLine) __builtin_prefetch(p + b, 0, 2);
}
template <KvType type>
static inline void fetch_scales(const void* share, std::int64_t head_dim) {
  if constexpr (type == KvType::q8) {
    if (share == nullptr) return;
    const float* scales = q8_scales(share, head_dim);
    fetch(reinterpret_cast<const char*>(scales), kPageTokens * 4);
  }
}

static inline std::int64_t keys_in_page(std::int64_t n_keys, std::int64_t page) {
  const std::int64_t left = n_keys - page * kPageTokens;
  return left < 0 ? 0 : left > kPageTokens ? kPageTokens : left;
}

// The queries of a chunk as the scores need them.
struct ScoreQueries {
  std::int64_t n, head_dim;
  const float* values;        // [n, head_dim]
  const std::int16_t* codes;  // q8: [n, padded], zeros behind head_dim
  std::int64_t padded;        // head_dim in whole steps of kDotCols
};

// As dot_tile, of codes. What the last step reads behind a row meets zeros of the query.
template <int R, int T>
static inline void code_tile(const std::int8_t* keys, const ScoreQueries& q, std::int64_t t,
                             float* out) {
  const std::int16_t* codes = q.codes + t * q.padded;
  I32 acc[R][T];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int i = 0; i < T; ++i) acc[r][i] = zero_sum();
  }
  for (std::int64_t c = 0; c < q.padded; c += kDotCols) {
    I16 x[T];
#pragma GCC unroll 8
    for (int i = 0; i < T; ++i) x[i] = load_i16(codes + i * q.padded + c);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const I16 key = widen_i8(keys + r * q.head_dim + c);
#pragma GCC unroll 8
      for (int i = 0; i < T; ++i) acc[r][i] = dot(acc[r][i], key, x[i]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < T; ++i) {
    if constexpr (R == 4) {
      hsum4(acc[0][i], acc[1][i], acc[2][i], acc[3][i], out + 4 * i);
    } else {
      float four[4];
      hsum4(acc[0][i], zero_sum(), zero_sum(), zero_sum(), four);
      out[i] = four[0];
    }
  }
}

// scores[i * kAttentionChunk + r] for R keys and T queries from t on.
template <int R, int T, KvType type>
static inline void score_tile(const void* keys, const ScoreQueries& q, std::int64_t t,
                              float* scores) {
  float out[R * T];
  if constexpr (type == KvType::q8) {
    code_tile<R, T>(static_cast<const std::int8_t*>(keys), q, t, out);
  } else {
    constexpr WeightType kType = type == KvType::f16 ? WeightType::f16 : WeightType::f32;
    dot_tile<R, T, kType>(static_cast<const char*>(keys), q.head_dim * element_bytes(type),
                          q.values + t * q.head_dim, q.head_dim, q.head_dim, out);
  }
#pragma GCC unroll 8
  for (int i = 0; i < T; ++i) {
    __builtin_memcpy(scores + (t + i) * kAttentionChunk, out + R * i, R * sizeof(float));
  }
}

// All queries from t on, fewer than T + 1 of them.
template <int R, int T, KvType type>
static inline void score_rest(const void* keys, const ScoreQueries& q, std::int64_t t,
                              float* scores) {
  if constexpr (T > 0) {
    if (q.n - t == T) return score_tile<R, T, type>(keys, q, t, scores);
    score_rest<R, T - 1, type>(keys, q, t, scores);
  }
}

template <int R, KvType type>
static inline void score_rows(const void* keys, const ScoreQueries& q, float* scores) {
  constexpr int kMost = type == KvType::q8 ? kDotTile : F32::tile_tokens;
  std::int64_t t = 0;
  for (; t + kMost <= q.n; t += kMost) score_tile<R, kMost, type>(keys, q, t, scores);
  score_rest<R, kMost - 1, type>(keys, q, t, scores);
}

// Scores of one page's keys, for q8 in steps of their scales; `next` is fetched meanwhile.
template <KvType type>
static void score_page(const void* share, std::int64_t n_keys, const ScoreQueries& q,
                       const void* next, float* scores) {
  const std::int64_t row = q.head_dim * element_bytes(type);
  const char* keys = static_cast<const char*>(share);
  const char* ahead = static_cast<const char*>(next);
  fetch_scales<type>(next, q.head_dim);
  std::int64_t r = 0;
  for (; r + 4 <= n_keys; r += 4) {
    if (ahead != nullptr) fetch(ahead + r * row, 4 * row);
    score_rows<4, type>(keys + r * row, q, scores + r);
  }
  for (; r < n_keys; ++r) score_rows<1, type>(keys + r * row, q, scores + r);
}

// The scales of a chunk's keys and values, page by page; null where there are none.
struct ChunkScales {
  const float* k[kAttentionChunk / kPageTokens];
  const float* v[kAttentionChunk / kPageTokens];
};
static inline const float* scale_at(const float* const* pages, std::int64_t key) {
  return pages[key / kPageTokens] + key % kPageTokens;
}

// The largest of scores[0, n), after they were multiplied by the keys' scales.
template <bool scaled>
static inline float largest_score(float* scores, std::int64_t n, const ChunkScales& scales) {
  F32 highest = set1(-__builtin_inff());
  std::int64_t i = 0;
  for (; i + F32::width <= n; i += F32::width) {
    F32 s = load(scores + i);
    if constexpr (scaled) {
      s = mul(s, load(scale_at(scales.k, i)));
      store(scores + i, s);
    }
    highest = max(highest, s);
  }
  float top = hmax(highest);
  for (; i < n; ++i) {
    if constexpr (scaled) scores[i] *= *scale_at(scales.k, i);
    top = scores[i] > top ? scores[i] : top;
  }
  return top;
}

// scores[0, n) -> probabilities relative to the chunk's maximum, times the values' scales.
template <bool scaled>
static inline void softmax_partial(float* scores, std::int64_t n, float scale,
                                   const ChunkScales& scales, float* max_out, float* sum_out) {
  const float top = largest_score<scaled>(scores, n, scales);
  const F32 shift = set1(top * scale);
  const F32 factor = set1(scale);
  F32 sum = zero();
  std::int64_t i = 0;
  for (; i + F32::width <= n; i += F32::width) {
    const F32 p = exp_of(sub(mul(load(scores + i), factor), shift));
    sum = add(sum, p);
    if constexpr (scaled) {
      store(scores + i, mul(p, load(scale_at(scales.v, i))));
    } else {
      store(scores + i, p);
    }
  }
  if (i < n) {
    const int tail = static_cast<int>(n - i);
    const F32 p = exp_of(sub(mul(load_n(scores + i, tail), factor), shift));
    store_n(scores + i, p, tail);
    sum = add(sum, load_n(scores + i, tail));
    if constexpr (scaled) {
      for (; i < n; ++i) scores[i] *= *scale_at(scales.v, i);
    }
  }
  *max_out = top * scale;
  *sum_out = hsum(sum);
}

// Values of one page, from one key on.
struct ValueRows {
  const char* rows;  // [n_keys, head_dim]
  std::int64_t head_dim, n_keys;
  const char* next;  // rows fetched meanwhile, or null: each tile fetches the columns it covers
};

// Fetches, row by row, the lines that begin in a tile's columns of the next page.
struct Ahead {
  const char* first;        // of the first row, or null
  std::int64_t lines, row;  // lines of a row's columns, bytes of a row

  Ahead(const char* page, std::int64_t row_bytes, std::int64_t from, std::int64_t bytes) {
    const std::int64_t begin = (from + kLine - 1) / kLine * kLine;
    first = page == nullptr ? nullptr : page + begin;
    lines = page == nullptr ? 0 : (from + bytes - begin + kLine - 1) / kLine;
    row = row_bytes;
  }
  void fetch_row(std::int64_t j) const {
    for (std::int64_t b = 0; b < lines; ++b) __builtin_prefetch(first + j * row + b * kLine, 0, 2);
  }
};

// out[m][c..] += sum_j p[m][j] * values[j][c..] for M queries and C vectors of channels.
template <int M, int C, KvType type>
static inline void value_tile(const ValueRows& v, std::int64_t c0, const float* probabilities,
                              float* out) {
  const std::int64_t row = v.head_dim * element_bytes(type);
  const Ahead ahead(v.next, row, c0 * element_bytes(type), C * F32::width * element_bytes(type));
  F32 acc[M][C];
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) {
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) acc[m][c] = load(out + m * v.head_dim + c0 + c * F32::width);
  }
  for (std::int64_t j = 0; j < v.n_keys; ++j) {
    ahead.fetch_row(j);
    F32 p[M];
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) p[m] = set1(probabilities[m * kAttentionChunk + j]);
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) {
      const F32 x = load_element<type>(v.rows + j * row, c0 + c * F32::width);
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m) acc[m][c] = fma(p[m], x, acc[m][c]);
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) {
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) store(out + m * v.head_dim + c0 + c * F32::width, acc[m][c]);
  }
}

template <int M, KvType type>
static inline void value_rows(const ValueRows& v, const float* probabilities, float* out) {
  constexpr int kMost = F32::accumulators / M;
  constexpr int kWide = kMost >= 8 ? 8 : kMost >= 4 ? 4 : 2;
  std::int64_t c = 0;
  for (; c + kWide * F32::width <= v.head_dim; c += kWide * F32::width) {
    value_tile<M, kWide, type>(v, c, probabilities, out);
  }
  for (; c + 2 * F32::width <= v.head_dim; c += 2 * F32::width) {
    value_tile<M, 2, type>(v, c, probabilities, out);
  }
  for (; c + F32::width <= v.head_dim; c += F32::width) {
    value_tile<M, 1, type>(v, c, probabilities, out);
  }
  if (c == v.head_dim) return;
  const int tail = static_cast<int>(v.head_dim - c);
  for (int m = 0; m < M; ++m) {
    F32 acc = load_n(out + m * v.head_dim + c, tail);
    for (std::int64_t j = 0; j < v.n_keys; ++j) {
      acc = fma(set1(probabilities[m * kAttentionChunk + j]),
                load_element_n<type>(v.rows + j * v.head_dim * element_bytes(type), c, tail), acc);
    }
    store_n(out + m * v.head_dim + c, acc, tail);
  }
}

// M queries from q on share the keys that all of them see; each goes on alone over the rest.
template <int M, KvType type>
static inline void add_values(const AttentionChunkArgs& a, std::int64_t page, std::int64_t q,
                              const void* next, const float* scores) {
  const char* rows = static_cast<const char*>(a.v_pages[page]);
  std::int64_t common = kPageTokens;
  for (int m = 0; m < M; ++m) {
    const std::int64_t n = keys_in_page(a.n_keys[q + m], page);
    common = n < common ? n : common;
  }
  const float* p = scores + q * kAttentionChunk + page * kPageTokens;
  float* out = a.out + q * a.head_dim;
  value_rows<M, type>({rows, a.head_dim, common, static_cast<const char*>(next)}, p, out);
  if constexpr (M > 1) {
    for (int m = 0; m < M; ++m) {
      const std::int64_t n = keys_in_page(a.n_keys[q + m], page) - common;
      if (n == 0) continue;
      value_rows<1, type>(
          {rows + common * a.head_dim * element_bytes(type), a.head_dim, n, nullptr},
          p + m * kAttentionChunk + common, out + m * a.head_dim);
    }
  }
}

template <KvType type>
static void value_page(const AttentionChunkArgs& a, std::int64_t page, const void* next,
                       const float* scores) {
  std::int64_t q = 0;
  for (; q + 4 <= a.n_queries; q += 4) {
    add_values<4, type>(a, page, q, q == 0 ? next : nullptr, scores);
  }
  if (q > 0) next = nullptr;
  switch (a.n_queries - q) {
    case 1:
      return add_values<1, type>(a, page, q, next, scores);
    case 2:
      return add_values<2, type>(a, page, q, next, scores);
    case 3:
      return add_values<3, type>(a, page, q, next, scores);
    default:
      return;
  }
}

template <KvType type>
static void attention_floats(const AttentionChunkArgs& a, std::int64_t longest,
                             const ScoreQueries& queries, float* scores) {
  const std::int64_t n_pages = (longest + kPageTokens - 1) / kPageTokens;
  for (std::int64_t page = 0; page < n_pages; ++page) {
    score_page<type>(a.k_pages[page], keys_in_page(longest, page), queries,
                     page + 1 < n_pages ? a.k_pages[page + 1] : a.v_pages[0],
                     scores + page * kPageTokens);
  }
  for (std::int64_t q = 0; q < a.n_queries; ++q) {
    for (std::int64_t c = 0; c < a.head_dim; ++c) a.out[q * a.head_dim + c] = 0.0f;
    if (a.n_keys[q] > 0) {
      softmax_partial<false>(scores + q * kAttentionChunk, a.n_keys[q], a.scale, {}, a.max + q,
                             a.sum + q);
    }
  }
  for (std::int64_t page = 0; page < n_pages; ++page) {
    value_page<type>(a, page, page + 1 < n_pages ? a.v_pages[page + 1] : a.next, scores);
  }
}

struct CodeScratch {
  float* steps;                 // [n_queries] of the queries' codes, then of the probabilities'
  std::int16_t* codes;          // [n_queries, padded]
  std::int16_t* probabilities;  // [n_queries, kAttentionChunk]
  std::int32_t* sums;           // [n_queries, padded], columns as PairSums has them
};

// sums[m][c..] += sum_j p[m][j] * values[j][c..] for M queries and C blocks of kDotCols channels.
template <int M, int C>
static inline void value_code_tile(const ValueRows& v, std::int64_t c0, std::int64_t padded,
                                   const std::int16_t* probabilities, std::int32_t* sums) {
  const auto* rows = reinterpret_cast<const std::int8_t*>(v.rows);
  const Ahead ahead(v.next, v.head_dim, c0, C * kDotCols);
  PairSums acc[M][C];
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) {
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) acc[m][c] = load_sums(sums + m * padded + c0 + c * kDotCols);
  }
  for (std::int64_t j = 0; j < v.n_keys; j += 2) {
    ahead.fetch_row(j);
    ahead.fetch_row(j + 1);
    const std::int8_t* row = rows + j * v.head_dim + c0;
    RowPair pairs[C];
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) {
      pairs[c] = pair_rows(row + c * kDotCols, row + v.head_dim + c * kDotCols);
    }
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
      const auto factor = pair_factor(probabilities + m * kAttentionChunk + j);
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) acc[m][c] = add_pair(acc[m][c], pairs[c], factor);
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) {
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) store_sums(sums + m * padded + c0 + c * kDotCols, acc[m][c]);
  }
}

template <int M>
static inline void value_code_rows(const ValueRows& v, std::int64_t padded,
                                   const std::int16_t* probabilities, std::int32_t* sums) {
  constexpr int kMost = F32::accumulators / 2 / M;
  constexpr int kWide = kMost >= 4 ? 4 : kMost >= 2 ? 2 : 1;
  std::int64_t c = 0;
  for (; c + kWide * kDotCols <= padded; c += kWide * kDotCols) {
    value_code_tile<M, kWide>(v, c, padded, probabilities, sums);
  }
  for (; c < padded; c += kDotCols) value_code_tile<M, 1>(v, c, padded, probabilities, sums);
}

// What a query does not see has probability 0: sums are those of its own keys alone.
static void value_code_page(const ValueRows& v, std::int64_t n_queries, std::int64_t padded,
                            const std::int16_t* probabilities, std::int32_t* sums) {
  ValueRows rows = v;
  for (std::int64_t q = 0; q < n_queries;) {
    const std::int16_t* p = probabilities + q * kAttentionChunk;
    std::int32_t* out = sums + q * padded;
    const std::int64_t left = n_queries - q;
    if (left >= 4) {
      value_code_rows<4>(rows, padded, p, out);
      q += 4;
    } else if (left == 3) {
      value_code_rows<3>(rows, padded, p, out);
      q += 3;
    } else if (left == 2) {
      value_code_rows<2>(rows, padded, p, out);
      q += 2;
    } else {
      value_code_rows<1>(rows, padded, p, out);
      q += 1;
    }
    rows.next = nullptr;
  }
}

// Codes of the queries, 16 bits or as many as keep the sums below 2^31.
static inline void quantize_queries(const ScoreQueries& q, const CodeScratch& s) {
  const float most = 2147483000.0f / (127.0f * static_cast<float>(q.head_dim));
  const auto levels = static_cast<float>(static_cast<std::int32_t>(most < 32767 ? most : 32767));
  for (std::int64_t i = 0; i < q.n; ++i) {
    std::int16_t* row = s.codes + i * q.padded;
    s.steps[i] = quantize(q.values + i * q.head_dim, q.head_dim, levels, row);
    for (std::int64_t c = q.head_dim; c < q.padded; ++c) row[c] = 0;
  }
}

// Codes of one query's probabilities: 256 * 127 * 32767 < 2^31. Zeros up to the last page's end.
static inline float quantize_probabilities(const float* p, std::int64_t n, std::int64_t end,
                                           std::int16_t* codes) {
  const float step = quantize(p, n, 32767.0f, codes);
  for (std::int64_t j = n; j < end; ++j) codes[j] = 0;
  return step;
}

static constexpr std::int64_t padded_dim(std::int64_t head_dim) {
  return (head_dim + kDotCols - 1) / kDotCols * kDotCols;
}

// out = step * sums, back in the order of channels: unpack takes 8 columns at a time, 4 to each
// half of the sums.
static inline void finish_codes(const std::int32_t* sums, float step, std::int64_t head_dim,
                                float* out) {
  if constexpr (kDotCols == 1) {
    for (std::int64_t c = 0; c < head_dim; ++c) out[c] = step * static_cast<float>(sums[c]);
    return;
  }
  for (std::int64_t c = 0; c < head_dim; c += 8) {
    const std::int32_t* low = sums + c / kDotCols * kDotCols + c % kDotCols / 2;
    const std::int32_t* high = low + kDotCols / 2;
    float eight[8];
    for (int i = 0; i < 4; ++i) eight[i] = step * static_cast<float>(low[i]);
    for (int i = 0; i < 4; ++i) eight[4 + i] = step * static_cast<float>(high[i]);
    if (c + 8 <= head_dim) {
      __builtin_memcpy(out + c, eight, sizeof eight);
    } else {
      for (std::int64_t i = c; i < head_dim; ++i) out[i] = eight[i - c];
    }
  }
}

static void attention_codes(const AttentionChunkArgs& a, std::int64_t longest,
                            const ScoreQueries& queries, float* scores, const CodeScratch& s) {
  constexpr KvType kType = KvType::q8;
  const std::int64_t d = a.head_dim;
  const std::int64_t n_pages = (longest + kPageTokens - 1) / kPageTokens;
  quantize_queries(queries, s);
  ChunkScales scales{};
  for (std::int64_t page = 0; page < n_pages; ++page) {
    scales.k[page] = q8_scales(a.k_pages[page], d);
    scales.v[page] = q8_scales(a.v_pages[page], d);
    fetch_scales<kType>(a.v_pages[page], d);
  }
  for (std::int64_t page = 0; page < n_pages; ++page) {
    score_page<kType>(a.k_pages[page], keys_in_page(longest, page), queries,
                      page + 1 < n_pages ? a.k_pages[page + 1] : a.v_pages[0],
                      scores + page * kPageTokens);
  }
  for (std::int64_t q = 0; q < a.n_queries; ++q) {
    float* p = scores + q * kAttentionChunk;
    if (a.n_keys[q] > 0) {
      softmax_partial<true>(p, a.n_keys[q], a.scale * s.steps[q], scales, a.max + q, a.sum + q);
    }
    s.steps[q] = quantize_probabilities(p, a.n_keys[q], n_pages * kPageTokens,
                                        s.probabilities + q * kAttentionChunk);
    for (std::int64_t c = 0; c < queries.padded; ++c) s.sums[q * queries.padded + c] = 0;
  }
  for (std::int64_t page = 0; page < n_pages; ++page) {
    const void* next = page + 1 < n_pages ? a.v_pages[page + 1] : a.next;
    fetch_scales<kType>(next, d);
    const ValueRows rows{static_cast<const char*>(a.v_pages[page]), d, keys_in_page(longest, page),
                         static_cast<const char*>(next)};
    value_code_page(rows, a.n_queries, queries.padded, s.probabilities + page * kPageTokens,
                    s.sums);
  }
  for (std::int64_t q = 0; q < a.n_queries; ++q) {
    finish_codes(s.sums + q * queries.padded, s.steps[q], d, a.out + q * d);
  }
}

static void attention_chunk(const AttentionChunkArgs& a, float* scratch) noexcept {
  const std::int64_t n = a.n_queries;
  const std::int64_t padded = padded_dim(a.head_dim);
  float* values = scratch;                  // [n_queries, head_dim]
  float* scores = values + n * a.head_dim;  // [n_queries, kAttentionChunk]
  CodeScratch codes;
  codes.steps = scores + n * kAttentionChunk;
  codes.sums = reinterpret_cast<std::int32_t*>(codes.steps + n);
  codes.probabilities = reinterpret_cast<std::int16_t*>(codes.sums + n * padded);
  codes.codes = codes.probabilities + n * kAttentionChunk;
  std::int64_t longest = 0;
  for (std::int64_t q = 0; q < n; ++q) {
    longest = a.n_keys[q] > longest ? a.n_keys[q] : longest;
    for (std::int64_t c = 0; c < a.head_dim; ++c) values[q * a.head_dim + c] = a.q[q][c];
    a.max[q] = -__builtin_inff();
    a.sum[q] = 0.0f;
  }
  const ScoreQueries queries{n, a.head_dim, values, codes.codes, padded};
  switch (a.type) {
    case KvType::f32:
      return attention_floats<KvType::f32>(a, longest, queries, scores);
    case KvType::f16:
      return attention_floats<KvType::f16>(a, longest, queries, scores);
    case KvType::q8:
      return attention_codes(a, longest, queries, scores, codes);
  }
}

static std::int64_t attention_scratch(std::int64_t n_queries, std::int64_t head_dim) noexcept {
  const std::int64_t padded = padded_dim(head_dim);
  return n_queries * (head_dim + kAttentionChunk + 1 + padded + (kAttentionChunk + padded) / 2 + 1);
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
  // exp(0) is exactly 1.
  const bool rises = max2 > *max_io;
  const float factor = exp_scalar(rises ? *max_io - max2 : max2 - *max_io);
  const float keep = rises ? factor : 1.0f;
  const float add_factor = rises ? 1.0f : factor;
  for (std::int64_t c = 0; c < head_dim; ++c) out[c] = out[c] * keep + out2[c] * add_factor;
  *sum_io = *sum_io * keep + sum2 * add_factor;
  if (rises) *max_io = max2;
}
