#include "runtime/context.h"

#include "kernels/error.h"

namespace tenfold {

std::int64_t checked_context(const ModelInfo& info, std::int64_t context) {
  const std::int64_t most = info.max_context;
  if (context == 0) return most;
  if (context < 1 || context > most) {
    throw_error(ErrorCode::bad_request, "a context of {} tokens is out of range: the model has {}",
                context, most);
  }
  return context;
}

}  // namespace tenfold
