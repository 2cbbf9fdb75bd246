#include "kernels/cuda/backend/resident.h"

#include "kernels/cuda/backend/check.h"
#include "kernels/cuda/backend/memory.h"
#include "kernels/cuda/device_reorder.h"
#include "kernels/cuda/device_sizes.h"

namespace tenfold::cuda {
namespace {

bool same_shape(const DeviceMatrix& matrix, const MatrixView& view) {
  return matrix.rows == view.rows && matrix.cols == view.cols &&
         matrix.table.n_bands == view.n_bands;
}

void add_band(DeviceMatrix& matrix, const Band& band, const DeviceBand& on_device) {
  matrix.begin[static_cast<std::size_t>(matrix.table.n_bands)] = band.col_begin;
  matrix.table.bands[matrix.table.n_bands++] = on_device;
  if (!is_packed(band.format)) return;
  const auto i = static_cast<std::size_t>(matrix.n_packed++);
  matrix.packed[i] = on_device;
  matrix.cuts[i] = {static_cast<int>(band.col_begin), on_device.cols, on_device.block};
}

}  // namespace

const DeviceMatrix& Resident::matrix(const MatrixView& view) {
  const void* key = view.bands.front().codes;
  auto found = entries_.find(key);
  if (found != entries_.end() && !same_shape(found->second.matrix, view)) {
    entries_.erase(found);
    found = entries_.end();
  }
  if (found != entries_.end()) {
    found->second.used = operation_;
    return found->second.matrix;
  }
  Entry entry;
  entry.used = operation_;
  entry.matrix.rows = view.rows;
  entry.matrix.cols = view.cols;
  const auto cols = static_cast<std::size_t>(view.cols);
  if (view.map.source != nullptr) {
    entry.matrix.map.source = static_cast<const std::int32_t*>(
        upload(entry, view.map.source, cols * sizeof(std::int32_t)));
  }
  if (view.map.factor != nullptr) {
    entry.matrix.map.factor =
        static_cast<const float*>(upload(entry, view.map.factor, cols * sizeof(float)));
  }
  for (const Band& band : view.all_bands())
    add_band(entry.matrix, band, upload_band(entry, band, view.rows));
  finish_uploads();
  return entries_.emplace(key, std::move(entry)).first->second.matrix;
}

DeviceBand Resident::upload_band(Entry& entry, const Band& band, std::int64_t rows) {
  if (is_packed(band.format)) return upload_packed(entry, band, rows);
  DeviceBand result;
  result.format = band.format;
  result.cols = static_cast<int>(band.cols());
  const std::size_t bytes = static_cast<std::size_t>(rows * band.cols()) *
                            static_cast<std::size_t>(format_traits(band.format).bits / 8);
  result.segments = static_cast<const std::byte*>(upload(entry, band.codes, bytes));
  return result;
}

DeviceBand Resident::upload_packed(Entry& entry, const Band& band, std::int64_t rows) {
  const DeviceSizes sizes = device_sizes(band, rows);
  std::byte* segments = keep(entry, sizes.segments);
  std::byte* row_factors = sizes.row_factors == 0 ? nullptr : keep(entry, sizes.row_factors);
  std::size_t bytes = reorder_scratch(band, rows);
  std::byte* scratch = nullptr;
  try {
    scratch = raw_.get<std::byte>(bytes, device_memory);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::out_of_memory) throw;
    // Slower, but it need not cost another weight its place.
    bytes = least_reorder_scratch(band);
    scratch = raw_.get<std::byte>(bytes, [this](std::size_t n) { return allocate(n); });
  }
  check(upload_reordered(band, rows, scratch, bytes, segments, row_factors, cudaStreamLegacy),
        "copy weights to its memory");
  DeviceBand result;
  result.format = band.format;
  result.min_kind = band.min_kind;
  result.block = sizes.block;
  result.cols = static_cast<int>(band.cols());
  result.segment_bytes = sizes.segment_bytes;
  result.segments = segments;
  result.row_factors = row_factors;
  return result;
}

const float* Resident::values(const float* host, std::int64_t n) {
  if (host == nullptr) return nullptr;
  const std::size_t bytes = static_cast<std::size_t>(n) * sizeof(float);
  auto found = entries_.find(host);
  if (found != entries_.end() && found->second.bytes != bytes) {
    entries_.erase(found);
    found = entries_.end();
  }
  if (found == entries_.end()) {
    Entry entry;
    entry.values = upload(entry, host, bytes);
    entry.bytes = bytes;
    finish_uploads();
    found = entries_.emplace(host, std::move(entry)).first;
  }
  found->second.used = operation_;
  return static_cast<const float*>(found->second.values);
}

std::byte* Resident::keep(Entry& entry, std::size_t bytes) {
  entry.memory.push_back(allocate(bytes));
  return entry.memory.back().data();
}

void* Resident::upload(Entry& entry, const void* host, std::size_t bytes) {
  void* to = keep(entry, bytes);
  check(cudaMemcpy(to, host, bytes, cudaMemcpyHostToDevice), "copy weights to its memory");
  return to;
}

// What other streams launch from now on finds the copies: one from pageable memory may return
// early, and so does one that is reordered.
void Resident::finish_uploads() {
  ++version_;
  check(cudaStreamSynchronize(cudaStreamLegacy), "copy weights to its memory");
}

Buffer Resident::allocate(std::size_t bytes) {
  try {
    return device_memory(bytes);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::out_of_memory) throw;
    make_room();
  }
  return device_memory(bytes);
}

void Resident::make_room() {
  ++version_;
  raw_ = {};
  std::erase_if(entries_, [this](const auto& entry) { return entry.second.used != operation_; });
}

void Resident::forget(const MatrixView& view) {
  if (!view.empty() && entries_.erase(view.bands.front().codes) > 0) ++version_;
}

void Resident::forget(const float* values) {
  if (entries_.erase(values) > 0) ++version_;
}

void Resident::forget_all() {
  if (!entries_.empty()) ++version_;
  entries_.clear();
}

}  // namespace tenfold::cuda
