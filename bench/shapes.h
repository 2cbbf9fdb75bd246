#pragma once
// Shapes of published models.

#include <string>
#include <string_view>
#include <vector>

#include "models/spec.h"

namespace tenfold {

// Throws bad_request, naming the known ones.
DecoderSpec published_shape(std::string_view name);
std::vector<std::string> published_shapes();

}  // namespace tenfold
