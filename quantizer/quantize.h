#pragma once
// Makes a quantized model file: plans every tensor, then realizes and writes them one by one.
// Memory stays below the largest tensor in packed form and a few MiB; calibration takes more
// (calibrated.h). The same source and recipe
// give the same bytes.

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "kernels/device.h"
#include "quantizer/calibrated.h"
#include "quantizer/plan.h"
#include "quantizer/search/search.h"
#include "runtime/model_source.h"

namespace tenfold {

struct QuantizeOptions {
  Recipe recipe;
  int threads = 0;  // 0: default_thread_count()
  // Of the calibration's forward passes and of trials. They depend on device and instruction set,
  // slightly: a run is resumed on the same ones. "": the best of this machine.
  std::string device = "cpu", isa;
  bool overwrite = false;
  bool dry_run = false;                   // plan and measure, write nothing
  std::size_t spill_above = kSpillAbove;  // bytes of activations that go to a file
  bool resume = false;  // go on with the finished layers of an interrupted calibrated run
  std::int64_t checkpoint_every = 100;  // steps of a search after which it is saved
  std::string allocation;  // JSON for the file, where the recipe's budget was divided already
  // Called while a budget's sensitivities are measured; false interrupts that.
  std::function<bool(std::uint64_t done, std::uint64_t total)> on_allocation;
  // Called after each step of a search; false interrupts it.
  std::function<bool(const SearchStep&, const SearchCounts&)> on_search_step;
};

// Of the forward passes; on so many threads where the CPU runs them.
DeviceOptions device_options(const QuantizeOptions& options, int threads);
// "avx2", "cuda": runs with the same agree to the bit.
std::string arithmetic(const QuantizeOptions& options);

struct QuantizedSize {
  std::int64_t elements = 0;
  std::uint64_t bytes = 0;  // scales, minima and maps included
  double bits_per_weight() const;
};

struct QuantizeResult {
  std::int64_t tensors = 0;
  QuantizedSize all, quantized;       // all tensors; the quantized matrices alone
  std::int64_t clipped = 0;           // values beyond F16's range among those stored as F16
  std::string losses;                 // of calibrated runs: JSON, an array of layers (losses.h)
  std::vector<LayerFactors> factors;  // likewise, of each layer
  bool split_head = false;            // embedding and head were one matrix and are now two
  std::optional<SearchCounts> search;
  std::vector<Rule> rules;  // of the recipe, where a budget was divided
  std::string allocation;   // likewise: JSON, what was predicted and measured
};

// progress(done, total) in weights; false cancels. Nothing is left behind, except that a run with
// calibration keeps its finished layers in OUT.gguf.work for `resume`, which ends in the same
// bytes.
QuantizeResult quantize(const std::shared_ptr<const ModelSource>& source,
                        const std::filesystem::path& output, const QuantizeOptions& options,
                        const std::function<bool(std::uint64_t, std::uint64_t)>& progress);

// The file such a run would write, but for what it says of its losses, and of that the packed
// matrices of the layers.
struct PlannedSize {
  std::uint64_t file = 0, layers = 0;
};
PlannedSize planned_size(const std::shared_ptr<const ModelSource>& source,
                         const QuantizeOptions& options);

}  // namespace tenfold
