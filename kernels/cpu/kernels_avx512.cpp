// The avx512 unit: everything below lives in tenfold::avx512 and is static, so nothing compiled
// with this unit's flags can be linked into another.
#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/packed_avx512.h"
#include "kernels/cpu/simd_avx512.h"
#include "kernels/formats/all.h"

namespace tenfold {
namespace avx512 {
#include "kernels/cpu/kernels.inl"
}  // namespace avx512

const KernelTable& avx512_kernels() noexcept {
  static constexpr KernelTable table = avx512::make_table("avx512");
  return table;
}

}  // namespace tenfold
