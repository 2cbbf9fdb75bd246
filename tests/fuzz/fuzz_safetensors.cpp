// Any bytes as a safetensors file: an Error, or tensors whose data lies in the file and fits.

#include <cstdint>
#include <cstdlib>
#include <span>

#include "kernels/checked.h"
#include "kernels/error.h"
#include "runtime/files/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto file = std::as_bytes(std::span(data, size));
  try {
    for (const auto& tensor : tenfold::parse_safetensors(file, "fuzz.safetensors")) {
      const auto elements = tenfold::checked_product(tensor.shape);
      if (!elements ||
          *elements * tenfold::dtype_traits(tensor.dtype).bytes != tensor.data.size() ||
          tensor.data.data() < file.data() ||
          tensor.data.data() + tensor.data.size() > file.data() + file.size()) {
        std::abort();
      }
    }
  } catch (const tenfold::Error&) {
  }
  return 0;
}
