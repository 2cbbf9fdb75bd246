// Attention over the pages of a KV cache.
//
// A chunk is four pages, 256 positions, as on the CPU: four warps take a page each, and what they
// found is merged in order of pages; chunks are merged in order of chunks, always by the same
// operations. With few tokens every chunk is a thread block, whose result a second kernel merges;
// with many a thread block goes through all chunks of its queries. Neither changes a bit.
//
// A thread block's queries are those of one KV head and up to as many neighbouring tokens of one
// sequence as fit, so that they share what they load.

#include <algorithm>

#include "kernels/cuda/attend_page.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ops.h"

namespace tenfold::cuda {
namespace {

constexpr int kChunkPages = 4;
constexpr int kThreads = 32 * kChunkPages;
constexpr int kMostQueries = 64;  // of a thread block
// Queries of a step up to which chunks become thread blocks.
constexpr std::int64_t kSplitQueries = 2048;

// Thread blocks for a group of neighbouring tokens where they are many: few have anything to do
// when the group is of one sequence, and each has several when all are of different ones.
constexpr int kSlots = 4;

struct Attention {
  KvLayer kv;
  std::size_t share;  // bytes of a KV head's keys in a page
  DevicePlaces places;
  const float* q;  // [tokens, heads, head_dim]
  float* out;      // as q
  float log2_scale;
  int heads, group;   // query heads; those of one KV head
  int group_inverse;  // queries below 64 times it, >> 16: divided by `group`
  int block_heads;    // query heads of a thread block, at most
  int block_tokens;   // tokens of a thread block's queries, at most, and of a group
  int slots;          // thread blocks of a group of tokens
  int tile_bytes;     // of shared memory that 16 queries take
  int state_at;       // where in shared memory sums of the chunks so far are
  int chunks;         // of `stride` pages where chunks are thread blocks, else 0
  float* sums;        // [tokens, heads, chunks, head_dim]
  float2* softmax;    // [tokens, heads, chunks]: what sums are relative to, and their weights' sum
};

// Neighbouring tokens of one sequence, from one group of tokens, and which of their heads.
struct Block {
  int first = 0, tokens = 0;  // none: another block has this token
  int table = 0;
  int kv_head = 0, first_head = 0, heads = 0;
  int last = 0;  // position of the last token

  // The tokens of its group from `token` on, if a sequence's begin there. Lanes ask for all tokens'
  // places at once, as each answer takes long.
  __device__ Block(const Attention& a, int token, int y) : first(token) {
    const int parts = (a.group + a.block_heads - 1) / a.block_heads;
    kv_head = y / parts;
    first_head = y % parts * a.block_heads;
    heads = min(a.block_heads, a.group - first_head);
    first_head += kv_head * a.group;
    const int at = token % a.block_tokens;
    const int end = min(a.places.tokens, token - at + a.block_tokens);
    if (first >= end) return;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    int tables[2], positions[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int t = min(first + 32 * i + lane, end - 1);
      tables[i] = a.places.tables[t];
      positions[i] = a.places.positions[t];
    }
    table = a.places.tables[first];
    if (at > 0 && a.places.tables[first - 1] == table) return;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const bool other = first + 32 * i + lane >= end || tables[i] != table;
      const unsigned others = __ballot_sync(0xffffffffu, other);
      const int more = others == 0 ? 32 : __ffs(static_cast<int>(others)) - 1;
      if (tokens == 32 * i && more > 0) {
        tokens += more;
        last = __shfl_sync(0xffffffffu, positions[i], more - 1);
      }
    }
  }
  __device__ int n_chunks() const { return last / (kChunkPages * kPageKeys) + 1; }
  __device__ int queries() const { return tokens * heads; }
  __device__ int tiles() const { return (queries() + kTileQueries - 1) / kTileQueries; }
  // Divided by `heads`, which are `group` where there are more tokens than one.
  __device__ int token(const Attention& a, int query) const {
    return first + (query * a.group_inverse >> 16);
  }
  __device__ std::int64_t vector(const Attention& a, int query) const {  // of [tokens, heads]
    const int t = token(a, query);
    return std::int64_t{t} * a.heads + first_head + query - (t - first) * heads;
  }
};

// What a softmax's sums are relative to, in powers of two, and the sum of its weights.
struct Softmax {
  float max, sum;
};
__device__ constexpr Softmax kNothing{-INFINITY, 0};

// Exactly 1 where nothing larger came, so that chunks that a query does not see change nothing.
__device__ __forceinline__ float weight_of(float max, float new_max) {
  return max == -INFINITY ? 0 : max == new_max ? 1 : exp2_of(max - new_max);
}

// The factors of two sums when `more` is added to `state`.
struct Merge {
  float keep, add;
  __device__ Merge(Softmax& state, Softmax more) {
    const float max = fmaxf(state.max, more.max);
    keep = weight_of(state.max, max);
    add = weight_of(more.max, max);
    state = {max, __fmaf_rn(state.sum, keep, __fmul_rn(more.sum, add))};
  }
};
__device__ __forceinline__ float merged(float state, float keep, float more, float add) {
  return __fmaf_rn(state, keep, __fmul_rn(more, add));
}

// A channel of a query's sums in shared memory: padded so that neither what lanes of a fragment
// write nor neighbouring channels share a bank.
__device__ __forceinline__ int sum_place(int channel) { return channel + channel / 32 * 8; }
constexpr int kSumStride = 81;

struct alignas(16) Shared {
  float sums[kChunkPages][kTileQueries][kSumStride];  // of a block of channels, from each warp
  Softmax pages[kChunkPages][kTileQueries];
  float weights[kChunkPages][kTileQueries];     // of the pages' sums
  float keep[kTileQueries], add[kTileQueries];  // chunks whose queries go on
  // Of all queries of the thread block:
  Softmax state[kMostQueries];
  float factor[kMostQueries];  // of scores, to be powers of two
  int n_keys[kMostQueries];    // that a query sees; 0 where there is no query
  Block block;                 // here, as registers are for loads in flight
};

// Shared, [tiles] queries, [queries, head_dim] sums of the chunks so far.
__device__ __forceinline__ std::byte* shared_memory() {
  extern __shared__ uint4 dynamic[];
  return reinterpret_cast<std::byte*>(dynamic);
}
__device__ __forceinline__ std::byte* tile_memory(const Attention& a, int tile) {
  return shared_memory() + sizeof(Shared) + tile * a.tile_bytes;
}
__device__ __forceinline__ float& state_of(const Attention& a, int query, int channel) {
  return reinterpret_cast<float*>(shared_memory() + a.state_at)[query * a.kv.head_dim + channel];
}

__device__ __forceinline__ int warp_index() { return static_cast<int>(thread_index() / 32); }

template <KvType type, bool aligned>
__device__ void put_queries(const Attention& a, const Block& block, Shared& shared) {
  constexpr int kRows = kTileQueries / kChunkPages;  // of a tile, for each warp
  const auto head_dim = static_cast<int>(a.kv.head_dim);
  const int mine = static_cast<int>(thread_index()), warp = warp_index();
  const bool real = mine < block.queries();
  const int position = real ? a.places.positions[block.token(a, mine)] : -1;
#pragma unroll 1
  for (int tile = 0; tile < block.tiles(); ++tile) {
    QueryPart parts[kRows];
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const int m = tile * kTileQueries + i * kChunkPages + warp;
      parts[i] = {};
      if (m < block.queries() && query_dim() < head_dim) {
        load_floats<aligned>(a.q + block.vector(a, m) * head_dim, query_dim(), head_dim,
                             parts[i].of);
      }
    }
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const int row = i * kChunkPages + warp, m = tile * kTileQueries + row;
      const float factor = put_query<type>(parts[i], head_dim, row, tile_memory(a, tile));
      if (threadIdx.x % 32 == 0) shared.factor[m] = factor * a.log2_scale;
    }
  }
  if (mine < block.tiles() * kTileQueries) {
    shared.n_keys[mine] = position + 1;
    shared.state[mine] = kNothing;
  }
}

// Scores -> weights relative to the largest of those that a query sees, of a lane's row of queries.
template <KvType type>
__device__ __forceinline__ Softmax row_softmax(const Scales<type>& scales, float factor, int seen,
                                               int row, float (&scores)[kKeyTiles][4]) {
  Softmax r = kNothing;
  const Lane lane;
#pragma unroll
  for (int j = 0; j < kKeyTiles; ++j) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float& s = scores[j][2 * row + i];
      s = __fmul_rn(s, factor);
      if constexpr (type == KvType::q8) s = __fmul_rn(s, i == 0 ? scales.of[j].x : scales.of[j].y);
      if (8 * j + 2 * lane.q + i >= seen) s = -INFINITY;
      r.max = fmaxf(r.max, s);
    }
  }
  r.max = fmaxf(r.max, __shfl_xor_sync(0xffffffffu, r.max, 1));
  r.max = fmaxf(r.max, __shfl_xor_sync(0xffffffffu, r.max, 2));
  const float shift = r.max == -INFINITY ? 0 : r.max;
#pragma unroll
  for (int j = 0; j < kKeyTiles; ++j) {
#pragma unroll
    for (int i = 2 * row; i < 2 * row + 2; ++i) {
      scores[j][i] = exp2_of(scores[j][i] - shift);
      r.sum += scores[j][i];
    }
  }
  r.sum += __shfl_xor_sync(0xffffffffu, r.sum, 1);
  r.sum += __shfl_xor_sync(0xffffffffu, r.sum, 2);
  return r;
}

// Of a query's pages together, which get their weights.
__device__ __forceinline__ Softmax chunk_softmax(Shared& shared, int query) {
  Softmax chunk = kNothing;
#pragma unroll
  for (const auto& page : shared.pages) chunk.max = fmaxf(chunk.max, page[query].max);
#pragma unroll
  for (int i = 0; i < kChunkPages; ++i) {
    const Softmax page = shared.pages[i][query];
    const float weight = weight_of(page.max, chunk.max);
    shared.weights[i][query] = weight;
    chunk.sum = __fmaf_rn(page.sum, weight, chunk.sum);
  }
  return chunk;
}

// A warp's page of a chunk of its thread block's sequence.
struct Chunk {
  int index;
  int id = 0;  // asked for at once, to be there when keys are asked for

  __device__ Chunk(const Attention& a, const Block& block, int i) : index(i) {
    if (n_keys(a, block) == 0) return;
    id = a.places.pages[std::int64_t{block.table} * a.places.stride + first_key() / kPageKeys];
  }
  __device__ static int end(const Attention& a, const Block& block) {
    return a.chunks > 0 ? static_cast<int>(blockIdx.z) + 1 : block.n_chunks();
  }
  __device__ int first_key() const { return (index * kChunkPages + warp_index()) * kPageKeys; }
  __device__ int n_keys(const Attention& a, const Block& block) const {
    return index < end(a, block) ? min(max(block.last + 1 - first_key(), 0), kPageKeys) : 0;
  }
  __device__ PageShare of(const Attention& a, const Block& block, const std::byte* kv) const {
    return {kv + id * a.kv.page_bytes + block.kv_head * a.share, static_cast<int>(a.kv.head_dim),
            n_keys(a, block)};
  }
};

// The warps' sums of a block of channels together: to memory where each chunk is a thread block,
// else added to what the chunks before it gave.
__device__ void merge_channels(const Attention& a, const Block& block, const Chunk& chunk,
                               int first_query, int c0, const Shared& shared) {
  const auto head_dim = static_cast<int>(a.kv.head_dim);
  const int queries = min(block.queries() - first_query, kTileQueries);
  const bool last = chunk.index + 1 == block.n_chunks();
  for (int i = static_cast<int>(thread_index()); i < queries * kBlockChannels; i += kThreads) {
    const int m = i / kBlockChannels, c = i % kBlockChannels;
    if (c0 + c >= head_dim) continue;
    float sum = 0;
#pragma unroll
    for (int page = 0; page < kChunkPages; ++page) {
      const float more = __fmul_rn(shared.sums[page][m][sum_place(c)], shared.weights[page][m]);
      sum = page == 0 ? more : __fadd_rn(sum, more);
    }
    const std::int64_t vector = block.vector(a, first_query + m);
    if (a.chunks > 0) {
      a.sums[(vector * a.chunks + chunk.index) * head_dim + c0 + c] = sum;
      continue;
    }
    float& before = state_of(a, first_query + m, c0 + c);
    sum = merged(chunk.index == 0 ? 0 : before, shared.keep[m], sum, shared.add[m]);
    if (last) {
      a.out[vector * head_dim + c0 + c] = __fdiv_rn(sum, shared.state[first_query + m].sum);
    } else {
      before = sum;
    }
  }
}

// A thread for each query of the tile.
__device__ void merge_softmax(const Attention& a, const Block& block, const Chunk& chunk,
                              int first_query, Shared& shared) {
  const auto m = static_cast<int>(threadIdx.x);
  if (m >= min(block.queries() - first_query, kTileQueries)) return;
  const Softmax found = chunk_softmax(shared, m);
  if (a.chunks > 0) {
    a.softmax[block.vector(a, first_query + m) * a.chunks + chunk.index] = {found.max, found.sum};
  } else {
    const Merge merge(shared.state[first_query + m], found);
    shared.keep[m] = merge.keep;
    shared.add[m] = merge.add;
  }
}

// A warp's sums of a block of channels.
__device__ __forceinline__ void put_sums(const float (&sums)[8][4], const float (&factor)[2],
                                         int rows, Shared& shared) {
  const Lane lane;
#pragma unroll
  for (int row = 0; row < 2; ++row) {
    if (row == rows) break;
    // Channels 16q ... 16q + 15, which do not cross a gap.
    float* to = shared.sums[warp_index()][lane.g + 8 * row] + sum_place(16 * lane.q);
#pragma unroll
    for (int t = 0; t < 8; ++t) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        to[i * 8 + t] = __fmul_rn(sums[t][2 * row + i], factor[row]);
      }
    }
  }
}

// A tile of queries and a chunk of keys. ahead: the first of these, and then of `next`, the keys
// that come after them.
template <KvType type, bool aligned>
__device__ void attend_chunk(const Attention& a, const Block& block, const Chunk& chunk,
                             const Chunk& next, int tile, Ahead<type>& ahead, Shared& shared) {
  const Lane lane;
  const int first_query = tile * kTileQueries;
  const int rows = block.queries() - first_query > 8 ? 2 : 1;  // of lanes: queries g, g + 8
  float scores[kKeyTiles][4] = {};
  Softmax page[2] = {kNothing, kNothing};
  const PageShare keys = chunk.of(a, block, a.kv.k), values = chunk.of(a, block, a.kv.v);
  const Scales<type> key_scales(keys);
  if (keys.n_keys > 0) page_scores<type, aligned>(keys, tile_memory(a, tile), ahead, scores);
  const Scales<type> value_scales(values);
  ahead.template load_values<aligned>(values);
  if (keys.n_keys > 0) {
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      if (row == rows) break;
      const int m = first_query + lane.g + 8 * row;
      page[row] = row_softmax<type>(key_scales, shared.factor[m],
                                    shared.n_keys[m] - chunk.first_key(), row, scores);
    }
  }
  if (lane.q == 0) {
    shared.pages[warp_index()][lane.g] = page[0];
    shared.pages[warp_index()][lane.g + 8] = page[1];
  }
  __syncthreads();
  merge_softmax(a, block, chunk, first_query, shared);
  const PageWeights<type> weights(value_scales, scores, rows);
#pragma unroll 1
  for (int c0 = 0; c0 < values.head_dim; c0 += kBlockChannels) {
    float sums[8][4] = {};
    if (values.n_keys > 0) page_values<type, aligned>(values, weights, c0, ahead, sums);
    put_sums(sums, weights.factor, rows, shared);
    if (c0 + kBlockChannels >= values.head_dim) {
      ahead.template load_keys<aligned>(next.of(a, block, a.kv.k));
    }
    __syncthreads();
    merge_channels(a, block, chunk, first_query, c0, shared);
    __syncthreads();
  }
}

// Of a block's queries with all chunks, or the thread block's.
template <KvType type, bool aligned>
__device__ __forceinline__ void attend_block(const Attention& a, Shared& shared) {
  const Block& block = shared.block;
  Chunk chunk(a, block, static_cast<int>(blockIdx.z));
  begin_kernel();  // until here places alone were read, which no kernel writes
  Ahead<type> ahead;
  ahead.template load_keys<aligned>(chunk.of(a, block, a.kv.k));
  put_queries<type, aligned>(a, block, shared);
  __syncthreads();
  while (chunk.index < Chunk::end(a, block)) {
    const Chunk next(a, block, chunk.index + 1);
#pragma unroll 1
    for (int tile = 0; tile < block.tiles(); ++tile) {
      const Chunk after = tile + 1 < block.tiles() ? chunk : next;
      attend_chunk<type, aligned>(a, block, chunk, after, tile, ahead, shared);
    }
    chunk = next;
  }
}

// Grid: [groups of tokens and slots, kv_heads and parts of their groups, chunks].
template <KvType type, bool aligned>
__global__ void __launch_bounds__(kThreads, type == KvType::f32 ? 1 : 3) attend(Attention a) {
  auto& shared = *reinterpret_cast<Shared*>(shared_memory());
  // The last tokens first: they have the most to do.
  const auto x = static_cast<int>(gridDim.x - 1 - blockIdx.x);
  int token = x / a.slots * a.block_tokens + x % a.slots;
  // A thread block that has nothing to do ends at once, which the rule in launch.cuh allows: the
  // first of its group waits.
#pragma unroll 1
  do {
    const Block block(a, token, recomputed(static_cast<int>(blockIdx.y)));
    if (block.tokens > 0 && static_cast<int>(blockIdx.z) < block.n_chunks()) {
      if (threadIdx.x == 0) shared.block = block;
      __syncthreads();
      attend_block<type, aligned>(a, shared);
      __syncthreads();  // the next one takes over what is shared
    }
    token += a.slots;
  } while (token % a.block_tokens >= a.slots);  // of the same group
}

// Grid: [heads, tokens]; a thread for each channel.
__global__ void __launch_bounds__(256) merge_chunks(Attention a) {
  constexpr int kAtOnce = 8;
  const auto head_dim = static_cast<int>(a.kv.head_dim);
  const auto c = static_cast<int>(threadIdx.x);
  const std::int64_t vector = std::int64_t{blockIdx.y} * a.heads + blockIdx.x;
  const int n_chunks = a.places.positions[blockIdx.y] / (kChunkPages * kPageKeys) + 1;
  const float2* found = a.softmax + vector * a.chunks;
  const float* sums = a.sums + vector * a.chunks * head_dim + min(c, head_dim - 1);
  begin_kernel();  // positions were read before: no kernel writes them
  Softmax state = kNothing;
  float sum = 0;
#pragma unroll 1
  for (int first = 0; first < n_chunks; first += kAtOnce) {
    float2 softmax[kAtOnce];
    float more[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const bool real = first + i < n_chunks;
      softmax[i] = real ? found[first + i] : float2{-INFINITY, 0};
      more[i] = real ? sums[std::int64_t{first + i} * head_dim] : 0;
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      if (first + i >= n_chunks) break;
      const Merge merge(state, {softmax[i].x, softmax[i].y});
      sum = merged(sum, merge.keep, more[i], merge.add);
    }
  }
  if (c < head_dim) a.out[vector * head_dim + c] = __fdiv_rn(sum, state.sum);
}

// So that queries and their sums take at most 32 KiB of shared memory.
int block_queries(std::int64_t head_dim) { return head_dim <= 64 ? 64 : head_dim <= 128 ? 32 : 16; }

template <KvType type, bool aligned>
cudaError_t launch_attend(Attention a, cudaStream_t stream) {
  const auto head_dim = static_cast<int>(a.kv.head_dim);
  const int tiles = divide_up(a.block_tokens * a.block_heads, kTileQueries);
  a.tile_bytes = query_bytes<type>(head_dim);
  a.state_at = static_cast<int>(sizeof(Shared)) + tiles * a.tile_bytes;
  const int bytes = a.state_at + (a.chunks > 0 ? 0 : tiles * kTileQueries * head_dim * 4);
  const auto kernel = attend<type, aligned>;
  const cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (error != cudaSuccess) return error;
  const int parts = divide_up(a.group, a.block_heads);
  const int groups = divide_up(a.places.tokens, a.block_tokens);
  const dim3 grid(static_cast<unsigned>(groups * a.slots),
                  static_cast<unsigned>(a.kv.kv_heads * parts),
                  static_cast<unsigned>(std::max(a.chunks, 1)));
  return launch(stream, grid, kThreads, static_cast<std::size_t>(bytes), kernel, a);
}

cudaError_t attend_by_type(const Attention& a, cudaStream_t stream) {
  const bool aligned = a.kv.head_dim % 8 == 0;
  switch (a.kv.type) {
    case KvType::f32:  // not for speed: one kernel for all
      return launch_attend<KvType::f32, false>(a, stream);
    case KvType::f16:
      return aligned ? launch_attend<KvType::f16, true>(a, stream)
                     : launch_attend<KvType::f16, false>(a, stream);
    case KvType::q8:
      return aligned ? launch_attend<KvType::q8, true>(a, stream)
                     : launch_attend<KvType::q8, false>(a, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace

std::size_t attention_scratch(std::int64_t tokens, std::int64_t heads, std::int64_t head_dim,
                              int stride) {
  const int chunks = divide_up(stride, kChunkPages);
  if (chunks <= 1) return 0;
  // No more than for fewer tokens where chunks are not split.
  const std::int64_t queries = std::min(tokens, kSplitQueries / heads) * heads;
  return static_cast<std::size_t>(queries * chunks * (head_dim + 2)) * sizeof(float);
}

cudaError_t attention(const KvLayer& kv, const DevicePlaces& places, const float* q,
                      std::int64_t heads, float scale, float* out, void* scratch,
                      cudaStream_t stream) {
  const std::int64_t head_dim = kv.head_dim;
  if (head_dim < 2 || head_dim > 256 || head_dim % 2 != 0 || heads % kv.kv_heads != 0) {
    return cudaErrorInvalidValue;
  }
  if (places.tokens == 0) return cudaSuccess;
  Attention a{};
  a.kv = kv;
  a.share = kv_share_bytes(kv.type, head_dim);
  a.places = places;
  a.q = q;
  a.out = out;
  a.log2_scale = scale * 1.44269504088896341f;
  a.heads = static_cast<int>(heads);
  a.group = static_cast<int>(heads / kv.kv_heads);
  a.group_inverse = 65536 / a.group + 1;
  a.block_heads = std::min(a.group, block_queries(head_dim));
  a.block_tokens = std::min(places.tokens, std::max(1, block_queries(head_dim) / a.group));
  const bool few = places.tokens <= kSplitQueries / heads;
  a.slots = few ? a.block_tokens : std::min(a.block_tokens, kSlots);
  const int chunks = divide_up(places.stride, kChunkPages);
  if (chunks > 1 && few) {
    a.chunks = chunks;
    a.sums = static_cast<float*>(scratch);
    a.softmax = reinterpret_cast<float2*>(a.sums + places.tokens * heads * chunks * head_dim);
  }
  const cudaError_t error = attend_by_type(a, stream);
  if (error != cudaSuccess || a.chunks == 0) return error;
  const dim3 grid(static_cast<unsigned>(heads), static_cast<unsigned>(places.tokens));
  const auto threads = static_cast<unsigned>(divide_up(static_cast<int>(head_dim), 32) * 32);
  return launch(stream, grid, threads, 0, merge_chunks, a);
}

}  // namespace tenfold::cuda
