#include "kernels/cpu/isa.h"

#include <cpuid.h>

#include <array>
#include <fstream>

#include "kernels/error.h"

namespace tenfold {

CpuFeatures detect_cpu() noexcept {
  __builtin_cpu_init();
  CpuFeatures f;
  f.avx2 = __builtin_cpu_supports("avx2") != 0;
  f.fma = __builtin_cpu_supports("fma") != 0;
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;  // GCC 12 has no name for F16C
  f.f16c = __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
  f.avx512 = __builtin_cpu_supports("avx512f") != 0 && __builtin_cpu_supports("avx512bw") != 0 &&
             __builtin_cpu_supports("avx512vl") != 0 && __builtin_cpu_supports("avx512dq") != 0;
  f.avx512_vnni = f.avx512 && __builtin_cpu_supports("avx512vnni") != 0;
  return f;
}

std::string cpu_name() {
  std::ifstream file("/proc/cpuinfo");
  std::string line;
  while (std::getline(file, line)) {
    if (line.rfind("model name", 0) != 0) continue;
    const std::size_t colon = line.find(": ");
    if (colon != std::string::npos) return line.substr(colon + 2);
  }
  return "unknown CPU";
}

std::span<const KernelTable* const> runnable_kernels() noexcept {
  static const std::array<const KernelTable*, 3> all = {&avx512_kernels(), &avx2_kernels(),
                                                        &scalar_kernels()};
  static const std::size_t first = [] {
    const CpuFeatures f = detect_cpu();
    const bool avx2 = f.avx2 && f.fma && f.f16c;
    return f.avx512_vnni && avx2 ? 0u : avx2 ? 1u : 2u;
  }();
  return std::span(all).subspan(first);
}

std::span<const Loops* const> runnable_loops() noexcept {
  static const std::array<const Loops*, 3> all = {&avx512_loops(), &avx2_loops(),
                                                  &baseline_loops()};
  static const std::size_t first = [] {
    const CpuFeatures f = detect_cpu();
    return f.avx512 ? 0u : f.avx2 ? 1u : 2u;
  }();
  return std::span(all).subspan(first);
}

const Loops& loops() noexcept {
  static const Loops& best = *runnable_loops().front();
  return best;
}

const KernelTable& choose_kernels(std::string_view isa) {
  if (isa.empty()) return *runnable_kernels().front();
  std::string names;
  for (const KernelTable* table : runnable_kernels()) {
    if (isa == table->isa) return *table;
    names += names.empty() ? table->isa : std::string(", ") + table->isa;
  }
  const bool known = isa == "scalar" || isa == "avx2" || isa == "avx512";
  throw_error(ErrorCode::bad_request, "--isa {}: {}; this machine runs {}", isa,
              known ? "not available on this CPU" : "unknown (scalar, avx2 or avx512)", names);
}

}  // namespace tenfold
