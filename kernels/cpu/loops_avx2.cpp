#include "kernels/cpu/loops.h"

namespace tenfold {
namespace loops_avx2 {
#include "kernels/cpu/loops.inl"
}  // namespace loops_avx2

const Loops& avx2_loops() noexcept {
  static constexpr Loops table = loops_avx2::make_loops("avx2");
  return table;
}

}  // namespace tenfold
