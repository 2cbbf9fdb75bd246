#include "kernels/dtype.h"

namespace tenfold {

std::optional<DTypeTraits> dtype_traits(std::uint32_t id) noexcept {
  switch (static_cast<DType>(id)) {
    case DType::f32:
      return DTypeTraits{"F32", 1, 4, true};
    case DType::f16:
      return DTypeTraits{"F16", 1, 2, true};
    case DType::bf16:
      return DTypeTraits{"BF16", 1, 2, true};
    case DType::q4_0:
      return DTypeTraits{"Q4_0", 32, 18, true};
    case DType::q4_1:
      return DTypeTraits{"Q4_1", 32, 20, true};
    case DType::q5_0:
      return DTypeTraits{"Q5_0", 32, 22, true};
    case DType::q5_1:
      return DTypeTraits{"Q5_1", 32, 24, true};
    case DType::q8_0:
      return DTypeTraits{"Q8_0", 32, 34, true};
    case DType::q2_k:
      return DTypeTraits{"Q2_K", 256, 84, true};
    case DType::q3_k:
      return DTypeTraits{"Q3_K", 256, 110, true};
    case DType::q4_k:
      return DTypeTraits{"Q4_K", 256, 144, true};
    case DType::q5_k:
      return DTypeTraits{"Q5_K", 256, 176, true};
    case DType::q6_k:
      return DTypeTraits{"Q6_K", 256, 210, true};
    case DType::i8:
      return DTypeTraits{"I8", 1, 1, false};
    case DType::i32:
      return DTypeTraits{"I32", 1, 4, false};
    case DType::i64:
      return DTypeTraits{"I64", 1, 8, false};
  }
  return std::nullopt;
}

DTypeTraits dtype_traits(DType type) noexcept {
  return *dtype_traits(static_cast<std::uint32_t>(type));
}

}  // namespace tenfold
