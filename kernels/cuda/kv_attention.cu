// Storing keys and values, and attention over them.
//
// A chunk is four pages, 256 positions, as on the CPU: four warps take a page each, and what they
// found is merged in order of pages; chunks are merged in order of chunks, always by the same
// operations. With few tokens every chunk is a thread block, whose result a second kernel merges;
// with many a thread block goes through all chunks of its queries. Neither changes a bit.
//
// A thread block's queries are those of one KV head and up to as many neighbouring tokens of one
// sequence as fit, so that they share what they load.

#include <cuda_fp16.h>

#include <algorithm>

#include "kernels/cuda/attend_page.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/reduce.cuh"

namespace tenfold::cuda {
namespace {

constexpr int kChunkPages = 4;
constexpr int kThreads = 32 * kChunkPages;
constexpr int kMostQueries = 64;  // of a thread block
// Queries of a step up to which chunks become thread blocks.
constexpr std::int64_t kSplitQueries = 2048;

constexpr int divide_up(int n, int by) { return (n + by - 1) / by; }

// ---- store_kv

// A warp stores a key or a value of one token and KV head.
template <KvType type>
__device__ void store_row(const float* x, int head_dim, int slot, std::byte* share) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  if constexpr (type == KvType::q8) {
    float largest = 0;
    for (int c = lane; c < head_dim; c += 32) largest = fmaxf(largest, fabsf(x[c]));
    const float step = __fdiv_rn(warp_reduce(largest, Max{}), 127.0f);
    const bool nothing = !(step >= 1.17549435e-38f);
    const float factor = nothing ? 0.0f : __fdiv_rn(1.0f, step);
    auto* codes = reinterpret_cast<std::int8_t*>(share) + slot * head_dim;
    for (int c = lane; c < head_dim; c += 32) {
      const float code = fmaxf(fminf(rintf(__fmul_rn(x[c], factor)), 127.0f), -127.0f);
      codes[c] = static_cast<std::int8_t>(__float2int_rn(code));
    }
    auto* scales = reinterpret_cast<float*>(share + kPageTokens * head_dim);
    if (lane == 0) scales[slot] = nothing ? 0.0f : step;
  } else {
    for (int c = lane; c < head_dim; c += 32) {
      if constexpr (type == KvType::f16) {
        reinterpret_cast<__half*>(share)[slot * head_dim + c] = __float2half_rn(x[c]);
      } else {
        reinterpret_cast<float*>(share)[slot * head_dim + c] = x[c];
      }
    }
  }
}

// Grid: [tokens, kv_heads]; the first warp has the key, the second the value.
template <KvType type>
__global__ void __launch_bounds__(64)
    store(KvLayer kv, std::size_t share, DevicePlaces places, const float* k, const float* v) {
  begin_kernel();
  const auto t = blockIdx.x, h = blockIdx.y;
  const int position = places.positions[t];
  const int page =
      places.pages[std::int64_t{places.tables[t]} * places.stride + position / kPageTokens];
  const auto head_dim = static_cast<int>(kv.head_dim);
  const std::size_t to = page * kv.page_bytes + h * share;
  const bool value = threadIdx.x >= 32;
  store_row<type>((value ? v : k) + (t * kv.kv_heads + h) * head_dim, head_dim,
                  static_cast<int>(position % kPageTokens), (value ? kv.v : kv.k) + to);
}

// ---- attention

struct Attention {
  KvLayer kv;
  std::size_t share;  // bytes of a KV head's keys in a page
  DevicePlaces places;
  const float* q;  // [tokens, heads, head_dim]
  float* out;      // as q
  float log2_scale;
  int heads, group;  // query heads; those of one KV head
  int block_heads;   // query heads of a thread block, at most
  int block_tokens;  // tokens of a thread block, at most
  int chunks;        // of `stride` pages where chunks are thread blocks, else 0
  float* sums;       // [tokens, heads, chunks, head_dim]
  float2* softmax;   // [tokens, heads, chunks]: what sums are relative to, and their weights' sum
};

// Which queries a thread block has.
struct Block {
  int first = 0, tokens = 0;  // none: another block has this token
  int kv_head = 0, first_head = 0, heads = 0;
  int last = 0;  // position of the last token

  __device__ Block(const Attention& a, int token, int y) : first(token) {
    const int parts = (a.group + a.block_heads - 1) / a.block_heads;
    kv_head = y / parts;
    first_head = y % parts * a.block_heads;
    heads = min(a.block_heads, a.group - first_head);
    first_head += kv_head * a.group;
    const std::int32_t* tables = a.places.tables;
    const std::int32_t table = tables[token];
    if (token % a.block_tokens != 0 && tables[token - 1] == table) return;
    const int end = min(a.places.tokens, (token / a.block_tokens + 1) * a.block_tokens);
    unsigned others = 0;
    for (int t = token; others == 0 && t < end; t += 32) {
      const int mine = t + static_cast<int>(threadIdx.x) % 32;
      others = __ballot_sync(0xffffffffu, mine >= end || tables[mine] != table);
      tokens += others == 0 ? 32 : __ffs(static_cast<int>(others)) - 1;
    }
    last = a.places.positions[first + tokens - 1];
  }
  __device__ int queries() const { return tokens * heads; }
  __device__ int token(int query) const { return first + query / heads; }
  __device__ std::int64_t vector(const Attention& a, int query) const {  // of [tokens, heads]
    return std::int64_t{token(query)} * a.heads + first_head + query % heads;
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
  float keep[kTileQueries], add[kTileQueries];  // chunks whose queries go on
  // Of all queries of the thread block:
  Softmax state[kMostQueries];
  float factor[kMostQueries];  // of scores, to be powers of two
  int n_keys[kMostQueries];    // that a query sees; 0 where there is no query
};

__device__ int warp_index() { return static_cast<int>(threadIdx.x) / 32; }

template <KvType type, bool aligned>
__device__ void put_queries(const Attention& a, const Block& block, int tiles, std::byte* to,
                            Shared& shared) {
  const auto head_dim = static_cast<int>(a.kv.head_dim);
  for (int m = warp_index(); m < tiles * kTileQueries; m += kChunkPages) {
    const bool real = m < block.queries();
    const float* x = real ? a.q + block.vector(a, m) * head_dim : nullptr;
    const float factor = put_query<type, aligned>(
        x, head_dim, m % kTileQueries, to + m / kTileQueries * query_bytes<type>(head_dim));
    if (threadIdx.x % 32 == 0) {
      shared.factor[m] = factor * a.log2_scale;
      shared.n_keys[m] = real ? a.places.positions[block.token(m)] + 1 : 0;
      shared.state[m] = kNothing;
    }
  }
}

// Scores -> weights relative to the largest of those that queries g and g + 8 see.
template <KvType type>
__device__ __forceinline__ void page_softmax(const PageShare& keys, const float (&factor)[2],
                                             const int (&seen)[2], float (&scores)[kKeyTiles][4],
                                             Softmax (&result)[2]) {
  const int q = Lane().q;
  result[0] = result[1] = kNothing;
#pragma unroll
  for (int j = 0; j < kKeyTiles; ++j) {
    float2 scale{1, 1};
    if constexpr (type == KvType::q8) {
      scale = __ldg(reinterpret_cast<const float2*>(keys.scales() + 8 * j + 2 * q));
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float& s = scores[j][i];
      s = __fmul_rn(s, factor[i / 2]);
      if constexpr (type == KvType::q8) s = __fmul_rn(s, i % 2 == 0 ? scale.x : scale.y);
      if (8 * j + 2 * q + i % 2 >= seen[i / 2]) s = -INFINITY;
      result[i / 2].max = fmaxf(result[i / 2].max, s);
    }
  }
#pragma unroll
  for (int row = 0; row < 2; ++row) {
    Softmax& r = result[row];
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
  }
}

// The largest of the pages' maxima.
__device__ __forceinline__ float chunk_max(const Shared& shared, int query) {
  float max = -INFINITY;
#pragma unroll
  for (const auto& page : shared.pages) max = fmaxf(max, page[query].max);
  return max;
}

__device__ __forceinline__ Softmax chunk_softmax(const Shared& shared, int query) {
  Softmax chunk{chunk_max(shared, query), 0};
#pragma unroll
  for (const auto& page : shared.pages) {
    chunk.sum = __fmaf_rn(page[query].sum, weight_of(page[query].max, chunk.max), chunk.sum);
  }
  return chunk;
}

// A chunk of a thread block's sequence.
struct Chunk {
  int index, n_chunks;
  PageShare keys, values;  // of the warp's page

  __device__ Chunk(const Attention& a, const Block& block, int i)
      : index(i), n_chunks(block.last / (kChunkPages * kPageKeys) + 1) {
    const int page = first_key() / kPageKeys;
    const int n_keys = min(max(block.last + 1 - first_key(), 0), kPageKeys);
    const auto head_dim = static_cast<int>(a.kv.head_dim);
    keys = values = {nullptr, head_dim, n_keys};
    if (n_keys == 0) return;
    const std::int32_t table = a.places.tables[block.first];
    const std::int32_t id = a.places.pages[std::int64_t{table} * a.places.stride + page];
    const std::size_t at = id * a.kv.page_bytes + block.kv_head * a.share;
    keys.rows = a.kv.k + at;
    values.rows = a.kv.v + at;
  }
  __device__ int first_key() const { return (index * kChunkPages + warp_index()) * kPageKeys; }
};

// The warps' sums of a block of channels together: to memory where each chunk is a thread block,
// else added to what the chunks before it gave.
__device__ void merge_channels(const Attention& a, const Block& block, const Chunk& chunk,
                               int first_query, int c0, const Shared& shared, float* state) {
  const auto head_dim = static_cast<int>(a.kv.head_dim);
  const int queries = min(block.queries() - first_query, kTileQueries);
  const bool last = chunk.index + 1 == chunk.n_chunks;
  for (auto i = static_cast<int>(threadIdx.x); i < queries * kBlockChannels; i += kThreads) {
    const int m = i / kBlockChannels, c = i % kBlockChannels;
    if (c0 + c >= head_dim) continue;
    float sum = shared.sums[0][m][sum_place(c)];
#pragma unroll
    for (int page = 1; page < kChunkPages; ++page) {
      sum = __fadd_rn(sum, shared.sums[page][m][sum_place(c)]);
    }
    const std::int64_t vector = block.vector(a, first_query + m);
    if (a.chunks > 0) {
      a.sums[(vector * a.chunks + chunk.index) * head_dim + c0 + c] = sum;
      continue;
    }
    float& before = state[(first_query + m) * head_dim + c0 + c];
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

// A tile of queries and a chunk of keys.
template <KvType type, bool aligned>
__device__ void attend_chunk(const Attention& a, const Block& block, const Chunk& chunk,
                             int first_query, const std::byte* queries, Shared& shared,
                             float* state) {
  const Lane lane;
  const int warp = warp_index();
  float scores[kKeyTiles][4] = {};
  const float* factor = shared.factor + first_query + lane.g;
  const int* n_keys = shared.n_keys + first_query + lane.g;
  Softmax page[2] = {kNothing, kNothing};
  if (chunk.keys.n_keys > 0) {
    page_scores<type, aligned>(chunk.keys, queries, scores);
    page_softmax<type>(chunk.keys, {factor[0], factor[8]},
                       {n_keys[0] - chunk.first_key(), n_keys[8] - chunk.first_key()}, scores,
                       page);
  }
  if (lane.q == 0) {
    shared.pages[warp][lane.g] = page[0];
    shared.pages[warp][lane.g + 8] = page[1];
  }
  __syncthreads();
  merge_softmax(a, block, chunk, first_query, shared);
  const float weight[2] = {weight_of(page[0].max, chunk_max(shared, lane.g)),
                           weight_of(page[1].max, chunk_max(shared, lane.g + 8))};
  const PageWeights<type> weights(chunk.values, scores);
  for (int c0 = 0; c0 < chunk.values.head_dim; c0 += kBlockChannels) {
    float sums[8][4] = {};
    if (chunk.values.n_keys > 0) page_values<type, aligned>(chunk.values, weights, c0, sums);
#pragma unroll
    for (int t = 0; t < 8; ++t) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int row = i / 2, channel = 16 * lane.q + i % 2 * 8 + t;
        shared.sums[warp][lane.g + 8 * row][sum_place(channel)] =
            __fmul_rn(__fmul_rn(sums[t][i], weights.factor[row]), weight[row]);
      }
    }
    __syncthreads();
    merge_channels(a, block, chunk, first_query, c0, shared, state);
    __syncthreads();
  }
}

// Grid: [tokens, kv_heads and parts of their groups, chunks].
template <KvType type, bool aligned>
__global__ void __launch_bounds__(kThreads, type == KvType::f32 ? 1 : 3) attend(Attention a) {
  begin_kernel();
  // Shared, [tiles] queries, [queries, head_dim] sums of chunks so far
  extern __shared__ uint4 dynamic[];
  auto& shared = *reinterpret_cast<Shared*>(dynamic);
  // The last tokens first: they have the most to do.
  const Block block(a, static_cast<int>(gridDim.x - 1 - blockIdx.x), static_cast<int>(blockIdx.y));
  if (block.tokens == 0) return;
  const int n_chunks = block.last / (kChunkPages * kPageKeys) + 1;
  const bool split = a.chunks > 0;
  const auto first = static_cast<int>(blockIdx.z);
  if (first >= n_chunks) return;
  const int tiles = (block.queries() + kTileQueries - 1) / kTileQueries;
  auto* queries = reinterpret_cast<std::byte*>(dynamic) + sizeof(Shared);
  const int tile_bytes = query_bytes<type>(static_cast<int>(a.kv.head_dim));
  auto* state = reinterpret_cast<float*>(queries + tiles * tile_bytes);
  put_queries<type, aligned>(a, block, tiles, queries, shared);
  __syncthreads();
  for (int i = first; i < (split ? first + 1 : n_chunks); ++i) {
    const Chunk chunk(a, block, i);
    for (int tile = 0; tile < tiles; ++tile) {
      attend_chunk<type, aligned>(a, block, chunk, tile * kTileQueries, queries + tile * tile_bytes,
                                  shared, state);
    }
  }
}

// Grid: [heads, tokens]; a thread for each channel.
__global__ void __launch_bounds__(256) merge_chunks(Attention a) {
  begin_kernel();
  const auto head_dim = static_cast<int>(a.kv.head_dim);
  const auto c = static_cast<int>(threadIdx.x);
  const std::int64_t vector = std::int64_t{blockIdx.y} * a.heads + blockIdx.x;
  const int n_chunks = a.places.positions[blockIdx.y] / (kChunkPages * kPageKeys) + 1;
  const float2* found = a.softmax + vector * a.chunks;
  const float* sums = a.sums + vector * a.chunks * head_dim + min(c, head_dim - 1);
  Softmax state = kNothing;
  float sum = 0;
#pragma unroll 4
  for (int chunk = 0; chunk < n_chunks; ++chunk) {
    const float2 softmax = found[chunk];
    const Merge merge(state, {softmax.x, softmax.y});
    sum = merged(sum, merge.keep, sums[std::int64_t{chunk} * head_dim], merge.add);
  }
  if (c < head_dim) a.out[vector * head_dim + c] = __fdiv_rn(sum, state.sum);
}

// So that queries and their sums take at most 32 KiB of shared memory.
int block_queries(std::int64_t head_dim) { return head_dim <= 64 ? 64 : head_dim <= 128 ? 32 : 16; }

template <KvType type, bool aligned>
cudaError_t launch_attend(const Attention& a, cudaStream_t stream) {
  const auto head_dim = static_cast<int>(a.kv.head_dim);
  const int tiles = divide_up(a.block_tokens * a.block_heads, kTileQueries);
  const int tile_bytes =
      query_bytes<type>(head_dim) + (a.chunks > 0 ? 0 : kTileQueries * head_dim * 4);
  const int bytes = static_cast<int>(sizeof(Shared)) + tiles * tile_bytes;
  const auto kernel = attend<type, aligned>;
  const cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (error != cudaSuccess) return error;
  const int parts = divide_up(a.group, a.block_heads);
  const dim3 grid(static_cast<unsigned>(a.places.tokens),
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

cudaError_t store_kv(const KvLayer& kv, const DevicePlaces& places, const float* k, const float* v,
                     cudaStream_t stream) {
  if (places.tokens == 0) return cudaSuccess;
  const dim3 grid(static_cast<unsigned>(places.tokens), static_cast<unsigned>(kv.kv_heads));
  const auto kernel = kv.type == KvType::q8    ? store<KvType::q8>
                      : kv.type == KvType::f16 ? store<KvType::f16>
                                               : store<KvType::f32>;
  return launch(stream, grid, 64, 0, kernel, kv, kv_share_bytes(kv.type, kv.head_dim), places, k,
                v);
}

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
  a.block_heads = std::min(a.group, block_queries(head_dim));
  a.block_tokens = std::min(places.tokens, std::max(1, block_queries(head_dim) / a.group));
  const int chunks = divide_up(places.stride, kChunkPages);
  if (chunks > 1 && places.tokens <= kSplitQueries / heads) {
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
