#pragma once
// The activations of one step, in memory of the device. Shapes are [tokens of the step, channels],
// float32.

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "kernels/device.h"

namespace tenfold {

// The inputs of a layer's products, and of the head.
enum class LinearInput { qkv, attn_output, mlp, down, head };
// Sees an input [tokens, cols], in memory of the host, before its products run; false ends the
// layer (or the head) there.
using InputTap =
    std::function<bool(LinearInput, const float* x, std::int64_t tokens, std::int64_t cols)>;

struct Workspace {
  // on_cpu: null where the device is the CPU.
  explicit Workspace(std::unique_ptr<Backend> device, std::unique_ptr<Backend> on_cpu = nullptr)
      : backend(std::move(device)), cpu(std::move(on_cpu)) {}

  std::unique_ptr<Backend> backend;
  std::unique_ptr<Backend> cpu;
  Scratch x;  // the residual stream
  Scratch normed, q, k, v, attended, gate, up, hidden, narrow;
  Scratch rope_cos, rope_sin;               // [tokens, head_dim / 2]
  Scratch tokens, table_positions;          // [tokens] rows of the embedding tables
  Scratch logit_rows;                       // [logit rows]
  Scratch logits;                           // [logit rows, vocab]
  std::vector<float> angles;                // cosines or sines on their way to the device
  std::vector<std::int32_t> row_positions;  // likewise
  std::vector<const std::int32_t*> page_tables;
  std::vector<TopLogit> top;
  InputTap input_tap;  // of calibration; empty otherwise

  // For operations on memory of the host.
  Backend& host() const noexcept { return cpu ? *cpu : *backend; }
  bool goes_on(LinearInput input, const float* linear_input, std::int64_t rows,
               std::int64_t cols) const {
    return !input_tap ||
           input_tap(input, backend->on_host(linear_input, static_cast<std::size_t>(rows * cols)),
                     rows, cols);
  }
  // Of memory of the device.
  template <typename T>
  T* get(Scratch& scratch, std::size_t count) const {
    return scratch.get<T>(count, [this](std::size_t bytes) { return backend->allocate(bytes); });
  }
  template <typename T>
  void send(Scratch& to, std::span<const T> values) const {
    backend->to_device(get<T>(to, values.size()), values.data(), values.size_bytes());
  }
  // The residual stream of a step, where the host can read it until the next operation.
  std::span<const float> stream(std::size_t floats) { return on_host(x, floats); }
  // What a step is to begin with.
  void set_stream(std::span<const float> from) { send(x, from); }
  // Of so many rows, likewise.
  std::span<const float> logits_on_host(std::size_t floats) { return on_host(logits, floats); }
  // The best of each of so many rows, so many of each, until the next call; nothing where that is
  // none or the host is to look itself.
  std::span<const TopLogit> top_logits(std::int64_t rows, std::int64_t vocab, int best) {
    const auto n = static_cast<std::size_t>(rows * best);
    if (n == 0) return {};
    top.resize(n);
    const auto* all = get<float>(logits, static_cast<std::size_t>(rows * vocab));
    if (!backend->top_k(all, vocab, rows, best, top.data())) return {};
    return top;
  }

 private:
  std::span<const float> on_host(Scratch& from, std::size_t floats) const {
    return {backend->on_host(get<float>(from, floats), floats), floats};
  }
};

Workspace make_workspace(const DeviceOptions& options);

}  // namespace tenfold
