#include "kernels/matrix.h"

namespace tenfold {
namespace {

std::int64_t band_bytes(const Band& band, std::int64_t rows) {
  const FormatTraits traits = format_traits(band.format);
  if (!traits.packed) return rows * band.cols() * traits.bits / 8;
  const PackedLayout layout =
      packed_layout(band.format, band.min_kind, rows, band.cols(), band.group);
  return layout.code_bytes + layout.scale_bytes + layout.min_bytes;
}

}  // namespace

std::size_t MatrixView::bytes() const noexcept {
  std::int64_t total = 0;
  for (const Band& band : all_bands()) total += band_bytes(band, rows);
  if (map.mask != nullptr) {
    total += mask_bytes(cols);
  } else if (map.source != nullptr) {
    total += cols * 4;
  }
  if (map.factor != nullptr) total += cols * 4;
  return static_cast<std::size_t>(total);
}

MatrixView float_matrix(const void* data, Format format, std::int64_t rows, std::int64_t cols) {
  MatrixView view;
  view.rows = rows;
  view.cols = cols;
  view.n_bands = 1;
  view.bands[0].format = format;
  view.bands[0].col_end = cols;
  view.bands[0].codes = static_cast<const std::byte*>(data);
  return view;
}

}  // namespace tenfold
