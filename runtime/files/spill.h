#pragma once
// Memory that lies in a file without a name: the system writes it out when memory is short, and it
// goes when the buffer does.

#include <cstddef>
#include <filesystem>

#include "kernels/buffer.h"

namespace tenfold {

// Zero-filled. Disk space is taken at once. Throws io naming the folder and the size.
Buffer spilled_buffer(std::size_t bytes, const std::filesystem::path& folder);

}  // namespace tenfold
