// Checks everything that a file says about its quantized matrices before any of it is used.

#include <algorithm>
#include <array>
#include <string>

#include "kernels/checked.h"
#include "kernels/error.h"
#include "runtime/files/packed_matrix.h"
#include "runtime/files/quote.h"

namespace tenfold {
namespace {

constexpr std::size_t kNumbersOfMatrix = 2;  // rows, cols
constexpr std::size_t kNumbersOfBand = 5;    // format, min kind, group, first column, end
constexpr std::uint32_t kEdgeCols = 16;      // interior band edges are multiples of this

bool name_less(const TensorSource* a, const TensorSource* b) { return a->name < b->name; }

class Reader {
 public:
  Reader(const GgufMetadata& metadata, const std::vector<TensorSource>& tensors)
      : path_(metadata.path) {
    for (const TensorSource& tensor : tensors) by_name_.push_back(&tensor);
    std::sort(by_name_.begin(), by_name_.end(), name_less);
  }

  StoredMatrix read(const std::string& key, const GgufValue& value) {
    StoredMatrix matrix;
    matrix.name = key.substr(kBandsPrefix.size());
    if (find(matrix.name) != nullptr) {
      throw_file_error(path_, "tensor {} is there both plain and as bands", quote(matrix.name));
    }
    const auto* numbers = std::get_if<std::vector<std::uint32_t>>(&value);
    if (numbers == nullptr) {
      throw_file_error(path_, "key {} has another type than an array of uint32", quote(key));
    }
    read_description(key, *numbers, matrix.view);
    map_bands(matrix);
    map_inputs(matrix);
    return matrix;
  }

 private:
  template <typename... Args>
  [[noreturn]] void fail(const std::string& key, fmt::format_string<Args...> format,
                         Args&&... args) const {
    throw_file_error(path_, "key {}: {}", quote(key),
                     fmt::format(format, std::forward<Args>(args)...));
  }

  void read_description(const std::string& key, const std::vector<std::uint32_t>& numbers,
                        MatrixView& view) const {
    constexpr std::size_t kMost = kNumbersOfMatrix + kMaxBands * kNumbersOfBand;
    if (numbers.size() < kNumbersOfMatrix + kNumbersOfBand || numbers.size() > kMost ||
        (numbers.size() - kNumbersOfMatrix) % kNumbersOfBand != 0) {
      fail(key, "{} numbers, expected {} and {} for each of 1 to {} bands", numbers.size(),
           kNumbersOfMatrix, kNumbersOfBand, kMaxBands);
    }
    for (const std::uint32_t extent : {numbers[0], numbers[1]}) {
      if (extent < 1 || extent > kMaxMatrixExtent) {
        fail(key, "shape [{}, {}], expected extents from 1 to {}", numbers[0], numbers[1],
             kMaxMatrixExtent);
      }
    }
    view.rows = numbers[0];
    view.cols = numbers[1];
    view.n_bands = static_cast<int>((numbers.size() - kNumbersOfMatrix) / kNumbersOfBand);
    std::uint32_t begin = 0;
    for (int k = 0; k < view.n_bands; ++k) {
      const std::size_t at = kNumbersOfMatrix + static_cast<std::size_t>(k) * kNumbersOfBand;
      const std::uint32_t* band = numbers.data() + at;
      check_edges(key, k, band, begin, numbers[1], k + 1 == view.n_bands);
      view.bands[static_cast<std::size_t>(k)] = read_band(key, k, band);
      begin = band[4];
    }
  }

  void check_edges(const std::string& key, int k, const std::uint32_t* band, std::uint32_t begin,
                   std::uint32_t cols, bool last) const {
    const std::uint32_t end = band[4];
    const bool good = last ? end == cols : end < cols && end % kEdgeCols == 0;
    if (band[3] == begin && end > begin && good) return;
    fail(key, "band {} has the columns {} to {}, expected a start at {} and an end {}", k, band[3],
         end, begin,
         last ? fmt::format("at {}", cols)
              : fmt::format("before {} at a multiple of {}", cols, kEdgeCols));
  }

  Band read_band(const std::string& key, int k, const std::uint32_t* numbers) const {
    const auto traits = format_traits(numbers[0]);
    if (!traits) fail(key, "band {} has the format {}, which is not known", k, numbers[0]);
    const std::uint32_t group = numbers[2];
    Band band;
    band.format = static_cast<Format>(numbers[0]);
    band.col_begin = numbers[3];
    band.col_end = numbers[4];
    if (!traits->packed) {
      if (numbers[1] != 0 || group != 0) {
        fail(key, "band {} of {} has the min kind {} and group {}, expected 0 and 0", k,
             traits->name, numbers[1], group);
      }
      return band;
    }
    if (!min_kind_name(numbers[1])) {
      fail(key, "band {} has the min kind {}, which is not known", k, numbers[1]);
    }
    if (group != 0 && group != 32 && group != 64 && group != 128) {
      fail(key, "band {} has groups of {} columns, expected 32, 64, 128 or 0 for the whole row", k,
           group);
    }
    band.min_kind = static_cast<MinKind>(numbers[1]);
    band.group = group == 0 ? band.cols() : group;
    return band;
  }

  // The bytes of a part, which has the type and size that the description implies.
  std::span<const std::byte> part(const std::string& name, DType dtype, std::int64_t bytes) const {
    const TensorSource* tensor = find(name);
    if (tensor == nullptr) throw_file_error(path_, "tensor {} is missing", quote(name));
    if (tensor->dtype != dtype) {
      throw_file_error(path_, "tensor {} has type {}, expected {}", quote(name),
                       dtype_traits(tensor->dtype).name, dtype_traits(dtype).name);
    }
    if (tensor->data.size() != static_cast<std::uint64_t>(bytes)) {
      throw_file_error(path_, "tensor {}: {} bytes, expected {} for its bands", quote(name),
                       tensor->data.size(), bytes);
    }
    if (reinterpret_cast<std::uintptr_t>(tensor->data.data()) % kPartAlignment != 0) {
      throw_file_error(path_, "tensor {} is not aligned to {} bytes", quote(name), kPartAlignment);
    }
    return tensor->data;
  }

  void map_bands(StoredMatrix& matrix) const {
    const std::vector<GgufTensorDecl> decls = declare_parts(matrix.name, matrix.view);
    auto next = decls.begin();
    const auto take = [&] {
      const GgufTensorDecl& decl = *next++;
      // At most 2^24 rows by 2^24 columns of 4 bytes: within 63 bits.
      const auto bytes = *checked_product(decl.shape) * dtype_traits(decl.dtype).bytes;
      return part(decl.name, decl.dtype, static_cast<std::int64_t>(bytes)).data();
    };
    for (int k = 0; k < matrix.view.n_bands; ++k) {
      Band& band = matrix.view.bands[static_cast<std::size_t>(k)];
      band.codes = take();
      if (!is_packed(band.format)) continue;
      band.scale = take();
      if (band.min_kind != MinKind::midrise) band.min = take();
    }
  }

  void map_inputs(StoredMatrix& matrix) const {
    MatrixView& view = matrix.view;
    if (find(matrix.name + ".mask") != nullptr) {
      read_mask(matrix);
    } else if (find(matrix.name + ".map") != nullptr) {
      const auto bytes = part(matrix.name + ".map", DType::i32, view.cols * 4);
      view.map.source = reinterpret_cast<const std::int32_t*>(bytes.data());
      for (std::int64_t c = 0; c < view.cols; ++c) {
        if (view.map.source[c] >= 0 && view.map.source[c] < view.cols) continue;
        throw_file_error(path_, "tensor {}: entry {} is {}, expected 0 to {}",
                         quote(matrix.name + ".map"), c, view.map.source[c], view.cols - 1);
      }
    }
    if (find(matrix.name + ".factor") != nullptr) {
      const auto bytes = part(matrix.name + ".factor", DType::f32, view.cols * 4);
      view.map.factor = reinterpret_cast<const float*>(bytes.data());
    }
  }

  void read_mask(StoredMatrix& matrix) const {
    MatrixView& view = matrix.view;
    const std::string name = matrix.name + ".mask";
    if (find(matrix.name + ".map") != nullptr) {
      throw_file_error(path_, "matrix {} has both a map and a mask", quote(matrix.name));
    }
    if (view.n_bands != 2) {
      throw_file_error(path_, "tensor {}: its matrix has {} bands, expected 2", quote(name),
                       view.n_bands);
    }
    view.map.mask = part(name, DType::i8, mask_bytes(view.cols)).data();
    matrix.columns = Buffer(static_cast<std::size_t>(view.cols) * sizeof(std::int32_t));
    auto* source = matrix.columns.as<std::int32_t>();
    if (!follow_mask(view, source)) {
      throw_file_error(path_, "tensor {}: does not mark {} columns for the first band", quote(name),
                       view.bands[0].col_end);
    }
    view.map.source = source;
  }

  const TensorSource* find(std::string_view name) const noexcept {
    const auto found = std::lower_bound(
        by_name_.begin(), by_name_.end(), name,
        [](const TensorSource* tensor, std::string_view wanted) { return tensor->name < wanted; });
    return found == by_name_.end() || (*found)->name != name ? nullptr : *found;
  }

  const std::string& path_;
  std::vector<const TensorSource*> by_name_;
};

void check_version(const GgufMetadata& metadata, bool required) {
  const auto version = metadata.get_int(kFormatVersionKey);
  if (!version && !required) return;
  if (!version || *version < 1) {
    throw_file_error(metadata.path, "the key {} is {}, expected 1 to {}", kFormatVersionKey,
                     version ? fmt::format("{}", *version) : "missing", kFormatVersion);
  }
  if (*version > kFormatVersion) {
    throw_error(ErrorCode::unsupported,
                "{}: {} is {}, but this Tenfold reads {}; a newer version wrote the file",
                metadata.path, kFormatVersionKey, *version, kFormatVersion);
  }
}

}  // namespace

std::vector<StoredMatrix> read_packed_matrices(const GgufMetadata& metadata,
                                               const std::vector<TensorSource>& tensors) {
  const auto describes = [](const auto& entry) {
    return entry.first.compare(0, kBandsPrefix.size(), kBandsPrefix) == 0;
  };
  const bool any = std::any_of(metadata.entries.begin(), metadata.entries.end(), describes);
  check_version(metadata, any);
  std::vector<StoredMatrix> matrices;
  if (!any) return matrices;
  Reader reader(metadata, tensors);
  for (const auto& entry : metadata.entries) {
    if (describes(entry)) matrices.push_back(reader.read(entry.first, entry.second));
  }
  std::sort(matrices.begin(), matrices.end(),
            [](const StoredMatrix& a, const StoredMatrix& b) { return a.name < b.name; });
  return matrices;
}

}  // namespace tenfold
