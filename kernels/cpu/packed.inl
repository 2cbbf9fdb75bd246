// y = W x for packed weights and int8 activations. Included by each ISA unit inside its namespace,
// after its packed_*.h.
//
// Layout: formats/plane.h. A panel of 16 rows streams from memory in one run; a dword of a line
// meets four consecutive activations of a token, broadcast to all rows. Within an activation block
// (at most 128 columns, never across two groups) sums are exact integers; then, for every row,
//
//   acc = fma(scale_group * scale_block, dot, acc);   acc = fma(min_group, sum_block, acc)
//
// in column order, plane after plane of the input. Nothing else touches acc, so the bits do not
// depend on how many tokens are processed together or on which thread a row falls.
//
// Few tokens: codes are taken out of their lines in registers, for a tile of tokens at a time.
// Many: the codes of two panels are widened to bytes, 512 columns at a time so that they stay in
// L1, and all tokens pass over them.

template <int N>
struct Int {
  static constexpr int value = N;
};
template <int N, typename Function>
[[gnu::always_inline]] static inline void unroll(Function&& function) {
  if constexpr (N > 0) {
    unroll<N - 1>(function);
    function(Int<N - 1>{});
  }
}

// Once for each vector of 16 rows, unrolled where they are few: the scalar unit's sixteen would
// only cost compile time.
template <typename Function>
[[gnu::always_inline]] static inline void each_vector(Function&& function) {
  if constexpr (kVectors <= 2) {
    unroll<kVectors>([&](auto i) __attribute__((always_inline)) { function(decltype(i)::value); });
  } else {
    for (int v = 0; v < kVectors; ++v) function(v);
  }
}

// The codes of columns 4k ... 4k + 3 of a block, as bytes. For a format of one plane `block` may be
// any line of it and k a field of that line.
template <typename F, int k>
[[gnu::always_inline]] static inline Line codes_at(const std::byte* block) {
  Line codes;
  int before = 0;
  unroll<F::n_planes>([&](auto p) __attribute__((always_inline)) {
    constexpr Plane plane = F::planes[decltype(p)::value];
    constexpr int fields = 8 / plane.bits;
    constexpr int mask = ((1 << plane.bits) - 1) << plane.shift;
    const Line line = load_line(block + (before + k / fields) * kLineBytes);
    const Line part = bits_of<k % fields * plane.bits - plane.shift, mask>(line);
    codes = decltype(p)::value == 0 ? part : either(codes, part);
    before += plane.bits;
  });
  return codes;
}

// Columns of a block, which may be the last and short: whole blocks of 32, then whole lines.
struct Extent {
  int blocks;  // of 32 columns
  int lines;   // after them; formats of one plane only
};
template <typename F>
static inline Extent extent_of(std::int64_t cols) {
  const int n = static_cast<int>(cols);
  if constexpr (F::n_planes > 1) return {(n + kBlockCols - 1) / kBlockCols, 0};
  constexpr int per_line = 32 / F::bits;
  return {n / kBlockCols, (n % kBlockCols + per_line - 1) / per_line};
}

static constexpr std::int64_t kAheadBytes = 2048;  // fetched before it is read

// Fields of a line whose products share a sum keep their place within a nibble: sum i belongs to
// the fields k with k % field_sums == i and carries the place as a factor. Four sums, so that one
// need not wait for the last; for 1 bit, whose fields are eight, the upper four are moved down
// first: one shift a line for four shifts and additions less a block.
constexpr int kFieldSums = 4;
template <int bits>
constexpr int place_of(int sum) {
  return sum % (8 / bits) * bits;
}

template <int bits, int total>
[[gnu::always_inline]] static inline void add_fields(const Line& codes, const std::int8_t* x,
                                                     Dots<total>* sums) {
  constexpr int fields = 8 / bits;
  Line line = in_register(codes);
  unroll<fields>([&](auto f) __attribute__((always_inline)) {
    constexpr int field = decltype(f)::value;
    // What a shift of wider lanes brings into the upper nibbles is masked below.
    if constexpr (field == kFieldSums) line = bits_of<kFieldSums * bits, 0xff>(line);
    constexpr int place = field % kFieldSums * bits;
    accumulate(sums[field % kFieldSums], bits_of<0, ((1 << bits) - 1) << place>(line),
               x + field * 4);
  });
}

// One token: fields are masked, not shifted, and their sums shifted once at the end.
template <typename F>
[[gnu::always_inline]] static inline void dot_in_place(const std::byte* lines, Extent extent,
                                                       const std::int8_t* x, Dots<F::bits>* out) {
  Dots<F::bits> sums[F::n_planes][kFieldSums];
  unroll<F::n_planes * kFieldSums>([&](auto i) __attribute__((always_inline)) {
    clear(sums[decltype(i)::value / kFieldSums][decltype(i)::value % kFieldSums]);
  });
  for (int b = 0; b < extent.blocks; ++b) {
    unroll<F::bits>([&](auto l) __attribute__((always_inline)) {
      __builtin_prefetch(lines + kAheadBytes + decltype(l)::value * kLineBytes);
    });
    int before = 0;
    unroll<F::n_planes>([&](auto p) __attribute__((always_inline)) {
      constexpr int bits = F::planes[decltype(p)::value].bits;
      constexpr int fields = 8 / bits;
      unroll<bits>([&](auto l) __attribute__((always_inline)) {
        constexpr int first = decltype(l)::value * fields;
        add_fields<bits>(load_line(lines + (before + decltype(l)::value) * kLineBytes),
                         x + first * 4, sums[decltype(p)::value] + first % kFieldSums);
      });
      before += bits;
    });
    lines += F::bits * kLineBytes;
    x += 8 * 4;
  }
  if constexpr (F::n_planes == 1) {
    constexpr int fields = 8 / F::bits;
    for (int l = 0; l < extent.lines; ++l) {
      add_fields<F::bits>(load_line(lines), x, sums[0]);
      lines += kLineBytes;
      x += fields * 4;
    }
  }
  clear(*out);
  unroll<F::n_planes>([&](auto p) __attribute__((always_inline)) {
    constexpr Plane plane = F::planes[decltype(p)::value];
    unroll<kFieldSums>([&](auto i) __attribute__((always_inline)) {
      constexpr int right = place_of<plane.bits>(decltype(i)::value);
      add_shifted<right, plane.shift>(*out, sums[decltype(p)::value][decltype(i)::value]);
    });
  });
}

template <typename F, int T>
[[gnu::always_inline]] static inline void dot_lines(const std::byte* lines, Extent extent,
                                                    const std::int8_t* x, Dots<F::bits>* dots) {
  if constexpr (T == 1 && kFieldsInPlace) {
    dot_in_place<F>(lines, extent, x, dots);
    return;
  }
  unroll<T>([&](auto t) __attribute__((always_inline)) { clear(dots[decltype(t)::value]); });
  for (int b = 0; b < extent.blocks; ++b) {
    unroll<F::bits>([&](auto k) __attribute__((always_inline)) {
      __builtin_prefetch(lines + kAheadBytes + decltype(k)::value * kLineBytes);
    });
    unroll<8>([&](auto k) __attribute__((always_inline)) {
      const Line codes = codes_at<F, decltype(k)::value>(lines);
      unroll<T>([&](auto t) __attribute__((always_inline)) {
        accumulate(dots[decltype(t)::value], codes,
                   x + (decltype(k)::value * T + decltype(t)::value) * 4);
      });
    });
    lines += F::bits * kLineBytes;
    x += 8 * T * 4;
    if constexpr (F::bits > 2) {
      unroll<T>([&](auto t)
                    __attribute__((always_inline)) { widen_sums(dots[decltype(t)::value]); });
    }
  }
  if constexpr (F::n_planes == 1) {
    constexpr int fields = 8 / F::bits;
    for (int line = 0; line < extent.lines; ++line) {
      unroll<fields>([&](auto k) __attribute__((always_inline)) {
        const Line codes = codes_at<F, decltype(k)::value>(lines);
        unroll<T>([&](auto t) __attribute__((always_inline)) {
          accumulate(dots[decltype(t)::value], codes,
                     x + (decltype(k)::value * T + decltype(t)::value) * 4);
        });
      });
      lines += kLineBytes;
      x += fields * T * 4;
    }
  }
  unroll<T>([&](auto t) __attribute__((always_inline)) { widen_sums(dots[decltype(t)::value]); });
}

// Scales and minima of the 16 rows of one group.
struct GroupRows {
  F32 scale[kVectors], min[kVectors];
};
template <typename F>
[[gnu::always_inline]] static inline GroupRows load_group(const PackedBand& band,
                                                          std::int64_t panel, std::int64_t group) {
  GroupRows rows;
  const std::int64_t index = panel * band.groups + group;
  const auto* scale = reinterpret_cast<const std::uint16_t*>(band.scale) + index * kPanelRows;
  each_vector([&](int v) __attribute__((always_inline)) {
    rows.scale[v] = load_f16(scale + v * F32::width);
  });
  if (band.min_kind == 2) {  // MinKind::f16
    const auto* min = reinterpret_cast<const std::uint16_t*>(band.min) + index * kPanelRows;
    each_vector([&](int v) __attribute__((always_inline)) {
      rows.min[v] = load_f16(min + v * F32::width);
    });
    return rows;
  }
  F32 zeros[kVectors];
  if (band.min_kind == 0) {  // MinKind::zero
    const std::byte* packed = band.min + index * (2 * F::bits);
    each_vector([&](int v) __attribute__((always_inline)) { zeros[v] = zero(); });
    int before = 0;
    unroll<F::n_planes>([&](auto p) __attribute__((always_inline)) {
      constexpr Plane plane = F::planes[decltype(p)::value];
      add_zeros<plane.bits, plane.shift>(packed + 2 * before, zeros);
      before += plane.bits;
    });
  } else {
    constexpr float middle = static_cast<float>((1 << F::bits) - 1) * 0.5f;
    each_vector([&](int v) __attribute__((always_inline)) { zeros[v] = set1(middle); });
  }
  each_vector([&](int v) __attribute__((always_inline)) {
    rows.min[v] = sub(zero(), mul(rows.scale[v], zeros[v]));
  });
  return rows;
}

// acc[kVectors] of one token.
template <int bits>
[[gnu::always_inline]] static inline void add_block(const Dots<bits>& dots, const F32* scale,
                                                    const F32* min, float block_scale,
                                                    float block_sum, F32* acc) {
  F32 sums[kVectors];
  to_floats(dots, sums);
  const F32 d = set1(block_scale);
  const F32 s = set1(block_sum);
  each_vector([&](int v) __attribute__((always_inline)) {
    acc[v] = fma(mul(scale[v], d), sums[v], acc[v]);
    acc[v] = fma(min[v], s, acc[v]);
  });
}

// A tile of T tokens within the prepared input.
template <int T>
struct Tile {
  const std::int8_t* codes;  // [planes][dwords][T][4]
  const float* scale;        // [planes][blocks][T]
  const float* sum;
  const std::uint8_t* second;  // [blocks] or null
  std::int64_t dwords, blocks;

  int planes(std::int64_t block) const noexcept {
    return second == nullptr ? 1 : 1 + second[block];
  }
};
template <int T>
static inline Tile<T> tile_at(const PreparedInput& x, std::int64_t t) {
  const std::int64_t at = x.planes * t;
  return {x.codes + at * x.dwords * 4,
          x.scale + at * x.blocks,
          x.sum + at * x.blocks,
          x.planes == 2 ? x.second + t * x.blocks : nullptr,
          x.dwords,
          x.blocks};
}

// One output panel of T tokens: y = acc + bias, or y += ...
static inline void finish_panel(const PackedArgs& a, std::int64_t panel, std::int64_t t,
                                const F32* acc) {
  float* y = a.y + t * a.ldy + panel * kPanelRows;
  const float* bias = a.bias == nullptr ? nullptr : a.bias + panel * kPanelRows;
  const std::int64_t left = a.rows - panel * kPanelRows;
  for (int v = 0; v < kVectors; ++v) {
    const std::int64_t at = v * F32::width;
    if (at >= left) return;
    const int n = static_cast<int>(left - at < F32::width ? left - at : F32::width);
    F32 sum = acc[v];
    if (n == F32::width) {
      if (bias != nullptr) sum = add(sum, load(bias + at));
      if (a.accumulate) sum = add(load(y + at), sum);
      store(y + at, sum);
    } else {
      if (bias != nullptr) sum = add(sum, load_n(bias + at, n));
      if (a.accumulate) sum = add(load_n(y + at, n), sum);
      store_n(y + at, sum, n);
    }
  }
}

// Adds one band of one panel to acc[T]. What a block needs is kept in pointers that move along: at
// one bit a block is 32 products, and finding its place could cost as much.
template <typename F, int T>
static void band_rows(const PackedBand& band, std::int64_t panel, const Tile<T>& tile,
                      F32 (*acc)[kVectors]) {
  const PreparedBand& input = band.input;
  const std::int64_t block_bytes = input.block / kBlockCols * F::bits * kLineBytes;
  const std::int64_t per_group = band.group / input.block;
  const std::byte* lines = band.codes + panel * band.panel_code_bytes;
  const std::int8_t* x = tile.codes + std::int64_t{input.dword} * T * 4;
  const float* scale = tile.scale + std::int64_t{input.first_block} * T;
  const float* sum = tile.sum + std::int64_t{input.first_block} * T;
  std::int64_t block = input.first_block;
  std::int64_t left = band.cols;
  for (std::int64_t group = 0; left > 0; ++group) {
    const GroupRows rows = load_group<F>(band, panel, group);
    for (std::int64_t b = 0; b < per_group && left > 0; ++b) {
      const Extent extent = extent_of<F>(left < input.block ? left : input.block);
      const int planes = tile.planes(block++);
      for (int plane = 0; plane < planes; ++plane) {
        Dots<F::bits> dots[T];
        dot_lines<F, T>(lines, extent, x + plane * tile.dwords * T * 4, dots);
        const std::int64_t at = plane * tile.blocks * T;
        unroll<T>([&](auto t) __attribute__((always_inline)) {
          constexpr int i = decltype(t)::value;
          add_block(dots[i], rows.scale, rows.min, scale[at + i], sum[at + i], acc[i]);
        });
      }
      lines += block_bytes;
      x += input.block * T;
      scale += T;
      sum += T;
      left -= input.block;
    }
  }
}

template <int T>
static void few_tokens(const PackedArgs& a, std::int64_t panel, std::int64_t t) {
  const Tile<T> tile = tile_at<T>(a.x, t);
  F32 acc[T][kVectors];
  for (auto& rows : acc) {
    for (F32& v : rows) v = zero();
  }
  for (int b = 0; b < a.n_bands; ++b) {
    const PackedBand& band = a.bands[b];
    switch (band.format) {
#define PACKED_FORMAT(id, name, Type)           \
  case id:                                      \
    band_rows<Type, T>(band, panel, tile, acc); \
    break;
#include "kernels/formats/formats.def"
    }
  }
  for (int i = 0; i < T; ++i) finish_panel(a, panel, t + i, acc[i]);
}

static inline int packed_tile(std::int64_t left) noexcept {
  if (F32::width == 1) return 1;  // the reference: wider tiles took minutes to compile
  if (F32::width == 16 && left >= 12) return 12;
  if (F32::width == 16 && left >= 8) return 8;
  return left >= 4 ? 4 : left >= 2 ? 2 : 1;
}

// Calls function(Int<T>, t) for the tiles of all tokens.
template <typename Function>
static inline void for_tiles(std::int64_t tokens, Function&& function) {
  for (std::int64_t t = 0; t < tokens;) {
    const int width = packed_tile(tokens - t);
    switch (width) {
      case 12:
        if constexpr (F32::width == 16) function(Int<12>{}, t);
        break;
      case 8:
        if constexpr (F32::width == 16) function(Int<8>{}, t);
        break;
      case 4:
        if constexpr (F32::width > 1) function(Int<4>{}, t);
        break;
      case 2:
        if constexpr (F32::width > 1) function(Int<2>{}, t);
        break;
      default:
        function(Int<1>{}, t);
    }
    t += width;
  }
}

static constexpr std::int64_t kChunkCols = 512;  // columns widened at a time
static constexpr std::int64_t kChunkBlocks = kChunkCols / 32;
static constexpr std::int64_t kManyTokens = 32;

// Codes of P panels as bytes, and their scales and minima as floats.
struct Widened {
  std::uint8_t* bytes;  // [P][kChunkCols / 4][16 rows][4 columns]
  float* scale;         // [kChunkBlocks][P][16]
  float* min;
};

template <typename F>
static void widen_panel(const PackedBand& band, std::int64_t panel, std::int64_t begin,
                        std::int64_t end, std::uint8_t* out) {
  const std::byte* lines =
      band.codes + panel * band.panel_code_bytes + begin / kBlockCols * F::bits * kLineBytes;
  const Extent extent = extent_of<F>(end - begin);
  for (int b = 0; b < extent.blocks; ++b) {
    unroll<8>([&](auto k) __attribute__((always_inline)) {
      store_line(out + decltype(k)::value * kLineBytes, codes_at<F, decltype(k)::value>(lines));
    });
    lines += F::bits * kLineBytes;
    out += 8 * kLineBytes;
  }
  if constexpr (F::n_planes == 1) {
    constexpr int fields = 8 / F::bits;
    for (int line = 0; line < extent.lines; ++line) {
      unroll<fields>([&](auto k) __attribute__((always_inline)) {
        store_line(out + decltype(k)::value * kLineBytes, codes_at<F, decltype(k)::value>(lines));
      });
      lines += kLineBytes;
      out += fields * kLineBytes;
    }
  }
}

template <typename F, int P>
static void widen_chunk(const PackedBand& band, std::int64_t panel, std::int64_t begin,
                        std::int64_t end, const Widened& out) {
  const std::int64_t block = band.input.block;
  for (int p = 0; p < P; ++p) {
    widen_panel<F>(band, panel + p, begin, end, out.bytes + p * kChunkCols * kPanelRows);
    std::int64_t b = 0;
    for (std::int64_t col = begin; col < end; col += block, ++b) {
      const GroupRows rows = load_group<F>(band, panel + p, col / band.group);
      for (int v = 0; v < kVectors; ++v) {
        const std::int64_t at = (b * P + p) * kPanelRows + v * F32::width;
        store(out.scale + at, rows.scale[v]);
        store(out.min + at, rows.min[v]);
      }
    }
  }
}

// One activation block of P of `all_panels` widened panels for T of `all_tokens`;
// acc: [all_tokens][all_panels][16].
template <int bits, int P, int T, int all_panels, int all_tokens>
[[gnu::always_inline]] static inline void widened_block(const std::uint8_t* bytes, int steps,
                                                        const std::int8_t* x, const float* scale,
                                                        const float* min, const float* block_scale,
                                                        const float* block_sum, float* acc) {
  Dots<bits> dots[P][T];
  unroll<P * T>([&](auto i) __attribute__((always_inline)) {
    clear(dots[decltype(i)::value / T][decltype(i)::value % T]);
  });
  for (int k = 0; k < steps;) {
    const int end = bits > 2 && k + 8 < steps ? k + 8 : steps;
    for (; k < end; ++k) {
      Line codes[P];
      unroll<P>([&](auto p) __attribute__((always_inline)) {
        constexpr int i = decltype(p)::value;
        codes[i] = load_line(bytes + i * kChunkCols * kPanelRows + k * kLineBytes);
      });
      unroll<T>([&](auto t) __attribute__((always_inline)) {
        unroll<P>([&](auto p) __attribute__((always_inline)) {
          accumulate(dots[decltype(p)::value][decltype(t)::value], codes[decltype(p)::value],
                     x + (k * all_tokens + decltype(t)::value) * 4);
        });
      });
    }
    unroll<P * T>([&](auto i) __attribute__((always_inline)) {
      widen_sums(dots[decltype(i)::value / T][decltype(i)::value % T]);
    });
  }
  unroll<P>([&](auto p) __attribute__((always_inline)) {
    constexpr int panel = decltype(p)::value;
    F32 s[kVectors];
    F32 m[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      s[v] = load(scale + panel * kPanelRows + v * F32::width);
      m[v] = load(min + panel * kPanelRows + v * F32::width);
    }
    unroll<T>([&](auto t) __attribute__((always_inline)) {
      constexpr int i = decltype(t)::value;
      float* at = acc + (i * all_panels + panel) * kPanelRows;
      F32 sums[kVectors];
      for (int v = 0; v < kVectors; ++v) sums[v] = load(at + v * F32::width);
      add_block(dots[panel][i], s, m, block_scale[i], block_sum[i], sums);
      for (int v = 0; v < kVectors; ++v) store(at + v * F32::width, sums[v]);
    });
  });
}

// Columns [begin, end) of a band, already widened, for one tile.
template <int bits, int P, int T>
static void widened_tile(const PackedBand& band, const Widened& weights, std::int64_t begin,
                         std::int64_t end, const Tile<T>& tile, float* acc) {
  constexpr int panels = P * T <= kDots<bits> ? P : 1;
  constexpr int tokens = T <= kDots<bits> / panels ? T : kDots<bits> / panels;
  const PreparedBand& input = band.input;
  std::int64_t b = 0;
  for (std::int64_t col = begin; col < end; col += input.block, ++b) {
    const std::int64_t left = end - col;
    const std::int64_t cols = left < input.block ? left : input.block;
    const int steps = static_cast<int>((cols + 3) / 4);
    const std::int64_t block = input.first_block + col / input.block;
    const int planes = tile.planes(block);
    for (int plane = 0; plane < planes; ++plane) {
      const std::int64_t at = (plane * tile.blocks + block) * T;
      const std::int8_t* x = tile.codes + (plane * tile.dwords + input.dword + col / 4) * T * 4;
      unroll<P / panels>([&](auto i) __attribute__((always_inline)) {
        constexpr int p = decltype(i)::value * panels;
        const std::int64_t rows = (b * P + p) * kPanelRows;
        unroll<T / tokens>([&](auto j) __attribute__((always_inline)) {
          constexpr int t = decltype(j)::value * tokens;
          widened_block<bits, panels, tokens, P, T>(
              weights.bytes + p * kChunkCols * kPanelRows + (col - begin) / 4 * kLineBytes, steps,
              x + t * 4, weights.scale + rows, weights.min + rows, tile.scale + at + t,
              tile.sum + at + t, acc + (t * P + p) * kPanelRows);
        });
      });
    }
  }
}

template <typename F, int P>
static void many_band(const PackedArgs& a, const PackedBand& band, std::int64_t panel,
                      const Widened& widened, float* acc) {
  for (std::int64_t begin = 0; begin < band.cols; begin += kChunkCols) {
    const std::int64_t end = band.cols < begin + kChunkCols ? band.cols : begin + kChunkCols;
    widen_chunk<F, P>(band, panel, begin, end, widened);
    for_tiles(a.x.tokens, [&](auto width, std::int64_t t) {
      constexpr int T = decltype(width)::value;
      widened_tile<F::bits, P, T>(band, widened, begin, end, tile_at<T>(a.x, t),
                                  acc + t * P * kPanelRows);
    });
  }
}

template <int P>
static void many_tokens(const PackedArgs& a, std::int64_t panel, float* scratch) {
  Widened widened;
  float* acc = scratch;  // [tokens][P][16]
  scratch += a.x.tokens * P * kPanelRows;
  widened.scale = scratch;
  widened.min = widened.scale + kChunkBlocks * P * kPanelRows;
  widened.bytes = reinterpret_cast<std::uint8_t*>(widened.min + kChunkBlocks * P * kPanelRows);
  for (std::int64_t i = 0; i < a.x.tokens * P * kPanelRows; i += F32::width) store(acc + i, zero());
  for (int b = 0; b < a.n_bands; ++b) {
    const PackedBand& band = a.bands[b];
    switch (band.format) {
#define PACKED_FORMAT(id, name, Type)                 \
  case id:                                            \
    many_band<Type, P>(a, band, panel, widened, acc); \
    break;
#include "kernels/formats/formats.def"
    }
  }
  for (std::int64_t t = 0; t < a.x.tokens; ++t) {
    for (int p = 0; p < P; ++p) {
      F32 rows[kVectors];
      for (int v = 0; v < kVectors; ++v) {
        rows[v] = load(acc + (t * P + p) * kPanelRows + v * F32::width);
      }
      finish_panel(a, panel + p, t, rows);
    }
  }
}

static std::int64_t packed_scratch(std::int64_t tokens) noexcept {
  constexpr std::int64_t widened =
      kPackedPanels * (kChunkCols * kPanelRows / 4 + 2 * kChunkBlocks * kPanelRows);
  return tokens < kManyTokens ? 0 : tokens * kPackedPanels * kPanelRows + widened;
}

static void linear_packed(const PackedArgs& a, std::int64_t panel_begin, std::int64_t panel_end,
                          float* scratch) noexcept {
  if (a.x.tokens >= kManyTokens) {
    std::int64_t panel = panel_begin;
    for (; panel + kPackedPanels <= panel_end; panel += kPackedPanels) {
      many_tokens<kPackedPanels>(a, panel, scratch);
    }
    for (; panel < panel_end; ++panel) many_tokens<1>(a, panel, scratch);
    return;
  }
  for (std::int64_t panel = panel_begin; panel < panel_end; ++panel) {
    for_tiles(a.x.tokens,
              [&](auto width, std::int64_t t) { few_tokens<decltype(width)::value>(a, panel, t); });
  }
}

// Codes of values * inverse, n of them padded to whole vectors; returns their sum.
static inline std::int32_t round_codes(const float* values, std::int64_t n, float inverse,
                                       std::int8_t* codes) {
  const F32 factor = set1(inverse);
  const F32 top = set1(127.0f);
  const F32 bottom = set1(-127.0f);
  alignas(64) float rounded[kMaxActivationBlock];
  for (std::int64_t i = 0; i < n; i += F32::width) {
    store(rounded + i, max(min(round(mul(load(values + i), factor)), top), bottom));
  }
  std::int32_t total = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    const auto code = static_cast<std::int32_t>(rounded[i]);
    codes[i] = static_cast<std::int8_t>(code);
    total += code;
  }
  return total;
}

// Below it a step counts as 0, so that its inverse stays finite.
static constexpr float kLeastStep = 1.17549435e-38f;

// One plane of one block: scale = step.
static inline void quantize_plane(const float* values, std::int64_t n, float step,
                                  std::int8_t* codes, float* scale, float* sum) {
  const bool nothing = !(step >= kLeastStep);
  const std::int32_t total = round_codes(values, n, nothing ? 0.0f : 1.0f / step, codes);
  *scale = nothing ? 0.0f : step;
  *sum = *scale * static_cast<float>(total);
}

static inline float largest_magnitude(const float* values, std::int64_t n) {
  F32 magnitude = zero();
  for (std::int64_t i = 0; i < n; i += F32::width) {
    const F32 v = load(values + i);
    magnitude = max(magnitude, max(v, sub(zero(), v)));
  }
  return hmax(magnitude);
}

// One block of a token as its kernel meets it: mapped, padded with zeros to whole 32s.
struct BlockReader {
  const PrepareArgs& a;
  std::int64_t n, padded;

  void read(const PreparedBand& band, std::int64_t begin, const float* x, float* values) {
    const std::int64_t left = band.cols - begin;
    n = left < band.block ? left : band.block;
    padded = (n + kBlockCols - 1) / kBlockCols * kBlockCols;
    const std::int64_t col = band.col_begin + begin;
    if (a.source == nullptr) {
      __builtin_memcpy(values, x + col, static_cast<std::size_t>(n) * sizeof(float));
    } else {
      for (std::int64_t i = 0; i < n; ++i) values[i] = x[a.source[col + i]];
    }
    if (a.factor != nullptr) {
      for (std::int64_t i = 0; i < n; ++i) values[i] *= a.factor[col + i];
    }
    for (std::int64_t i = n; i < padded; ++i) values[i] = 0;
  }
};

// The sum of squares of a token's input. The lanes fix the order of the sum, so
// that every instruction set finds the same blocks.
static inline float energy_of(const PrepareArgs& a, const float* x) {
  constexpr int kLanes = 16;
  alignas(64) float values[kMaxActivationBlock];
  float lanes[kLanes] = {};
  BlockReader reader{a, 0, 0};
  for (int b = 0; b < a.n_bands; ++b) {
    const PreparedBand& band = a.bands[b];
    for (std::int64_t begin = 0; begin < band.cols; begin += band.block) {
      reader.read(band, begin, x, values);
      for (std::int64_t i = 0; i < reader.padded; i += kLanes) {
        for (int lane = 0; lane < kLanes; ++lane)
          lanes[lane] += values[i + lane] * values[i + lane];
      }
    }
  }
  double total = 0;
  for (const float lane : lanes) total += static_cast<double>(lane);
  return static_cast<float>(total);
}

static constexpr int kMaxTile = 12;

// One block of the tokens of a tile; codes, scale and sum point at the block's first token.
static inline bool prepare_block(const PrepareArgs& a, const PreparedBand& band, std::int64_t begin,
                                 std::int64_t first_token, int width, const float* energy,
                                 std::int8_t* out, float* scale, float* sum) {
  alignas(64) float values[kMaxActivationBlock];
  std::int8_t codes[kMaxActivationBlock];
  bool needs[kMaxTile] = {};
  bool any = false;
  BlockReader reader{a, 0, 0};
  const auto place = [&](std::int8_t* to, int t) {
    for (std::int64_t k = 0; k < reader.padded / 4; ++k) {
      __builtin_memcpy(to + (k * width + t) * 4, codes + 4 * k, 4);
    }
  };
  for (int t = 0; t < width; ++t) {
    reader.read(band, begin, a.x + (first_token + t) * a.ldx, values);
    const float largest = largest_magnitude(values, reader.padded);
    quantize_plane(values, reader.padded, largest / 127.0f, codes, scale + t, sum + t);
    place(out, t);
    const float extent = largest * largest * static_cast<float>(reader.n);
    needs[t] = a.out.planes == 2 && !(extent <= a.out.outlier * energy[t]);
    any |= needs[t];
  }
  if (!any) return false;
  const std::int64_t next = a.out.blocks * width;
  std::int8_t* second = out + a.out.dwords * width * 4;
  for (int t = 0; t < width; ++t) {
    reader.read(band, begin, a.x + (first_token + t) * a.ldx, values);
    for (std::int64_t i = 0; i < reader.padded; ++i) {
      const std::int8_t code = out[(i / 4 * width + t) * 4 + i % 4];
      values[i] = needs[t] ? values[i] - scale[t] * static_cast<float>(code) : 0.0f;
    }
    quantize_plane(values, reader.padded, needs[t] ? scale[t] / 254.0f : 0.0f, codes,
                   scale + next + t, sum + next + t);
    place(second, t);
  }
  return true;
}

static void prepare(const PrepareArgs& a, std::int64_t first_token, int width) noexcept {
  const PreparedInput& out = a.out;
  const std::int64_t at = out.planes * first_token;
  std::int8_t* codes = out.codes + at * out.dwords * 4;
  float* scale = out.scale + at * out.blocks;
  float* sum = out.sum + at * out.blocks;
  float energy[kMaxTile] = {};
  for (int t = 0; t < width && out.planes == 2 && out.outlier > 0; ++t) {
    energy[t] = energy_of(a, a.x + (first_token + t) * a.ldx);
  }
  for (int b = 0; b < a.n_bands; ++b) {
    const PreparedBand& band = a.bands[b];
    std::int64_t block = band.first_block;
    for (std::int64_t begin = 0; begin < band.cols; begin += band.block, ++block) {
      const bool second = prepare_block(a, band, begin, first_token, width, energy,
                                        codes + (band.dword + begin / 4) * width * 4,
                                        scale + block * width, sum + block * width);
      if (out.planes == 2) out.second[first_token * out.blocks + block] = second ? 1 : 0;
    }
  }
}
