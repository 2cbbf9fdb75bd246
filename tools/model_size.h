#pragma once
// What a model's weights take in its files: the true bits per weight.

#include <cstdint>
#include <map>

#include "models/family.h"

namespace tenfold {

struct TypeSize {
  std::int64_t tensors = 0, elements = 0;
  std::uint64_t bytes = 0;
};

struct ModelSize {
  TypeSize all;
  TypeSize quantized;  // tensors of types other than F32, F16 and BF16
  std::map<DType, TypeSize> types;
};

ModelSize measure(const Family& family, const DecoderSpec& spec, const ModelSource& source);

double bits_per_weight(const TypeSize& size);  // 0 where there are none

}  // namespace tenfold
