#include "models/block_import.h"

#include <algorithm>
#include <cstring>

#include "kernels/formats/codec.h"
#include "kernels/formats/plane.h"
#include "runtime/files/packed_matrix.h"

namespace tenfold {
namespace {

constexpr std::int64_t kBlock = 32;  // elements of a block, of a group and of kBlockCols columns
static_assert(kBlock == kBlockCols);

struct Exact {
  DType dtype;
  Format format;
  MinKind min_kind;
  std::uint8_t zero;
  std::size_t codes_at;  // bytes before the codes: scale and, in Q4_1, minimum
};
constexpr Exact kExact[] = {{DType::q4_0, Format::q4, MinKind::zero, 8, 2},
                            {DType::q4_1, Format::q4, MinKind::f16, 0, 4},
                            {DType::q8_0, Format::q8, MinKind::zero, 128, 2}};

const Exact* find_exact(DType dtype) {
  for (const Exact& exact : kExact) {
    if (exact.dtype == dtype) return &exact;
  }
  return nullptr;
}

void unpack_codes(const Exact& exact, const std::byte* block, std::uint8_t* codes) {
  const std::byte* from = block + exact.codes_at;
  if (exact.format == Format::q4) {
    for (int j = 0; j < 16; ++j) {
      codes[j] = static_cast<std::uint8_t>(from[j] & std::byte{15});
      codes[j + 16] = static_cast<std::uint8_t>(from[j] >> 4);
    }
  } else {  // signed bytes: 128 is added
    for (int j = 0; j < kBlock; ++j) {
      codes[j] = static_cast<std::uint8_t>(from[j] ^ std::byte{128});
    }
  }
}

}  // namespace

std::optional<MatrixView> exact_layout(const TensorSource& tensor) {
  const Exact* exact = find_exact(tensor.dtype);
  if (exact == nullptr || tensor.shape.size() != 2) return std::nullopt;
  MatrixView layout;
  layout.rows = tensor.shape[0];
  layout.cols = tensor.shape[1];
  layout.n_bands = 1;
  layout.bands[0].format = exact->format;
  layout.bands[0].min_kind = exact->min_kind;
  layout.bands[0].group = kBlock;
  layout.bands[0].col_end = layout.cols;
  return layout;
}

void import_panel(const TensorSource& tensor, std::int64_t panel,
                  const QuantizedMatrix& into) noexcept {
  const Exact& exact = *find_exact(tensor.dtype);
  const Band& band = into.view.bands[0];
  const std::int64_t n_groups = into.view.cols / kBlock;
  const std::int64_t first_row = panel * kPanelRows;
  const int n_rows =
      static_cast<int>(std::min<std::int64_t>(kPanelRows, into.view.rows - first_row));
  const std::size_t block_bytes = dtype_traits(tensor.dtype).bytes;
  const int bits = format_traits(exact.format).bits;
  std::uint8_t zeros[kPanelRows] = {};
  std::fill(zeros, zeros + n_rows, exact.zero);
  std::uint8_t codes[kPanelRows * kBlock];
  for (std::int64_t g = 0; g < n_groups; ++g) {
    const std::int64_t at = panel * n_groups + g;  // group of the matrix
    std::byte* scale = writable(into, band.scale) + at * kPanelRows * 2;
    std::byte* min = writable(into, band.min);
    for (int r = 0; r < n_rows; ++r) {
      const std::byte* block =
          tensor.data.data() +
          static_cast<std::size_t>((first_row + r) * n_groups + g) * block_bytes;
      std::memcpy(scale + std::ptrdiff_t{r} * 2, block, 2);
      if (exact.min_kind == MinKind::f16) {
        std::memcpy(min + (at * kPanelRows + r) * 2, block + 2, 2);
      }
      unpack_codes(exact, block, codes + std::ptrdiff_t{r} * kBlock);
    }
    if (exact.min_kind == MinKind::zero) pack_zeros(exact.format, zeros, min + at * 2 * bits);
    pack_panel(exact.format, codes, n_rows, kBlock,
               writable(into, band.codes) + at * bits * kLineBytes);
  }
}

QuantizedMatrix import_blocks(const TensorSource& tensor, const MatrixView& layout,
                              ThreadPool& pool) {
  QuantizedMatrix matrix = allocate_matrix(layout);
  const std::int64_t panels = (layout.rows + kPanelRows - 1) / kPanelRows;
  pool.run(static_cast<int>(panels), [&](int panel, int) { import_panel(tensor, panel, matrix); });
  return matrix;
}

}  // namespace tenfold
