#pragma once
// Run-time choice of the CPU kernels: the best ISA the machine has, or a forced one.

#include <span>
#include <string>
#include <string_view>

#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/loops.h"

namespace tenfold {

struct CpuFeatures {
  bool avx2 = false, fma = false, f16c = false, avx512 = false, avx512_vnni = false;
};

CpuFeatures detect_cpu() noexcept;
std::string cpu_name();  // "AMD EPYC 7543 32-Core Processor", or "unknown CPU"

// Tables this machine can run, best first; scalar is always last.
std::span<const KernelTable* const> runnable_kernels() noexcept;

// The same for the quantizer's loops, whose results no instruction set changes.
std::span<const Loops* const> runnable_loops() noexcept;
const Loops& loops() noexcept;  // the best

// "" picks the best; otherwise scalar, avx2 or avx512 (which needs VNNI). Throws bad_request for an
// unknown name or an ISA this machine lacks.
const KernelTable& choose_kernels(std::string_view isa);

}  // namespace tenfold
