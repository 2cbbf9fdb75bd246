#pragma once

namespace tenfold {

// Rows of cuda_bench's table: what a step of LLaMA-2-7B does in a layer besides products, of so
// many tokens of as many sequences.
void time_operations(int tokens);

}  // namespace tenfold
