#pragma once
// Rows of attention through the CPU backend: one token over contexts of 128 ... 8192 keys, which
// should read its keys and values as fast as memory gives them, and 512 tokens of a prompt.

#include "kernels/cpu/kernel_table.h"

namespace tenfold {

// Names: ISA/attention_TYPE/HEADSxDIM/keys:N/threads:T and ISA/prefill_attention_TYPE/...
void register_attention(const KernelTable& kernels);

}  // namespace tenfold
