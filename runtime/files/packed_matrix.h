#pragma once
// Quantized matrices in our container, byte by byte in runtime/FORMAT.md: a matrix <name> is a few
// tensors (<name>.band0.codes, ...) and one key that describes them (tenfold.bands.<name>).
// A MatrixView also serves as a mere layout: then its bands point nowhere.

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/matrix.h"
#include "runtime/files/gguf.h"

namespace tenfold {

inline constexpr std::uint32_t kFormatVersion = 2;  // the highest that is read
inline constexpr std::string_view kFormatVersionKey = "tenfold.format_version";
inline constexpr std::string_view kBandsPrefix = "tenfold.bands.";
inline constexpr std::string_view kRecipeKey = "tenfold.recipe";
inline constexpr std::string_view kLossesKey = "tenfold.losses";  // JSON (quantizer/losses.h)
inline constexpr std::string_view kAllocationKey =
    "tenfold.allocation";                                         // JSON (quantizer/allocate)
inline constexpr std::string_view kSearchKey = "tenfold.search";  // JSON (quantizer/search)
inline constexpr std::string_view kCalibrationHashKey = "tenfold.calibration_hash";
inline constexpr std::int64_t kMaxMatrixExtent = std::int64_t{1} << 24;
inline constexpr std::size_t kPartAlignment = 64;

// What the file holds of a matrix, in file order: for each band codes, scale and min, then mask or
// map and factor, each where the layout has one. `parts` gives the bytes of the same tensors.
std::vector<GgufTensorDecl> declare_parts(std::string_view name, const MatrixView& layout);
std::vector<std::span<const std::byte>> parts(const MatrixView& view);
// The value of its key.
std::vector<std::uint32_t> describe_bands(const MatrixView& layout);
// Of a file that holds the matrix, at least.
std::uint32_t format_version(const MatrixView& layout);

// The mask (kernels/matrix.h) that says the same as the layout's map, a permutation; empty where
// none does.
std::vector<std::byte> column_mask(const MatrixView& layout);
// source: [cols], what the layout's mask says; false where that does not fit its bands.
bool follow_mask(const MatrixView& layout, std::int32_t* source) noexcept;

// A matrix of this layout, its map copied, codes and all numbers zero.
QuantizedMatrix allocate_matrix(const MatrixView& layout);
// Where a pointer into its storage may be written through.
inline std::byte* writable(const QuantizedMatrix& matrix, const std::byte* p) noexcept {
  return matrix.storage.data() + (p - matrix.storage.data());
}

// "q4 g128 zero", "q4 row zero + q1 row f16", "f16".
std::string layout_text(const MatrixView& layout);
// Whether two layouts agree in everything but what the bands and maps point to.
bool same_layout(const MatrixView& a, const MatrixView& b) noexcept;

struct StoredMatrix {
  std::string name;
  MatrixView view;
  Buffer columns;  // int32 [cols] that a mask stands for, else empty
};

// The quantized matrices of a file, sorted by name; views point into its bytes, but for `columns`.
// Everything is checked: what is returned can be computed with. Throws bad_file, or unsupported for
// a file of a newer format version.
std::vector<StoredMatrix> read_packed_matrices(const GgufMetadata& metadata,
                                               const std::vector<TensorSource>& tensors);

}  // namespace tenfold
