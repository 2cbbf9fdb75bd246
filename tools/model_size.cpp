#include "tools/model_size.h"

namespace tenfold {
namespace {

void count(TypeSize& size, const SourceWeight& weight) {
  ++size.tensors;
  size.elements += weight.elements();
  size.bytes += weight.bytes();
}

}  // namespace

ModelSize measure(const Family& family, const DecoderSpec& spec, const ModelSource& source) {
  ModelSize size;
  for (const TensorShape& expected : decoder_tensors(spec)) {
    const auto weight = find_weight(family, source, expected);
    if (!weight) continue;
    count(size.all, *weight);
    if (weight->quantized()) count(size.quantized, *weight);
    TypeSize& type = size.types[weight->type_text()];
    type.as = loaded_as(*weight);
    count(type, *weight);
  }
  return size;
}

double bits_per_weight(const TypeSize& size) {
  if (size.elements == 0) return 0;
  return 8.0 * static_cast<double>(size.bytes) / static_cast<double>(size.elements);
}

}  // namespace tenfold
