#include "kernels/cpu/loops.h"

namespace tenfold {
namespace loops_avx512 {
#include "kernels/cpu/loops.inl"
}  // namespace loops_avx512

const Loops& avx512_loops() noexcept {
  static constexpr Loops table = loops_avx512::make_loops("avx512");
  return table;
}

}  // namespace tenfold
