// The avx2 unit: everything below lives in tenfold::avx2 and is static, so nothing compiled with
// this unit's flags can be linked into another.
#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/packed_avx2.h"
#include "kernels/cpu/simd_avx2.h"
#include "kernels/formats/all.h"

namespace tenfold {
namespace avx2 {
#include "kernels/cpu/kernels.inl"
}  // namespace avx2

const KernelTable& avx2_kernels() noexcept {
  static constexpr KernelTable table = avx2::make_table("avx2");
  return table;
}

}  // namespace tenfold
