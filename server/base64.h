#pragma once

#include <string>
#include <string_view>

namespace tenfold {

// With padding.
std::string base64(std::string_view bytes);

}  // namespace tenfold
