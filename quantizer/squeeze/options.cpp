#include "quantizer/squeeze/options.h"

#include <array>

#include "quantizer/names.h"

namespace tenfold {
namespace {

constexpr std::array<std::string_view, 3> kSaliences = {"weight", "activation", "pbar"};
constexpr std::array<std::string_view, 4> kSupervisions = {"none", "full", "target", "blend"};

}  // namespace

std::string_view to_string(Salience salience) noexcept {
  return kSaliences[static_cast<std::size_t>(salience)];
}

std::optional<Salience> parse_salience(std::string_view name) noexcept {
  return find_name<Salience>(kSaliences, name);
}

std::string_view to_string(Supervision supervision) noexcept {
  return kSupervisions[static_cast<std::size_t>(supervision)];
}

std::optional<Supervision> parse_supervision(std::string_view name) noexcept {
  return find_name<Supervision>(kSupervisions, name);
}

}  // namespace tenfold
