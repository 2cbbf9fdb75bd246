#pragma once
// Enumerations whose values are places in a list of names.

#include <algorithm>
#include <array>
#include <optional>
#include <string_view>

namespace tenfold {

template <typename T, std::size_t N>
std::optional<T> find_name(const std::array<std::string_view, N>& names,
                           std::string_view name) noexcept {
  const auto at = std::find(names.begin(), names.end(), name);
  if (at == names.end()) return std::nullopt;
  return static_cast<T>(at - names.begin());
}

}  // namespace tenfold
