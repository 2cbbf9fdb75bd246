#include "kernels/cpu/loops.h"

namespace tenfold {
namespace loops_baseline {
#include "kernels/cpu/loops.inl"
}  // namespace loops_baseline

const Loops& baseline_loops() noexcept {
  static constexpr Loops table = loops_baseline::make_loops("baseline");
  return table;
}

}  // namespace tenfold
