#pragma once
// One step of the engine: tokens of one or more sequences, prefill chunks and decode rows mixed.

#include <cstdint>
#include <vector>

namespace tenfold {

struct Batch {
  std::vector<std::int32_t> tokens;
  std::vector<std::int32_t> positions;   // of each token in its sequence
  std::vector<std::int32_t> sequences;   // KV cache sequence of each token
  std::vector<std::int32_t> logit_rows;  // rows (indices into tokens) whose logits are wanted

  std::int64_t size() const noexcept { return static_cast<std::int64_t>(tokens.size()); }
  void clear() {
    tokens.clear();
    positions.clear();
    sequences.clear();
    logit_rows.clear();
  }
  void add(std::int32_t token, std::int32_t position, std::int32_t sequence) {
    tokens.push_back(token);
    positions.push_back(position);
    sequences.push_back(sequence);
  }
};

}  // namespace tenfold
