#include "quantizer/omniquant/options.h"

#include <array>

#include "quantizer/names.h"

namespace tenfold {
namespace {

constexpr std::array<std::string_view, 3> kLearnedCodes = {"none", "high", "all"};

}  // namespace

std::string_view to_string(LearnedCodes codes) noexcept {
  return kLearnedCodes[static_cast<std::size_t>(codes)];
}

std::optional<LearnedCodes> parse_learned_codes(std::string_view name) noexcept {
  return find_name<LearnedCodes>(kLearnedCodes, name);
}

}  // namespace tenfold
