#include "runtime/files/packed_matrix.h"

#include <fmt/format.h>

#include <cstring>

#include "kernels/formats/plane.h"

namespace tenfold {
namespace {

DType float_dtype(Format format) {
  return format == Format::f32 ? DType::f32 : format == Format::f16 ? DType::f16 : DType::bf16;
}

PackedLayout layout_of(const Band& band, std::int64_t rows) {
  return packed_layout(band.format, band.min_kind, rows, band.cols(), band.group);
}

bool is_row_group(const Band& band) {
  return band.group == band.cols() && band.group != 32 && band.group != 64 && band.group != 128;
}

std::uint32_t u32(std::int64_t value) { return static_cast<std::uint32_t>(value); }

// Reserves 64-byte aligned places and, in a second walk, hands them out.
class Arena {
 public:
  explicit Arena(std::byte* base) : base_(base) {}

  const std::byte* take(std::int64_t bytes) {
    const std::size_t at = used_;
    used_ +=
        (static_cast<std::size_t>(bytes) + kPartAlignment - 1) / kPartAlignment * kPartAlignment;
    return base_ == nullptr ? nullptr : base_ + at;
  }
  std::size_t used() const { return used_; }

 private:
  std::byte* base_;
  std::size_t used_ = 0;
};

template <typename T>
void copy_map(const T*& map, std::int64_t count, Arena& arena, const QuantizedMatrix& owner) {
  if (map == nullptr) return;
  const std::int64_t bytes = count * static_cast<std::int64_t>(sizeof(T));
  const std::byte* place = arena.take(bytes);
  if (place == nullptr) return;
  std::memcpy(writable(owner, place), map, static_cast<std::size_t>(bytes));
  map = reinterpret_cast<const T*>(place);
}

void place(MatrixView& view, Arena& arena, const QuantizedMatrix& owner) {
  for (int k = 0; k < view.n_bands; ++k) {
    Band& band = view.bands[static_cast<std::size_t>(k)];
    const FormatTraits traits = format_traits(band.format);
    band.scale = band.min = nullptr;
    if (!traits.packed) {
      band.codes = arena.take(view.rows * band.cols() * traits.bits / 8);
      continue;
    }
    const PackedLayout layout = layout_of(band, view.rows);
    band.codes = arena.take(layout.code_bytes);
    band.scale = arena.take(layout.scale_bytes);
    if (layout.min_bytes > 0) band.min = arena.take(layout.min_bytes);
  }
  copy_map(view.map.source, view.cols, arena, owner);
  copy_map(view.map.factor, view.cols, arena, owner);
  copy_map(view.map.mask, mask_bytes(view.cols), arena, owner);
}

}  // namespace

std::vector<GgufTensorDecl> declare_parts(std::string_view name, const MatrixView& layout) {
  std::vector<GgufTensorDecl> decls;
  for (std::size_t k = 0; k < layout.all_bands().size(); ++k) {
    const Band& band = layout.bands[k];
    const std::string stem = fmt::format("{}.band{}.", name, k);
    if (!is_packed(band.format)) {
      decls.push_back({stem + "codes", {layout.rows, band.cols()}, float_dtype(band.format)});
      continue;
    }
    const PackedLayout sizes = layout_of(band, layout.rows);
    const std::int64_t panel_scale_bytes = sizes.scale_bytes / sizes.panels;
    decls.push_back({stem + "codes", {sizes.panels, sizes.panel_code_bytes}, DType::i8});
    decls.push_back({stem + "scale", {sizes.panels, panel_scale_bytes}, DType::i8});
    if (sizes.min_bytes > 0) {
      decls.push_back({stem + "min", {sizes.panels, sizes.panel_min_bytes}, DType::i8});
    }
  }
  if (layout.map.mask != nullptr) {
    decls.push_back({fmt::format("{}.mask", name), {mask_bytes(layout.cols)}, DType::i8});
  } else if (layout.map.source != nullptr) {
    decls.push_back({fmt::format("{}.map", name), {layout.cols}, DType::i32});
  }
  if (layout.map.factor != nullptr) {
    decls.push_back({fmt::format("{}.factor", name), {layout.cols}, DType::f32});
  }
  return decls;
}

std::vector<std::span<const std::byte>> parts(const MatrixView& view) {
  std::vector<std::span<const std::byte>> list;
  const auto add = [&](const void* data, std::int64_t bytes) {
    list.emplace_back(static_cast<const std::byte*>(data), static_cast<std::size_t>(bytes));
  };
  for (const Band& band : view.all_bands()) {
    const FormatTraits traits = format_traits(band.format);
    if (!traits.packed) {
      add(band.codes, view.rows * band.cols() * traits.bits / 8);
      continue;
    }
    const PackedLayout sizes = layout_of(band, view.rows);
    add(band.codes, sizes.code_bytes);
    add(band.scale, sizes.scale_bytes);
    if (sizes.min_bytes > 0) add(band.min, sizes.min_bytes);
  }
  if (view.map.mask != nullptr) {
    add(view.map.mask, mask_bytes(view.cols));
  } else if (view.map.source != nullptr) {
    add(view.map.source, view.cols * 4);
  }
  if (view.map.factor != nullptr) add(view.map.factor, view.cols * 4);
  return list;
}

std::vector<std::uint32_t> describe_bands(const MatrixView& layout) {
  std::vector<std::uint32_t> numbers = {u32(layout.rows), u32(layout.cols)};
  for (const Band& band : layout.all_bands()) {
    const bool packed = is_packed(band.format);
    numbers.push_back(static_cast<std::uint32_t>(band.format));
    numbers.push_back(packed ? static_cast<std::uint32_t>(band.min_kind) : 0);
    numbers.push_back(packed && !is_row_group(band) ? u32(band.group) : 0);
    numbers.push_back(u32(band.col_begin));
    numbers.push_back(u32(band.col_end));
  }
  return numbers;
}

std::uint32_t format_version(const MatrixView& layout) {
  return layout.map.mask != nullptr ? 2 : 1;
}

std::vector<std::byte> column_mask(const MatrixView& layout) {
  if (layout.n_bands != 2 || layout.map.source == nullptr) return {};
  std::vector<std::byte> mask(static_cast<std::size_t>(mask_bytes(layout.cols)));
  for (const Band& band : layout.all_bands()) {
    for (std::int64_t c = band.col_begin; c < band.col_end; ++c) {
      const auto column = static_cast<std::size_t>(layout.map.source[c]);
      if (c > band.col_begin && layout.map.source[c] <= layout.map.source[c - 1]) return {};
      if (band.col_begin > 0) mask[column / 8] |= std::byte{1} << (column % 8);
    }
  }
  return mask;
}

bool follow_mask(const MatrixView& layout, std::int32_t* source) noexcept {
  std::array<std::int64_t, 2> next = {0, layout.bands[0].col_end};
  const std::array<std::int64_t, 2> end = {layout.bands[0].col_end, layout.cols};
  for (std::int64_t c = 0; c < layout.cols; ++c) {
    const bool second = (layout.map.mask[c / 8] >> (c % 8) & std::byte{1}) != std::byte{0};
    if (next.at(second) == end.at(second)) return false;
    source[next.at(second)++] = static_cast<std::int32_t>(c);
  }
  return true;
}

QuantizedMatrix allocate_matrix(const MatrixView& layout) {
  QuantizedMatrix matrix;
  matrix.view = layout;
  Arena measured(nullptr);
  place(matrix.view, measured, matrix);
  matrix.storage = Buffer(measured.used());
  matrix.view = layout;
  Arena arena(matrix.storage.data());
  place(matrix.view, arena, matrix);
  return matrix;
}

std::string layout_text(const MatrixView& layout) {
  std::string text;
  for (const Band& band : layout.all_bands()) {
    const FormatTraits traits = format_traits(band.format);
    text += (text.empty() ? "" : " + ") + std::string(traits.name);
    if (!traits.packed) continue;
    text += is_row_group(band) ? " row " : fmt::format(" g{} ", band.group);
    text += *min_kind_name(static_cast<std::uint32_t>(band.min_kind));
  }
  return text;
}

bool same_layout(const MatrixView& a, const MatrixView& b) noexcept {
  if (a.rows != b.rows || a.cols != b.cols || a.n_bands != b.n_bands) return false;
  for (std::size_t k = 0; k < a.all_bands().size(); ++k) {
    const Band& x = a.bands[k];
    const Band& y = b.bands[k];
    if (x.format != y.format || x.col_begin != y.col_begin || x.col_end != y.col_end) return false;
    if (!is_packed(x.format)) continue;
    if (x.min_kind != y.min_kind || x.group != y.group) return false;
  }
  return (a.map.source == nullptr) == (b.map.source == nullptr) &&
         (a.map.mask == nullptr) == (b.map.mask == nullptr) &&
         (a.map.factor == nullptr) == (b.map.factor == nullptr);
}

}  // namespace tenfold
