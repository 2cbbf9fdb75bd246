#include "quantizer/squeeze/options.h"

#include <algorithm>
#include <array>

namespace tenfold {
namespace {

constexpr std::array<std::string_view, 3> kSaliences = {"weight", "activation", "pbar"};
constexpr std::array<std::string_view, 4> kSupervisions = {"none", "full", "target", "blend"};

template <typename T, std::size_t N>
std::optional<T> parse(const std::array<std::string_view, N>& names, std::string_view name) {
  const auto at = std::find(names.begin(), names.end(), name);
  if (at == names.end()) return std::nullopt;
  return static_cast<T>(at - names.begin());
}

}  // namespace

std::string_view to_string(Salience salience) noexcept {
  return kSaliences[static_cast<std::size_t>(salience)];
}

std::optional<Salience> parse_salience(std::string_view name) noexcept {
  return parse<Salience>(kSaliences, name);
}

std::string_view to_string(Supervision supervision) noexcept {
  return kSupervisions[static_cast<std::size_t>(supervision)];
}

std::optional<Supervision> parse_supervision(std::string_view name) noexcept {
  return parse<Supervision>(kSupervisions, name);
}

}  // namespace tenfold
