#pragma once
// The alphabet of byte-level BPE: each byte as one printable character (GPT-2's table), so that
// vocabulary files are text. "Ġ" is a space, "Ċ" a line feed.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace tenfold {

std::string_view byte_level_symbol(std::uint8_t byte) noexcept;
std::string to_byte_level(std::string_view bytes);
// nullopt: a character outside the alphabet.
std::optional<std::string> from_byte_level(std::string_view text);

}  // namespace tenfold
