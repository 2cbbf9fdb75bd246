#pragma once
// What a model's weights take in its files: the true bits per weight.

#include <cstdint>
#include <map>
#include <string>

#include "models/tensors.h"
#include "models/weights.h"

namespace tenfold {

struct TypeSize {
  std::int64_t tensors = 0, elements = 0;
  std::uint64_t bytes = 0;  // scales, minima and maps included
  LoadedAs as = LoadedAs::is;
};

struct ModelSize {
  TypeSize all;
  TypeSize quantized;                     // block types and packed bands
  std::map<std::string, TypeSize> types;  // by "F16", "Q4_1", "q4 g128 zero"
};

ModelSize measure(const Family& family, const DecoderSpec& spec, const ModelSource& source);

double bits_per_weight(const TypeSize& size);  // 0 where there are none

}  // namespace tenfold
