// Any bytes as a GGUF file: an Error, or tensors that lie in the file and can be dequantized.

#include <cstdint>
#include <cstdlib>
#include <vector>

#include "kernels/error.h"
#include "runtime/files/gguf.h"

namespace {

using namespace tenfold;

void check(bool condition) {
  if (!condition) std::abort();
}

template <typename F>
void ignore_error(F&& call) {
  try {
    call();
  } catch (const Error&) {
  }
}

void check_tensor(const TensorSource& tensor, std::span<const std::byte> file) {
  const DTypeTraits traits = dtype_traits(tensor.dtype);
  check(tensor.data.data() >= file.data());
  check(tensor.data.data() + tensor.data.size() <= file.data() + file.size());
  check(static_cast<std::uint64_t>(tensor.elements()) / traits.block * traits.bytes ==
        tensor.data.size());
  if (!traits.dequantizable) return;
  std::vector<float> row(static_cast<std::size_t>(tensor.shape.back()));
  dequantize(tensor.dtype, tensor.data.first(row.size() / traits.block * traits.bytes), row);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::span<const std::byte> file(reinterpret_cast<const std::byte*>(data), size);
  ignore_error([&] {
    const GgufContents contents = parse_gguf(file, "fuzz.gguf");
    for (const TensorSource& tensor : contents.tensors) check_tensor(tensor, file);
    for (const auto& [key, value] : contents.metadata.entries) {
      check(contents.metadata.find(key) == &value);
      ignore_error([&, &k = key] { contents.metadata.get_int(k); });
      ignore_error([&, &k = key] { contents.metadata.get_ints(k); });
      ignore_error([&, &k = key] { contents.metadata.get_strings(k); });
    }
  });
  return 0;
}
