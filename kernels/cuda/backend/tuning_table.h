#pragma once
// Which launch of the packed kernels is fastest for a shape on a device, as `tenfold bench --tune`
// found it. A text file, a line a shape:
//
//   format min_kind block rows cols tokens = decode_warps tile_tokens panels ways stages

#include <cstdint>
#include <filesystem>
#include <map>
#include <tuple>
#include <utility>

#include "kernels/cuda/packed_linear.h"

namespace tenfold::cuda {

class TuningTable {
 public:
  // Reads the file where there is one; lines that say something else, or what cannot be, are passed
  // over.
  explicit TuningTable(std::filesystem::path file);

  // Of the first band. Null: nothing is known.
  const Tuning* find(std::span<const DeviceProduct> products) const;
  void set(std::span<const DeviceProduct> products, const Tuning& tuning);
  // Until save() nothing is known but what is set; then also what was before and was not set anew.
  void begin() { before_ = std::exchange(best_, {}); }
  // Throws io. Nothing where no file was named.
  void save();

 private:
  // Format, kind of minimum, block, rows, cols, tokens rounded up.
  using Key = std::tuple<int, int, int, int, int, int>;
  static Key key_of(std::span<const DeviceProduct> products);

  std::filesystem::path file_;
  std::map<Key, Tuning> best_, before_;
};

}  // namespace tenfold::cuda
