#pragma once
// Names that come from a file, made safe for a message: in double quotes, control and non-ASCII
// bytes as \xNN (no terminal escapes), and cut where they are long.

#include <string>
#include <string_view>

namespace tenfold {

std::string quote(std::string_view text);

}  // namespace tenfold
