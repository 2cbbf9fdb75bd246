#include "quantizer/search/options.h"

namespace tenfold {

std::string_view to_string(SearchTarget target) noexcept {
  return target == SearchTarget::teacher ? "teacher" : "text";
}

std::optional<SearchTarget> parse_search_target(std::string_view name) noexcept {
  for (const SearchTarget target : {SearchTarget::text, SearchTarget::teacher}) {
    if (name == to_string(target)) return target;
  }
  return std::nullopt;
}

}  // namespace tenfold
