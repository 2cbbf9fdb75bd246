// The scalar unit: everything below lives in tenfold::scalar and is static, so nothing compiled
// with this unit's flags can be linked into another.
#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/packed_scalar.h"
#include "kernels/cpu/simd_scalar.h"
#include "kernels/formats/all.h"

namespace tenfold {
namespace scalar {
#include "kernels/cpu/kernels.inl"
}  // namespace scalar

const KernelTable& scalar_kernels() noexcept {
  static constexpr KernelTable table = scalar::make_table("scalar");
  return table;
}

}  // namespace tenfold
