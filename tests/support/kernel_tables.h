#pragma once
// Every kernel table a test can run here: what the machine has, and AVX-512 in emulation.

#include <ostream>
#include <string>
#include <vector>

#include "kernels/cpu/isa.h"

namespace tenfold {

const KernelTable& avx512_emulated_kernels() noexcept;

struct NamedKernels {
  std::string name;
  const KernelTable* table;
};

inline void PrintTo(const NamedKernels& kernels, std::ostream* out) { *out << kernels.name; }

inline std::vector<NamedKernels> all_kernels() {
  std::vector<NamedKernels> list;
  for (const KernelTable* table : runnable_kernels()) list.push_back({table->isa, table});
  list.push_back({"avx512_emulated", &avx512_emulated_kernels()});
  return list;
}

}  // namespace tenfold
