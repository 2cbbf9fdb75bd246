#pragma once
// Benchmark rows of packed products: format x shape x tokens on one instruction set, one thread.

#include "kernels/cpu/kernel_table.h"

namespace tenfold {

// bandwidth: GB/s; int8_peak: Gop/s, both of one thread on this machine.
void register_packed(const KernelTable& kernels, double bandwidth, double int8_peak);

}  // namespace tenfold
