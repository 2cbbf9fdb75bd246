#pragma once

#include "runtime/model.h"

namespace tenfold {

// Tokens of a context, 0 meaning the model's own. Throws bad_request where the model has fewer.
std::int64_t checked_context(const ModelInfo& info, std::int64_t context);

}  // namespace tenfold
