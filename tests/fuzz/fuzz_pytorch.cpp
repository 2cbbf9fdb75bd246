// Any bytes as a torch archive (if they start like a zip file) or as a pickle: an Error, or
// something whose parts lie in the input.

#include <cstdint>
#include <cstdlib>
#include <span>

#include "kernels/checked.h"
#include "kernels/error.h"
#include "runtime/files/memory_budget.h"
#include "runtime/files/pytorch_file.h"
#include "runtime/files/unpickler.h"

namespace {

using tenfold::PickleValue;

void check_archive(std::span<const std::byte> file) {
  for (const auto& tensor : tenfold::parse_pytorch(file, "fuzz.bin").tensors) {
    const auto elements = tenfold::checked_product(tensor.shape);
    if (!elements || *elements * tenfold::dtype_traits(tensor.dtype).bytes != tensor.data.size() ||
        tensor.data.data() < file.data() ||
        tensor.data.data() + tensor.data.size() > file.data() + file.size()) {
      std::abort();
    }
  }
}

void check_pickle(std::span<const std::byte> bytes) {
  tenfold::MemoryBudget budget(16u << 20, "fuzz.pkl");
  const tenfold::Pickle pickle(bytes, "fuzz.pkl", &budget);
  const PickleValue root = pickle.root();
  if (root.kind != PickleValue::Kind::dict) return;
  const auto items = pickle.items(root);
  if (items.size() % 2 != 0) std::abort();
  for (const PickleValue& item : items) {
    if (item.kind == PickleValue::Kind::string && pickle.text(item).size() != item.index) {
      std::abort();
    }
    if (item.kind == PickleValue::Kind::tensor) pickle.items(pickle.tensor(item).size);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  try {
    if (size >= 2 && data[0] == 'P' && data[1] == 'K') {
      check_archive(bytes);
    } else {
      check_pickle(bytes);
    }
  } catch (const tenfold::Error&) {
  }
  return 0;
}
