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

// Consecutive tokens of one sequence.
struct Tile {
  std::int64_t first, n_tokens;
};

std::vector<Tile> make_tiles(const TokenPlaces& places, std::int64_t max_tokens) {
  std::vector<Tile> tiles;
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
  return tiles;
}

struct Task {
  const KernelTable& kernels;
  const KvLayer& kv;
  const TokenPlaces& places;
  const float* q;
  float* out;
  std::int64_t heads;
  float scale;

  std::int64_t group() const { return heads / kv.kv_heads; }
  std::int64_t last_position(const Tile& tile) const {
    return places.positions[static_cast<std::size_t>(tile.first + tile.n_tokens - 1)];
  }
  std::int64_t n_chunks(const Tile& tile) const {
    return last_position(tile) / kAttentionChunk + 1;
  }
  std::size_t head_bytes() const {
    return static_cast<std::size_t>(kPageTokens * kv.head_dim) * (kv.f16 ? 2 : 4);
  }

  // Partial softmax of one tile, KV head and chunk of keys. Query m = token * group + head.
  void chunk(const Tile& tile, std::int64_t kv_head, std::int64_t chunk, float* max, float* sum,
             float* partial, float* scratch) const {
    std::array<const float*, kMaxQueries> queries;
    std::array<std::int64_t, kMaxQueries> n_keys;
    std::array<const void*, kChunkPages> k_pages{};
    std::array<const void*, kChunkPages> v_pages{};
    std::int64_t m = 0;
    for (std::int64_t t = tile.first; t < tile.first + tile.n_tokens; ++t) {
      const std::int64_t seen =
          places.positions[static_cast<std::size_t>(t)] + 1 - chunk * kAttentionChunk;
      for (std::int64_t g = 0; g < group(); ++g, ++m) {
        const auto i = static_cast<std::size_t>(m);
        queries[i] = q + (t * heads + kv_head * group() + g) * kv.head_dim;
        n_keys[i] = std::clamp<std::int64_t>(seen, 0, kAttentionChunk);
      }
    }
    const std::int64_t last_page = last_position(tile) / kPageTokens;
    for (std::int64_t p = 0; p < kChunkPages && chunk * kChunkPages + p <= last_page; ++p) {
      const std::int32_t page =
          places.page_tables[static_cast<std::size_t>(tile.first)][chunk * kChunkPages + p];
      const std::size_t offset = static_cast<std::size_t>(page) * kv.page_bytes +
                                 static_cast<std::size_t>(kv_head) * head_bytes();
      k_pages[static_cast<std::size_t>(p)] = kv.k + offset;
      v_pages[static_cast<std::size_t>(p)] = kv.v + offset;
    }
    const AttentionChunkArgs args{k_pages.data(), v_pages.data(), kv.f16, kv.head_dim, scale,  m,
                                  queries.data(), n_keys.data(),  max,    sum,         partial};
    kernels.attention_chunk(args, scratch);
  }

  void finish(const Tile& tile, std::int64_t kv_head, std::int64_t m, float sum,
              const float* weighted) const {
    const std::int64_t t = tile.first + m / group();
    float* y = out + (t * heads + kv_head * group() + m % group()) * kv.head_dim;
    for (std::int64_t c = 0; c < kv.head_dim; ++c) y[c] = weighted[c] / sum;
  }

  // Floats that one (tile, KV head, chunk) result takes: max, sum and out of each query.
  std::int64_t partial_floats(const Tile& tile) const {
    return tile.n_tokens * group() * (2 + kv.head_dim);
  }
};

// One thread walks all chunks of a tile and KV head.
void attend_in_order(const Task& task, const Tile& tile, std::int64_t kv_head, Scratch& memory) {
  const std::int64_t m = tile.n_tokens * task.group();
  const std::int64_t partial = task.partial_floats(tile);
  float* state = memory.get<float>(
      static_cast<std::size_t>(2 * partial + task.kernels.attention_scratch(m, task.kv.head_dim)));
  float* next = state + partial;
  float* scratch = next + partial;
  for (std::int64_t chunk = 0; chunk < task.n_chunks(tile); ++chunk) {
    float* p = chunk == 0 ? state : next;
    task.chunk(tile, kv_head, chunk, p, p + m, p + 2 * m, scratch);
    for (std::int64_t i = 0; chunk > 0 && i < m; ++i) {
      task.kernels.attention_merge(state + i, state + m + i, state + 2 * m + i * task.kv.head_dim,
                                   next[i], next[m + i], next + 2 * m + i * task.kv.head_dim,
                                   task.kv.head_dim);
    }
  }
  for (std::int64_t i = 0; i < m; ++i) {
    task.finish(tile, kv_head, i, state[m + i], state + 2 * m + i * task.kv.head_dim);
  }
}

}  // namespace

void CpuBackend::store_kv(const KvLayer& kv, const TokenPlaces& places, const float* k,
                          const float* v) {
  const std::size_t element = kv.f16 ? 2 : 4;
  const auto row = static_cast<std::size_t>(kv.head_dim) * element;
  for (std::size_t t = 0; t < places.positions.size(); ++t) {
    const std::int64_t position = places.positions[t];
    const std::int32_t page = places.page_tables[t][position / kPageTokens];
    for (std::int64_t h = 0; h < kv.kv_heads; ++h) {
      const std::size_t offset =
          static_cast<std::size_t>(page) * kv.page_bytes +
          static_cast<std::size_t>(h * kPageTokens + position % kPageTokens) * row;
      const std::int64_t from = (static_cast<std::int64_t>(t) * kv.kv_heads + h) * kv.head_dim;
      if (kv.f16) {
        kernels_->to_f16(k + from, kv.head_dim, reinterpret_cast<std::uint16_t*>(kv.k + offset));
        kernels_->to_f16(v + from, kv.head_dim, reinterpret_cast<std::uint16_t*>(kv.v + offset));
      } else {
        std::memcpy(kv.k + offset, k + from, row);
        std::memcpy(kv.v + offset, v + from, row);
      }
    }
  }
}

void CpuBackend::attention(const KvLayer& kv, const TokenPlaces& places, const float* q,
                           std::int64_t heads, float scale, float* out) {
  const Task task{*kernels_, kv, places, q, out, heads, scale};
  const std::vector<Tile> tiles =
      make_tiles(places, std::max<std::int64_t>(1, kMaxQueries / 2 / task.group()));
  const int items = static_cast<int>(static_cast<std::int64_t>(tiles.size()) * kv.kv_heads);
  std::int64_t most_chunks = 0;
  std::int64_t most_floats = 0;
  for (const Tile& tile : tiles) {
    most_chunks = std::max(most_chunks, task.n_chunks(tile));
    most_floats = std::max(most_floats, task.partial_floats(tile));
  }
  const auto tile_of = [&](int item) {
    return tiles[static_cast<std::size_t>(item / kv.kv_heads)];
  };
  if (items >= 4 * pool_.size() || most_chunks == 1) {
    pool_.run(items, [&](int item, int thread) {
      attend_in_order(task, tile_of(item), item % kv.kv_heads,
                      scratch_[static_cast<std::size_t>(thread)]);
    });
    return;
  }
  // Few items over a long context: chunks in parallel, then merged in the same order as above.
  float* partials =
      partials_.get<float>(static_cast<std::size_t>(items * most_chunks * most_floats));
  const auto partial_of = [&](int item, std::int64_t chunk) {
    return partials + (item * most_chunks + chunk) * most_floats;
  };
  pool_.run(items * static_cast<int>(most_chunks), [&](int index, int thread) {
    const int item = index / static_cast<int>(most_chunks);
    const std::int64_t chunk = index % most_chunks;
    const Tile tile = tile_of(item);
    if (chunk >= task.n_chunks(tile)) return;
    const std::int64_t m = tile.n_tokens * task.group();
    float* scratch = scratch_[static_cast<std::size_t>(thread)].get<float>(
        static_cast<std::size_t>(kernels_->attention_scratch(m, kv.head_dim)));
    float* p = partial_of(item, chunk);
    task.chunk(tile, item % kv.kv_heads, chunk, p, p + m, p + 2 * m, scratch);
  });
  for (int item = 0; item < items; ++item) {
    const Tile tile = tile_of(item);
    const std::int64_t m = tile.n_tokens * task.group();
    float* state = partial_of(item, 0);
    for (std::int64_t i = 0; i < m; ++i) {
      float* weighted = state + 2 * m + i * kv.head_dim;
      for (std::int64_t chunk = 1; chunk < task.n_chunks(tile); ++chunk) {
        const float* p = partial_of(item, chunk);
        kernels_->attention_merge(state + i, state + m + i, weighted, p[i], p[m + i],
                                  p + 2 * m + i * kv.head_dim, kv.head_dim);
      }
      task.finish(tile, item % kv.kv_heads, i, state[m + i], weighted);
    }
  }
}

}  // namespace tenfold
