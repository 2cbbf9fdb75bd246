#pragma once
// One layer of a quantized model whose channels a search moves: what its matrices approximate, and
// its packed bytes, changed in place in the running model.

#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "kernels/thread_pool.h"
#include "models/weights.h"
#include "quantizer/hessian.h"
#include "quantizer/range.h"
#include "quantizer/search/coupling.h"

namespace tenfold {

// How the matrices of the layer are made again.
struct Remaking {
  RangeKind range = RangeKind::mse;
  bool weighted = false;          // ranges: by the mean squares of inputs
  std::optional<double> damping;  // of GPTQ; absent: columns are rounded to the nearest
};

class SearchedLayer {
 public:
  // source: what the start's matrices approximate, its factors applied, and the start's biases;
  // start: as the search found the layer; now: what the model runs; transforms: by coupling, what
  // was accepted so far. All but `source` outlive this.
  SearchedLayer(const std::vector<Coupling>& couplings, FloatLayer source,
                const LayerWeights& start, LayerWeights& now,
                std::vector<ChannelTransform>& transforms, const Remaking& remaking,
                ThreadPool& pool);

  // The columns of a reader as accepted, [rows, cols].
  const float* columns(LayerMatrix reader) const { return columns_[reader].weight.data(); }
  const MatrixView& layout(LayerMatrix matrix) const;
  const FloatLayer& source() const noexcept { return source_; }

  // Makes the matrices of a coupling again for another transform of it. moments: of the readers'
  // inputs as accepted, null where no rounding looks at them; row_importance: mean squares of the
  // makers' inputs, or empty.
  void apply(std::size_t coupling, const ChannelTransform& next, const Hessian* moments,
             std::span<const float> row_importance);
  void accept();  // what was applied
  void undo();

 private:
  void make_rows(const Coupling::Maker& maker, const ChannelTransform& before,
                 const ChannelTransform& next, std::span<const float> importance);
  void make_columns(const Coupling& coupling, const ChannelTransform& before,
                    const ChannelTransform& next, const Hessian* moments);
  void keep(LayerMatrix matrix);

  const std::vector<Coupling>& couplings_;
  FloatLayer source_, columns_;
  const LayerWeights& start_;
  LayerWeights& now_;
  std::vector<ChannelTransform>& transforms_;
  Remaking remaking_;
  ThreadPool& pool_;
  // To undo what is applied.
  struct Kept {
    LayerMatrix matrix;
    Dense dense;
    std::vector<float> columns;
  };
  std::vector<Kept> kept_;
  std::optional<std::pair<std::size_t, ChannelTransform>> applied_;
};

}  // namespace tenfold
