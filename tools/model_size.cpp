#include "tools/model_size.h"

#include "models/weights.h"

namespace tenfold {
namespace {

void count(TypeSize& size, const TensorSource& tensor) {
  ++size.tensors;
  size.elements += tensor.elements();
  size.bytes += tensor.data.size();
}

}  // namespace

ModelSize measure(const Family& family, const DecoderSpec& spec, const ModelSource& source) {
  ModelSize size;
  for (const TensorShape& expected : decoder_tensors(spec)) {
    const TensorSource* tensor = find_tensor(family, source, expected.name);
    if (tensor == nullptr) continue;
    count(size.all, *tensor);
    if (!is_float(tensor->dtype)) count(size.quantized, *tensor);
    count(size.types[tensor->dtype], *tensor);
  }
  return size;
}

double bits_per_weight(const TypeSize& size) {
  if (size.elements == 0) return 0;
  return 8.0 * static_cast<double>(size.bytes) / static_cast<double>(size.elements);
}

}  // namespace tenfold
