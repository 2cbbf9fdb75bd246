#pragma once
// The device's copies of weights, made when they are first met and kept until they are forgotten.
// Where memory runs out those that the operation at hand does not use make room, for other copies
// or whatever else needs it.

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <vector>

#include "kernels/buffer.h"
#include "kernels/cuda/activations.h"
#include "kernels/cuda/ops.h"
#include "kernels/matrix.h"

namespace tenfold::cuda {

// A matrix on the device.
struct DeviceMatrix {
  std::int64_t rows = 0, cols = 0;
  DeviceTable table;                            // all bands; packed ones reordered
  std::array<std::int64_t, kMaxBands> begin{};  // their first columns
  // Those that are packed, and how each cuts the activations.
  int n_packed = 0;
  std::array<DeviceBand, kMaxBands> packed{};
  std::array<ActivationBand, kMaxBands> cuts{};
  InputMap map;  // without its mask
};

class Resident {
 public:
  // Copies made by now: device addresses are those of before where it is the same.
  std::uint64_t version() const noexcept { return version_; }
  // The following is a new operation, which uses nothing of earlier ones.
  void next_operation() noexcept { ++operation_; }

  // Valid until the matrix is forgotten or, from the next operation on, makes room.
  const DeviceMatrix& matrix(const MatrixView& view);
  // n values; null for null.
  const float* values(const float* host, std::int64_t n);

  void forget(const MatrixView& view);
  void forget(const float* values);
  void forget_all();

  // Of any use. Where memory is short all weights that the operation does not use give way.
  Buffer allocate(std::size_t bytes);

 private:
  struct Entry {
    DeviceMatrix matrix;
    const void* values = nullptr;
    std::size_t bytes = 0;  // of values
    std::vector<Buffer> memory;
    std::uint64_t used = 0;  // in which operation, last
  };
  std::byte* keep(Entry& entry, std::size_t bytes);
  void* upload(Entry& entry, const void* host, std::size_t bytes);
  void finish_uploads();
  void make_room();
  DeviceBand upload_band(Entry& entry, const Band& band, std::int64_t rows);
  DeviceBand upload_packed(Entry& entry, const Band& band, std::int64_t rows);

  std::map<const void*, Entry> entries_;  // by where the host has them: the first band's codes
  Scratch raw_;  // packed weights as files have them, some panels at a time
  std::uint64_t version_ = 0, operation_ = 0;
};

}  // namespace tenfold::cuda
