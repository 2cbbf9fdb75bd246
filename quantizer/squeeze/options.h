#pragma once
// Squeeze10-LLM's choices (design/papers.md 2.2, a reconstruction). Part of a recipe.

#include <optional>
#include <string_view>

namespace tenfold {

// Which input columns of a mixed layout get more bits: those of the largest weights, of the
// strongest inputs, or those that lose most by few bits (PBAR).
enum class Salience { weight, activation, pbar };
std::string_view to_string(Salience salience) noexcept;
std::optional<Salience> parse_salience(std::string_view name) noexcept;

// FIAS, what a layer's codes are fitted to. none: the inputs that the quantized layers before make.
// full (A): those of the full-precision model. target (B): the quantized layers' inputs, but the
// outputs that the full-precision model has. blend (C): the mean of both inputs' moments.
enum class Supervision { none, full, target, blend };
std::string_view to_string(Supervision supervision) noexcept;
std::optional<Supervision> parse_supervision(std::string_view name) noexcept;

inline constexpr double kSqueezeShare = 0.2;  // of the columns, at 4 bits

}  // namespace tenfold
