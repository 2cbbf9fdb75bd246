// Keys and values to the pages of a KV cache.

#include <cuda_fp16.h>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/rope.cuh"

namespace tenfold::cuda {
namespace {

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

// Bytes from the beginning of the keys (or values) to the page of a token.
__device__ __forceinline__ std::size_t page_of(const KvLayer& kv, const DevicePlaces& places,
                                               unsigned token, std::int32_t position) {
  const std::int64_t row = places.tables[token];
  return places.pages[row * places.stride + position / kPageTokens] * kv.page_bytes;
}

// Grid: [tokens, kv_heads]; the first warp has the key, the second the value.
template <KvType type>
__global__ void __launch_bounds__(64)
    store(KvLayer kv, std::size_t share, DevicePlaces places, const float* k, const float* v) {
  begin_kernel();
  const auto t = blockIdx.x, h = blockIdx.y;
  const int position = places.positions[t];
  const auto head_dim = static_cast<int>(kv.head_dim);
  const std::size_t to = page_of(kv, places, t, position) + h * share;
  const bool value = threadIdx.x >= 32;
  store_row<type>((value ? v : k) + (t * kv.kv_heads + h) * head_dim, head_dim,
                  static_cast<int>(position % kPageTokens), (value ? kv.v : kv.k) + to);
}

constexpr int kRopeWarps = 4;

// Grid: [tokens, parts of the heads]; a warp has one of q, then of k, then of v.
template <KvType type>
__global__ void __launch_bounds__(32 * kRopeWarps)
    rope_and_store(KvLayer kv, std::size_t share, DevicePlaces places, const float* cos,
                   const float* sin, int heads, bool interleaved, float* q, float* k,
                   const float* v) {
  const auto t = blockIdx.x;
  const auto head_dim = static_cast<int>(kv.head_dim), kv_heads = static_cast<int>(kv.kv_heads);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  // No kernel writes where tokens stand.
  const std::int32_t position = places.positions[t];
  const std::size_t page = page_of(kv, places, t, position);
  begin_kernel();
  const auto rotate = [&](float* head) {
    const int half = head_dim / 2;
    for (int i = lane; i < half; i += 32) {
      rotate_pair(head, i, half, interleaved, cos[t * half + i], sin[t * half + i]);
    }
  };
  int h = static_cast<int>(blockIdx.y * kRopeWarps + threadIdx.x / 32);
  if (h < heads) return rotate(q + (std::int64_t{t} * heads + h) * head_dim);
  h -= heads;
  if (h >= 2 * kv_heads) return;
  const bool value = h >= kv_heads;
  if (value) h -= kv_heads;
  const std::int64_t row = (std::int64_t{t} * kv_heads + h) * head_dim;
  if (!value) rotate(k + row);
  __syncwarp();
  store_row<type>((value ? v : k) + row, head_dim, static_cast<int>(position % kPageTokens),
                  (value ? kv.v : kv.k) + page + h * share);
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

cudaError_t rope_and_store_kv(const KvLayer& kv, const DevicePlaces& places, const float* cos,
                              const float* sin, std::int64_t heads, bool interleaved, float* q,
                              float* k, const float* v, cudaStream_t stream) {
  if (places.tokens == 0) return cudaSuccess;
  const auto warps = static_cast<int>(heads + 2 * kv.kv_heads);
  const dim3 grid(static_cast<unsigned>(places.tokens),
                  static_cast<unsigned>(divide_up(warps, kRopeWarps)));
  const auto kernel = kv.type == KvType::q8    ? rope_and_store<KvType::q8>
                      : kv.type == KvType::f16 ? rope_and_store<KvType::f16>
                                               : rope_and_store<KvType::f32>;
  return launch(stream, grid, 32 * kRopeWarps, 0, kernel, kv, kv_share_bytes(kv.type, kv.head_dim),
                places, cos, sin, static_cast<int>(heads), interleaved, q, k, v);
}

}  // namespace tenfold::cuda
