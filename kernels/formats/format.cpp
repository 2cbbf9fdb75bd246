#include "kernels/formats/format.h"

#include <algorithm>
#include <array>

#include "kernels/formats/all.h"

namespace tenfold {
namespace {

struct Entry {
  Format format;
  FormatTraits traits;
};

constexpr auto kFormats = std::to_array<Entry>({
#define FLOAT_FORMAT(id, name, bits) {Format::name, {#name, bits, false, 1}},
#define PACKED_FORMAT(id, name, Type) {Format::name, {#name, Type::bits, true, line_cols<Type>}},
#include "kernels/formats/formats.def"
});
constexpr std::array<std::string_view, 3> kMinKinds = {"zero", "midrise", "f16"};

std::int64_t divide_up(std::int64_t n, std::int64_t by) { return (n + by - 1) / by; }

}  // namespace

std::optional<FormatTraits> format_traits(std::uint32_t id) noexcept {
  for (const Entry& entry : kFormats) {
    if (static_cast<std::uint32_t>(entry.format) == id) return entry.traits;
  }
  return std::nullopt;
}

FormatTraits format_traits(Format format) noexcept {
  return *format_traits(static_cast<std::uint32_t>(format));
}

std::optional<Format> packed_format(int bits) noexcept {
  for (const Entry& entry : kFormats) {
    if (entry.traits.packed && entry.traits.bits == bits) return entry.format;
  }
  return std::nullopt;
}

std::optional<std::string_view> min_kind_name(std::uint32_t id) noexcept {
  if (id >= kMinKinds.size()) return std::nullopt;
  return kMinKinds[id];
}

std::optional<MinKind> parse_min_kind(std::string_view name) noexcept {
  for (std::size_t id = 0; id < kMinKinds.size(); ++id) {
    if (kMinKinds[id] == name) return static_cast<MinKind>(id);
  }
  return std::nullopt;
}

PackedLayout packed_layout(Format format, MinKind min_kind, std::int64_t rows, std::int64_t cols,
                           std::int64_t group) noexcept {
  const FormatTraits traits = format_traits(format);
  PackedLayout layout;
  layout.panels = divide_up(rows, kPanelRows);
  layout.groups = divide_up(cols, group);
  layout.padded_cols = divide_up(cols, traits.line_cols) * traits.line_cols;
  layout.panel_code_bytes = layout.padded_cols * kPanelRows * traits.bits / 8;
  layout.code_bytes = layout.panels * layout.panel_code_bytes;
  layout.scale_bytes = layout.panels * layout.groups * kPanelRows * 2;
  if (min_kind == MinKind::zero)
    layout.panel_min_bytes = layout.groups * kPanelRows * traits.bits / 8;
  if (min_kind == MinKind::f16) layout.panel_min_bytes = layout.groups * kPanelRows * 2;
  layout.min_bytes = layout.panels * layout.panel_min_bytes;
  return layout;
}

}  // namespace tenfold
