#include "quantizer/allocate/options.h"

#include <array>

#include "quantizer/names.h"

namespace tenfold {
namespace {

constexpr std::array<std::string_view, 3> kAllocations = {"none", "ratio", "bits"};
constexpr std::array<std::string_view, 3> kSensitivities = {"block", "scaled", "final"};

}  // namespace

std::string_view to_string(Allocation allocation) noexcept {
  return kAllocations[static_cast<std::size_t>(allocation)];
}

std::optional<Allocation> parse_allocation(std::string_view name) noexcept {
  return find_name<Allocation>(kAllocations, name);
}

std::string_view to_string(Sensitivity sensitivity) noexcept {
  return kSensitivities[static_cast<std::size_t>(sensitivity)];
}

std::optional<Sensitivity> parse_sensitivity(std::string_view name) noexcept {
  return find_name<Sensitivity>(kSensitivities, name);
}

}  // namespace tenfold
