// CpuBackend::store_kv and attention: how the work of a step is cut into tiles, KV heads and, for
// few tokens over a long context, chunks of keys.

#include <algorithm>
#include <array>
#include <cstring>

#include "kernels/cpu/cpu_backend.h"

namespace tenfold {
namespace {

constexpr std::int64_t kMaxQueries = kMaxHeadGroup;  // that share a KV head in one kernel call
constexpr std::int64_t kChunkPages = kAttentionChunk / kPageTokens;
constexpr std::int64_t kItemsPerThread = 4;   // fewer: chunks of one item go to several threads
constexpr std::int64_t kPiecesPerThread = 8;  // then each item is cut so that there are this many
constexpr std::int64_t kMergeAhead = 8;       // partials fetched before they are merged

using Tile = AttentionTile;

void make_tiles(const TokenPlaces& places, std::int64_t max_tokens, std::vector<Tile>& tiles) {
  tiles.clear();
  const auto n = static_cast<std::int64_t>(places.positions.size());
  for (std::int64_t t = 0; t < n; ++t) {
    const auto i = static_cast<std::size_t>(t);
    if (!tiles.empty() && tiles.back().n_tokens < max_tokens &&
        places.page_tables[i] == places.page_tables[i - 1]) {
      ++tiles.back().n_tokens;
    } else {
      tiles.push_back({t, 1});
    }
  }
}

// What is needed to attend; an item is a tile and a KV head, tiles of one head in a row, so that
// its keys and values stay in the cache from one tile to the next.
struct Task {
  const KernelTable& kernels;
  const KvLayer& kv;
  const TokenPlaces& places;
  std::span<const Tile> tiles;
  const float* q;
  float* out;
  std::int64_t heads;
  float scale;

  std::int64_t group() const { return heads / kv.kv_heads; }
  std::int64_t items() const { return static_cast<std::int64_t>(tiles.size()) * kv.kv_heads; }
  const Tile& tile(std::int64_t item) const {
    return tiles[static_cast<std::size_t>(item) % tiles.size()];
  }
  std::int64_t kv_head(std::int64_t item) const {
    return item / static_cast<std::int64_t>(tiles.size());
  }
  std::int64_t queries(std::int64_t item) const { return tile(item).n_tokens * group(); }
  std::int64_t last_page(std::int64_t item) const {
    const Tile& t = tile(item);
    return places.positions[static_cast<std::size_t>(t.first + t.n_tokens - 1)] / kPageTokens;
  }
  std::int64_t chunks(std::int64_t item) const { return last_page(item) / kChunkPages + 1; }
  // Floats that one chunk's result takes: max, sum and out of each query.
  std::int64_t partial_floats(std::int64_t item) const { return queries(item) * (2 + kv.head_dim); }

  // Where the item's part of a page lies within kv.k or kv.v.
  std::size_t offset(std::int64_t item, std::int64_t page) const {
    const std::int32_t* table = places.page_tables[static_cast<std::size_t>(tile(item).first)];
    return static_cast<std::size_t>(table[page]) * kv.page_bytes +
           static_cast<std::size_t>(kv_head(item)) * kv_share_bytes(kv.type, kv.head_dim);
  }
  // The first keys of a chunk; null where there is no such item or chunk.
  const void* first_keys(std::int64_t item, std::int64_t chunk) const {
    if (item >= items() || chunk >= chunks(item)) return nullptr;
    return kv.k + offset(item, chunk * kChunkPages);
  }

  // Partial softmax of one item and chunk of keys, to [max, sum, out] at `partial`. Query m = token
  // * group + head.
  void chunk(std::int64_t item, std::int64_t chunk, const void* next, float* partial,
             float* scratch) const {
    std::array<const float*, kMaxQueries> queries;
    std::array<std::int64_t, kMaxQueries> n_keys;
    std::array<const void*, kChunkPages> k_pages{};
    std::array<const void*, kChunkPages> v_pages{};
    const Tile& t = tile(item);
    std::int64_t m = 0;
    for (std::int64_t token = t.first; token < t.first + t.n_tokens; ++token) {
      const std::int64_t seen =
          places.positions[static_cast<std::size_t>(token)] + 1 - chunk * kAttentionChunk;
      for (std::int64_t g = 0; g < group(); ++g, ++m) {
        const auto i = static_cast<std::size_t>(m);
        queries[i] = q + (token * heads + kv_head(item) * group() + g) * kv.head_dim;
        n_keys[i] = std::clamp<std::int64_t>(seen, 0, kAttentionChunk);
      }
    }
    const std::int64_t last = last_page(item);
    for (std::int64_t p = 0; p < kChunkPages && chunk * kChunkPages + p <= last; ++p) {
      const std::size_t at = offset(item, chunk * kChunkPages + p);
      k_pages[static_cast<std::size_t>(p)] = kv.k + at;
      v_pages[static_cast<std::size_t>(p)] = kv.v + at;
    }
    const AttentionChunkArgs args{k_pages.data(), v_pages.data(), next,        kv.type,
                                  kv.head_dim,    scale,          m,           queries.data(),
                                  n_keys.data(),  partial,        partial + m, partial + 2 * m};
    kernels.attention_chunk(args, scratch);
  }

  // state <- merge with the partial of a later chunk, for one query.
  void merge(std::int64_t item, std::int64_t query, float* state, const float* partial) const {
    const std::int64_t m = queries(item);
    const std::int64_t at = 2 * m + query * kv.head_dim;
    kernels.attention_merge(state + query, state + m + query, state + at, partial[query],
                            partial[m + query], partial + at, kv.head_dim);
  }

  // Half of the partials come from other cores, whose caches may be far: a merge takes less time
  // than a line does.
  void fetch_partial(std::int64_t item, std::int64_t query, const float* partial) const {
    const std::int64_t m = queries(item);
    __builtin_prefetch(partial + query);
    __builtin_prefetch(partial + m + query);
    const float* weighted = partial + 2 * m + query * kv.head_dim;
    for (std::int64_t c = 0; c < kv.head_dim; c += 16) __builtin_prefetch(weighted + c);
  }

  void finish(std::int64_t item, std::int64_t query, const float* state) const {
    const std::int64_t m = queries(item);
    const std::int64_t token = tile(item).first + query / group();
    float* y = out + (token * heads + kv_head(item) * group() + query % group()) * kv.head_dim;
    const float* weighted = state + 2 * m + query * kv.head_dim;
    for (std::int64_t c = 0; c < kv.head_dim; ++c) y[c] = weighted[c] / state[m + query];
  }
};

// One thread walks all chunks of an item. next_item: the one it will probably take then.
void attend_in_order(const Task& task, std::int64_t item, std::int64_t next_item, Scratch& memory) {
  const std::int64_t m = task.queries(item);
  const std::int64_t partial = task.partial_floats(item);
  float* state = memory.get<float>(
      static_cast<std::size_t>(2 * partial + task.kernels.attention_scratch(m, task.kv.head_dim)));
  float* other = state + partial;
  float* scratch = other + partial;
  const std::int64_t n_chunks = task.chunks(item);
  for (std::int64_t chunk = 0; chunk < n_chunks; ++chunk) {
    const bool last = chunk + 1 == n_chunks;
    const void* next = last ? task.first_keys(next_item, 0) : task.first_keys(item, chunk + 1);
    task.chunk(item, chunk, next, chunk == 0 ? state : other, scratch);
    for (std::int64_t i = 0; chunk > 0 && i < m; ++i) task.merge(item, i, state, other);
  }
  for (std::int64_t i = 0; i < m; ++i) task.finish(item, i, state);
}

// Few items over a long context: every item's chunks in pieces, to any thread; then each query's
// partials are merged in the order in which attend_in_order merges them.
void attend_in_pieces(const Task& task, std::int64_t most_chunks, ThreadPool& pool,
                      std::vector<Scratch>& scratch, Scratch& partials) {
  const std::int64_t items = task.items();
  std::int64_t most_floats = 0;
  std::int64_t most_queries = 0;
  for (std::int64_t item = 0; item < items; ++item) {
    most_floats = std::max(most_floats, task.partial_floats(item));
    most_queries = std::max(most_queries, task.queries(item));
  }
  float* memory = partials.get<float>(static_cast<std::size_t>(items * most_chunks * most_floats));
  const auto partial_of = [&](std::int64_t item, std::int64_t chunk) {
    return memory + (item * most_chunks + chunk) * most_floats;
  };
  const std::int64_t wanted = kPiecesPerThread * pool.size();
  const std::int64_t length = std::max<std::int64_t>(1, items * most_chunks / wanted);
  const std::int64_t pieces = (most_chunks + length - 1) / length;
  pool.run(static_cast<int>(items * pieces), [&](int index, int thread) {
    const std::int64_t item = index / pieces;
    const std::int64_t first = index % pieces * length;
    const std::int64_t end = std::min(task.chunks(item), first + length);
    float* own = scratch[static_cast<std::size_t>(thread)].get<float>(
        static_cast<std::size_t>(task.kernels.attention_scratch(most_queries, task.kv.head_dim)));
    for (std::int64_t chunk = first; chunk < end; ++chunk) {
      const void* next = chunk + 1 < end ? task.first_keys(item, chunk + 1) : nullptr;
      task.chunk(item, chunk, next, partial_of(item, chunk), own);
    }
  });
  pool.run(static_cast<int>(items * most_queries), [&](int index, int) {
    const std::int64_t item = index / most_queries;
    const std::int64_t query = index % most_queries;
    if (query >= task.queries(item)) return;
    const std::int64_t n_chunks = task.chunks(item);
    float* state = partial_of(item, 0);
    for (std::int64_t chunk = 0; chunk < std::min(kMergeAhead, n_chunks); ++chunk) {
      task.fetch_partial(item, query, partial_of(item, chunk));
    }
    for (std::int64_t chunk = 1; chunk < n_chunks; ++chunk) {
      if (chunk + kMergeAhead <= n_chunks) {
        task.fetch_partial(item, query, partial_of(item, chunk + kMergeAhead - 1));
      }
      task.merge(item, query, state, partial_of(item, chunk));
    }
    task.finish(item, query, state);
  });
}

void store_row(const KernelTable& kernels, const KvLayer& kv, std::byte* share, std::int64_t slot,
               const float* x) {
  const std::int64_t d = kv.head_dim;
  switch (kv.type) {
    case KvType::f32:
      std::memcpy(share + slot * d * 4, x, static_cast<std::size_t>(d) * sizeof(float));
      return;
    case KvType::f16:
      return kernels.to_f16(x, d, reinterpret_cast<std::uint16_t*>(share + slot * d * 2));
    case KvType::q8:
      reinterpret_cast<float*>(share + kPageTokens * d)[slot] =
          kernels.to_q8(x, d, reinterpret_cast<std::int8_t*>(share + slot * d));
      return;
  }
}

}  // namespace

void CpuBackend::store_kv(const KvLayer& kv, const float* k, const float* v) {
  const std::size_t share = kv_share_bytes(kv.type, kv.head_dim);
  for (std::size_t t = 0; t < places_.positions.size(); ++t) {
    const std::int64_t position = places_.positions[t];
    const auto page = static_cast<std::size_t>(places_.page_tables[t][position / kPageTokens]);
    for (std::int64_t h = 0; h < kv.kv_heads; ++h) {
      const std::size_t to = page * kv.page_bytes + static_cast<std::size_t>(h) * share;
      const std::int64_t from = (static_cast<std::int64_t>(t) * kv.kv_heads + h) * kv.head_dim;
      store_row(*kernels_, kv, kv.k + to, position % kPageTokens, k + from);
      store_row(*kernels_, kv, kv.v + to, position % kPageTokens, v + from);
    }
  }
}

void CpuBackend::attention(const KvLayer& kv, const float* q, std::int64_t heads, float scale,
                           float* out) {
  make_tiles(places_, std::max<std::int64_t>(1, kMaxQueries / 2 / (heads / kv.kv_heads)), tiles_);
  const Task task{*kernels_, kv, places_, tiles_, q, out, heads, scale};
  std::int64_t most_chunks = 0;
  for (std::int64_t i = 0; i < std::ssize(tiles_); ++i) {
    most_chunks = std::max(most_chunks, task.chunks(i));
  }
  const int threads = pool_.size();
  if (threads > 1 && most_chunks > 1 && task.items() < kItemsPerThread * threads) {
    return attend_in_pieces(task, most_chunks, pool_, scratch_, partials_);
  }
  pool_.run(static_cast<int>(task.items()), [&](int item, int thread) {
    attend_in_order(task, item, item + threads, scratch_[static_cast<std::size_t>(thread)]);
  });
}

}  // namespace tenfold
