// Tokens per second of a model, measured as llama-bench does: prefill of P tokens into an empty
// cache, then N single-token steps from an empty cache; no tokenizer, no sampler. Prints one JSON
// line a measurement, so that a script can interleave it with a peer.
//
//   tokens MODEL [prefill P] [decode N] [repetitions R] [threads T]

#include <fmt/core.h>

#include <chrono>
#include <string>
#include <vector>

#include "kernels/error.h"
#include "models/decoder.h"
#include "runtime/session.h"

namespace tenfold {
namespace {

double seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

int run(const std::string& path, std::int64_t prefill, std::int64_t decode, int repetitions,
        int threads) {
  const auto source = std::make_shared<const ModelSource>(path);
  const std::unique_ptr<Model> model = load_model(source);
  Workspace ws(make_cpu_backend({threads, ""}));
  const std::int64_t context = std::min(model->info().max_context, std::max(prefill, decode) + 64);
  Session session(*model, ws, context, KvType::f16);
  std::vector<TokenId> prompt;
  for (std::int64_t i = 0; i < prefill; ++i) {
    prompt.push_back(static_cast<TokenId>((i * 7919 + 11) % model->info().vocab));
  }
  const TokenId first = 1;
  session.set({&first, 1});  // warm-up: pages in the weights
  for (int r = 0; r < repetitions; ++r) {
    if (prefill > 0) {
      const TokenId other = prompt.front() + 1;
      session.set({&other, 1});  // shares no prefix with the prompt
      const double start = seconds();
      session.set(prompt);
      fmt::print("{{\"test\":\"pp{}\",\"tok_s\":{:.3f}}}\n", prefill,
                 static_cast<double>(prefill) / (seconds() - start));
    }
    if (decode > 0) {
      session.set({&first, 1});
      const double start = seconds();
      for (std::int64_t i = 0; i < decode; ++i) {
        const auto token = static_cast<TokenId>((i * 104729 + 3) % model->info().vocab);
        session.append({&token, 1});
      }
      fmt::print("{{\"test\":\"tg{}\",\"tok_s\":{:.3f}}}\n", decode,
                 static_cast<double>(decode) / (seconds() - start));
    }
  }
  return 0;
}

}  // namespace
}  // namespace tenfold

int main(int argc, char** argv) {
  const auto number = [&](int i, int fallback) { return argc > i ? std::atoi(argv[i]) : fallback; };
  try {
    if (argc < 2) {
      fmt::print(stderr, "usage: tokens MODEL [prefill] [decode] [repetitions] [threads]\n");
      return 2;
    }
    return tenfold::run(argv[1], number(2, 512), number(3, 128), number(4, 3), number(5, 0));
  } catch (const tenfold::Error& error) {
    fmt::print(stderr, "tokens: {}\n", error.what());
    return 1;
  }
}
