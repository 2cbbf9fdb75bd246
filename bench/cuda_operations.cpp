#include "bench/cuda_operations.h"

#include <cstdio>
#include <string>
#include <vector>

#include "bench/cuda_time.h"
#include "kernels/cuda/activations.h"
#include "kernels/cuda/ops.h"

namespace tenfold {
namespace {

constexpr int kDim = 4096, kHeads = 32, kHeadDim = 128, kFfn = 11008, kVocab = 32000;
constexpr int kContexts[] = {128, 1024};

void time_row(const char* what, const char* shape, int tokens, const Launch& launch) {
  std::printf("| %-8s | %-8s | %3d | %7.2f |       |       |\n", what, shape, tokens,
              time_us(20, launch));
  std::fflush(stdout);
}

// Sequences of one length, at their last token, and an f16 cache of zeros.
class Sequences {
 public:
  Sequences(int tokens, int length)
      : pages_each_((length + static_cast<int>(kPageTokens) - 1) / static_cast<int>(kPageTokens)),
        page_bytes_(kHeads * kv_share_bytes(KvType::f16, kHeadDim)),
        positions_(std::vector<std::int32_t>(static_cast<std::size_t>(tokens), length - 1)),
        tables_(counted(tokens)),
        pages_(counted(tokens * pages_each_)),
        cache_(2 * cache_bytes(tokens)) {
    check(cudaMemset(cache_.as<void>(), 0, 2 * cache_bytes(tokens)), "memset");
    kv_ = {cache_.as<std::byte>(),
           cache_.as<std::byte>() + cache_bytes(tokens),
           page_bytes_,
           kHeads,
           kHeadDim,
           KvType::f16};
    places_ = {positions_.as<std::int32_t>(), tables_.as<std::int32_t>(), pages_.as<std::int32_t>(),
               pages_each_, tokens};
  }
  const KvLayer& kv() const { return kv_; }
  const cuda::DevicePlaces& places() const { return places_; }

 private:
  static std::vector<std::int32_t> counted(int n) {
    std::vector<std::int32_t> numbers;
    for (std::int32_t i = 0; i < n; ++i) numbers.push_back(i);
    return numbers;
  }
  std::size_t cache_bytes(int tokens) const {
    return static_cast<std::size_t>(tokens * pages_each_) * page_bytes_;
  }

  int pages_each_;
  std::size_t page_bytes_;
  Memory positions_, tables_, pages_, cache_;
  KvLayer kv_;
  cuda::DevicePlaces places_;
};

void time_attention(int tokens, int context, const float* q, float* out) {
  const Sequences sequences(tokens, context);
  const Memory scratch(
      cuda::attention_scratch(tokens, kHeads, kHeadDim, sequences.places().stride));
  time_row("attention", (std::to_string(context) + " positions").c_str(), tokens,
           [&](std::size_t, cudaStream_t stream) {
             check(cuda::attention(sequences.kv(), sequences.places(), q, kHeads, 0.088f, out,
                                   scratch.as<void>(), stream),
                   "attention");
           });
}

// With the launch that makes them, in blocks of 128 columns.
void time_rounded(const char* what, const cuda::MadeRows& rows, int tokens) {
  const cuda::ActivationBand band{0, static_cast<int>(rows.dim), 128};
  const Memory rounded(cuda::activation_bytes({&band, 1}, tokens));
  const cuda::ActivationSource from{nullptr, 0, nullptr, nullptr, 4};
  time_row(
      what, (std::to_string(rows.dim) + " rounded").c_str(), tokens,
      [&](std::size_t, cudaStream_t stream) {
        check(cuda::launch_prepare(rows, from, {&band, 1}, tokens, rounded.as<std::byte>(), stream),
              what);
      });
}

void time_top_logits(int tokens) {
  const auto n = static_cast<std::size_t>(tokens);
  const Memory logits = random_floats(n * kVocab);
  for (const int k : {1, 40}) {
    const Memory best(n * static_cast<std::size_t>(k) * sizeof(TopLogit));
    time_row("logits", ("best " + std::to_string(k)).c_str(), tokens,
             [&](std::size_t, cudaStream_t stream) {
               check(
                   cuda::top_k(logits.as<float>(), kVocab, tokens, k, best.as<TopLogit>(), stream),
                   "top_k");
             });
  }
}

}  // namespace

void time_operations(int tokens) {
  const auto n = static_cast<std::size_t>(tokens);
  const Memory x = random_floats(n * kDim), y = random_floats(n * kDim);
  const Memory weight = random_floats(kDim), angles = random_floats(n * kHeadDim / 2);
  const Memory gate = random_floats(n * kFfn), up = random_floats(n * kFfn);
  const Memory key = random_floats(n * kDim), hidden(n * kFfn * sizeof(float));
  time_row("rms_norm", "4096", tokens, [&](std::size_t, cudaStream_t stream) {
    check(cuda::rms_norm(x.as<float>(), weight.as<float>(), 1e-5f, tokens, kDim, y.as<float>(),
                         stream),
          "rms_norm");
  });
  time_rounded("rms_norm",
               {cuda::MadeRows::By::rms_norm, x.as<float>(), weight.as<float>(), nullptr, 1e-5f,
                kDim, y.as<float>()},
               tokens);
  time_row("rope", "4096", tokens, [&](std::size_t, cudaStream_t stream) {
    check(cuda::rope(y.as<float>(), angles.as<float>(), angles.as<float>(), tokens, kHeads,
                     kHeadDim, false, stream),
          "rope");
  });
  const Sequences sequences(tokens, kContexts[0]);
  time_row("store_kv", "4096", tokens, [&](std::size_t, cudaStream_t stream) {
    check(cuda::store_kv(sequences.kv(), sequences.places(), x.as<float>(), x.as<float>(), stream),
          "store_kv");
  });
  time_row("rope", "q, k; kv", tokens, [&](std::size_t, cudaStream_t stream) {
    check(cuda::rope_and_store_kv(sequences.kv(), sequences.places(), angles.as<float>(),
                                  angles.as<float>(), kHeads, false, y.as<float>(), key.as<float>(),
                                  x.as<float>(), stream),
          "rope_and_store_kv");
  });
  for (const int context : kContexts) {
    time_attention(tokens, context, x.as<float>(), y.as<float>());
  }
  time_row("silu_mul", "11008", tokens, [&](std::size_t, cudaStream_t stream) {
    check(cuda::silu_mul(gate.as<float>(), up.as<float>(), static_cast<std::int64_t>(n) * kFfn,
                         hidden.as<float>(), stream),
          "silu_mul");
  });
  time_rounded("silu_mul",
               {cuda::MadeRows::By::silu_mul, gate.as<float>(), up.as<float>(), nullptr, 0, kFfn,
                hidden.as<float>()},
               tokens);
  time_top_logits(tokens);
}

}  // namespace tenfold
