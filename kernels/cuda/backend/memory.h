#pragma once
// Memory of the device, and of the host where the device reaches it.

#include <cstddef>

#include "kernels/buffer.h"

namespace tenfold::cuda {

Buffer device_memory(std::size_t bytes);  // throws out_of_memory, naming the size and what is free
Buffer pinned_memory(std::size_t bytes);  // likewise

}  // namespace tenfold::cuda
