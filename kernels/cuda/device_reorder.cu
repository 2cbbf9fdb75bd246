#include <algorithm>

#include "kernels/cuda/device_layout.h"
#include "kernels/cuda/device_reorder.h"
#include "kernels/cuda/device_sizes.h"
#include "kernels/cuda/unroll.cuh"
#include "kernels/formats/all.h"

namespace tenfold::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kPairs = kPanelRows / 2;  // of rows: lane groups
constexpr std::size_t kScratch = std::size_t{16} << 20;

// Some panels of a band, as the file has them and as they are to be.
struct Panels {
  const std::byte* codes = nullptr;
  const std::byte* scale = nullptr;
  const std::byte* min = nullptr;
  std::byte* segments = nullptr;
  std::byte* row_factors = nullptr;  // or null
  std::int64_t count = 0, rows = 0;
  int lines = 0, cols = 0, groups = 0, n_segments = 0;
  int segment_bytes = 0, block = 0;
  MinKind min_kind = MinKind::zero;
};

// Rows 2 pair and 2 pair + 1 of a panel, and what of them there is.
struct RowPair {
  std::int64_t panel;
  int pair, rows;
};
__device__ __forceinline__ RowPair row_pair(const Panels& a, std::int64_t panel, int pair) {
  const std::int64_t left = a.rows - panel * kPanelRows - 2 * pair;
  return {panel, pair, static_cast<int>(left < 0 ? 0 : left < 2 ? left : 2)};
}

// Dword i, in the order [128 columns][plane][dword], of a lane's codes of both rows
// (device_layout.h). In the file as here, byte b of a dword has columns 4n + b: whole dwords are
// masked and shifted.
template <typename F, int i>
__device__ __forceinline__ uint2 gather_codes(const Panels& a, const RowPair& rows, int segment,
                                              int quarter) {
  constexpr int half = i / F::bits, dword = i % F::bits;
  constexpr int p = F::n_planes > 1 && dword >= F::planes[0].bits ? 1 : 0;
  constexpr int before = p == 0 ? 0 : F::planes[0].bits;
  constexpr int bits = F::planes[p].bits, fields = 8 / bits;
  uint2 made{0, 0};
  unroll<fields>([&](auto field) {
    constexpr int f = decltype(field)::value;
    constexpr int quad = 8 * half + quad_place((dword - before) * fields + f);
    const int left = a.cols - (segment * kSegmentCols + 16 * quad + 4 * quarter);
    if (left <= 0) return;
    const int eighth = quad % 2 * 4 + quarter;  // of a block
    const int block = segment * (kSegmentCols / kBlockCols) + quad / 2;
    const int line = block * F::bits + before + eighth * bits / 8;
    const uint2 from =
        reinterpret_cast<const uint2*>(a.codes)[(rows.panel * a.lines + line) * kPairs + rows.pair];
    const int shift = eighth % fields * bits;
    const unsigned columns = left >= 4 ? ~0u : (1u << 8 * left) - 1;
    const unsigned mask = ((1u << bits) - 1) * 0x01010101u & columns;
    made.x |= (from.x >> shift & mask) << f * bits;
    made.y |= (from.y >> shift & mask) << f * bits;
  });
  return {rows.rows > 0 ? made.x : 0, rows.rows > 1 ? made.y : 0};
}

template <typename F>
__device__ __forceinline__ void put_codes(const Panels& a, std::int64_t panel, int segment,
                                          int lane, std::byte* to) {
  static_assert(F::n_planes <= 2);
  const RowPair rows = row_pair(a, panel, lane / 4);
  unroll<F::bits>([&](auto sixteen_bytes) {
    constexpr int i = decltype(sixteen_bytes)::value;
    const uint2 first = gather_codes<F, 2 * i>(a, rows, segment, lane % 4);
    const uint2 second = gather_codes<F, 2 * i + 1>(a, rows, segment, lane % 4);
    reinterpret_cast<uint4*>(to)[32 * i + lane] = {first.x, first.y, second.x, second.y};
  });
}

// Both rows' f16 of a group.
__device__ __forceinline__ unsigned two_halves(const Panels& a, const std::byte* from,
                                               const RowPair& rows, int group) {
  if (group >= a.groups || rows.rows == 0) return 0;
  const std::int64_t at = (rows.panel * a.groups + group) * kPairs + rows.pair;
  const unsigned both = reinterpret_cast<const unsigned*>(from)[at];
  return rows.rows == 2 ? both : both & 0xffffu;
}

// Both rows' zero points of a group: formats/codec.h.
template <typename F>
__device__ __forceinline__ unsigned two_zeros(const Panels& a, const RowPair& rows, int group) {
  if (group >= a.groups) return 0;
  const std::byte* from = a.min + (rows.panel * a.groups + group) * 2 * F::bits;
  unsigned zeros = 0;
  for (int r = 0; r < rows.rows; ++r) {
    unroll<F::n_planes>([&](auto plane) {
      constexpr int p = decltype(plane)::value;
      constexpr int bits = F::planes[p].bits, before = p == 0 ? 0 : F::planes[0].bits;
      const int bit = (2 * rows.pair + r) * bits;
      const auto byte = static_cast<unsigned>(from[2 * before + bit / 8]);
      zeros |= (byte >> bit % 8 & ((1u << bits) - 1)) << (8 * r + F::planes[p].shift);
    });
  }
  return zeros;
}

// Factors of a segment, or of whole rows: a dword is two scales, two minima or four zero points.
template <typename F>
__device__ __forceinline__ void put_factors(const Panels& a, std::int64_t panel, int segment,
                                            int lane, std::byte* to) {
  const int scales = kSegmentCols / a.block;
  const int dwords = factor_bytes(a.block, static_cast<int>(a.min_kind)) / (4 * kPairs);
  const bool whole_row = a.row_factors != nullptr;
  for (int i = lane; i < kPairs * dwords; i += 32) {
    const RowPair rows = row_pair(a, panel, i / dwords);
    const int at = i % dwords;
    const auto group = [&](int of_segment) {
      return whole_row ? 0 : segment * scales + of_segment;
    };
    unsigned made = 0;
    if (at < scales) {
      made = two_halves(a, a.scale, rows, group(at));
    } else if (a.min_kind == MinKind::f16) {
      made = two_halves(a, a.min, rows, group(at - scales));
    } else {
      const int first = 2 * (at - scales);
      made = two_zeros<F>(a, rows, group(first)) | two_zeros<F>(a, rows, group(first + 1)) << 16;
    }
    reinterpret_cast<unsigned*>(to)[i] = made;
  }
}

// A warp for each segment.
template <typename F>
__global__ void __launch_bounds__(kThreads) reorder(Panels a) {
  const std::int64_t at = std::int64_t{blockIdx.x} * kWarps + threadIdx.x / 32;
  const std::int64_t panel = at / a.n_segments;
  if (panel >= a.count) return;
  const auto segment = static_cast<int>(at % a.n_segments);
  const auto lane = static_cast<int>(threadIdx.x % 32);
  std::byte* to = a.segments + at * a.segment_bytes;
  put_codes<F>(a, panel, segment, lane, to);
  if (a.row_factors == nullptr) {
    put_factors<F>(a, panel, segment, lane, to + F::bits * 512);
  } else if (segment == 0) {
    const int bytes = factor_bytes(a.block, static_cast<int>(a.min_kind));
    put_factors<F>(a, panel, segment, lane, a.row_factors + panel * bytes);
  }
}

cudaError_t launch_reorder(Format format, const Panels& panels, cudaStream_t stream) {
  const std::int64_t blocks = (panels.count * panels.n_segments + kWarps - 1) / kWarps;
  switch (format) {
#define FLOAT_FORMAT(id, name, bits) case Format::name:
#include "kernels/formats/formats.def"
    return cudaErrorInvalidValue;
#define PACKED_FORMAT(id, name, Type)                                              \
  case Format::name:                                                               \
    reorder<Type><<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(panels); \
    break;
#include "kernels/formats/formats.def"
  }
  return cudaGetLastError();
}

// What one panel takes in the file.
struct PanelBytes {
  std::size_t codes, scale, min;
  explicit PanelBytes(const PackedLayout& layout)
      : codes(static_cast<std::size_t>(layout.panel_code_bytes)),
        scale(static_cast<std::size_t>(layout.groups) * kPanelRows * 2),
        min(static_cast<std::size_t>(layout.panel_min_bytes)) {}
  std::size_t all() const { return codes + scale + min; }
};

PackedLayout layout_of(const Band& band, std::int64_t rows) {
  return packed_layout(band.format, band.min_kind, rows, band.cols(), band.group);
}

// Copies panels from `first` on one array after another: panels of codes and scales are of whole 16
// bytes.
cudaError_t copy_panels(const Band& band, const PanelBytes& bytes, std::int64_t first,
                        std::byte* scratch, cudaStream_t stream, Panels& panels) {
  const struct {
    const std::byte* from;
    std::size_t bytes;
    const std::byte*& to;
  } arrays[] = {{band.codes, bytes.codes, panels.codes},
                {band.scale, bytes.scale, panels.scale},
                {band.min, bytes.min, panels.min}};
  for (const auto& array : arrays) {
    if (array.bytes == 0) continue;  // midrise
    const std::size_t size = static_cast<std::size_t>(panels.count) * array.bytes;
    const std::byte* from = array.from + static_cast<std::size_t>(first) * array.bytes;
    const cudaError_t error = cudaMemcpyAsync(scratch, from, size, cudaMemcpyHostToDevice, stream);
    if (error != cudaSuccess) return error;
    array.to = scratch;
    scratch += size;
  }
  return cudaSuccess;
}

Panels panels_of(const Band& band, const PackedLayout& layout, const DeviceSizes& sizes) {
  Panels panels;
  panels.lines = static_cast<int>(layout.panel_code_bytes / kLineBytes);
  panels.cols = static_cast<int>(band.cols());
  panels.groups = static_cast<int>(layout.groups);
  panels.n_segments = segments_of(panels.cols);
  panels.segment_bytes = sizes.segment_bytes;
  panels.block = sizes.block;
  panels.min_kind = band.min_kind;
  return panels;
}

}  // namespace

std::size_t least_reorder_scratch(const Band& band) {
  return PanelBytes(layout_of(band, kPanelRows)).all();
}

std::size_t reorder_scratch(const Band& band, std::int64_t rows) {
  const PackedLayout layout = layout_of(band, rows);
  const std::size_t panel = PanelBytes(layout).all();
  return std::min(static_cast<std::size_t>(layout.panels) * panel, std::max(panel, kScratch));
}

cudaError_t upload_reordered(const Band& band, std::int64_t rows, std::byte* scratch,
                             std::size_t scratch_bytes, std::byte* segments, std::byte* row_factors,
                             cudaStream_t stream) {
  const PackedLayout layout = layout_of(band, rows);
  const DeviceSizes sizes = device_sizes(band, rows);
  const PanelBytes bytes(layout);
  const auto step = static_cast<std::int64_t>(scratch_bytes / bytes.all());
  if (step == 0) return cudaErrorInvalidValue;
  Panels panels = panels_of(band, layout, sizes);
  const auto count = static_cast<std::size_t>(layout.panels);
  for (std::int64_t first = 0; first < layout.panels; first += step) {
    panels.count = std::min(step, layout.panels - first);
    panels.rows = rows - first * kPanelRows;
    panels.segments = segments + static_cast<std::size_t>(first) * (sizes.segments / count);
    if (row_factors != nullptr) {
      panels.row_factors =
          row_factors + static_cast<std::size_t>(first) * (sizes.row_factors / count);
    }
    cudaError_t error = copy_panels(band, bytes, first, scratch, stream, panels);
    if (error == cudaSuccess) error = launch_reorder(band.format, panels, stream);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

}  // namespace tenfold::cuda
