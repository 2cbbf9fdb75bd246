#pragma once
// Run-time names and sizes of weight formats and of packed bands.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace tenfold {

enum class Format : std::uint8_t {
#define FLOAT_FORMAT(id, name, bits) name = id,
#define PACKED_FORMAT(id, name, Type) name = id,
#include "kernels/formats/formats.def"
};

struct FormatTraits {
  std::string_view name;  // "q2"
  int bits;
  bool packed;    // panels of codes with scales; else row-major elements
  int line_cols;  // packed: rows are padded to a multiple of this
};
std::optional<FormatTraits> format_traits(std::uint32_t id) noexcept;  // nullopt: unknown id
FormatTraits format_traits(Format format) noexcept;
std::optional<Format> packed_format(int bits) noexcept;  // nullopt: no packed format of this width
inline bool is_packed(Format format) noexcept { return format_traits(format).packed; }

// What is added to scale * code (ids are on disk).
enum class MinKind : std::uint8_t {
  zero = 0,     // -scale * z, z an integer of as many bits as a code
  midrise = 1,  // -scale * (2^bits - 1) / 2: nothing stored, symmetric
  f16 = 2,      // any f16 number
};
std::optional<std::string_view> min_kind_name(std::uint32_t id) noexcept;
std::optional<MinKind> parse_min_kind(std::string_view name) noexcept;

// Groups are 32, 64, 128 or a whole row of any length; the last group of a row may be shorter.
// Sizes of a packed band of `rows` x `cols`. The arguments were checked: rows and cols in
// [1, 2^24], group >= 1.
struct PackedLayout {
  std::int64_t panels = 0, groups = 0, padded_cols = 0;
  std::int64_t panel_code_bytes = 0;                            // of one panel
  std::int64_t panel_min_bytes = 0;                             // of one panel; 0 for midrise
  std::int64_t code_bytes = 0, scale_bytes = 0, min_bytes = 0;  // of the band
};
PackedLayout packed_layout(Format format, MinKind min_kind, std::int64_t rows, std::int64_t cols,
                           std::int64_t group) noexcept;

}  // namespace tenfold
