#pragma once
// One layer of a quantized model whose channels a search moves: what its matrices approximate, and
// its packed bytes, changed in place in the running model.

#include <array>
#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "kernels/thread_pool.h"
#include "models/weights.h"
#include "quantizer/hessian.h"
#include "quantizer/range.h"
#include "quantizer/search/coupling.h"
#include "quantizer/search/loss_gradient.h"

namespace tenfold {

// How the matrices of the layer are made again.
struct Remaking {
  RangeKind range = RangeKind::mse;
  bool weighted = false;          // ranges: by the mean squares of inputs
  std::optional<double> damping;  // of GPTQ; absent: weights are rounded to the nearest
};

class SearchedLayer {
 public:
  // source: what the start's matrices approximate, its factors applied, and the start's biases and
  // norms; now: what the model runs; transforms: by coupling, what was accepted so far. All but
  // `source` outlive this.
  SearchedLayer(const std::vector<Coupling>& couplings, FloatLayer source, LayerWeights& now,
                std::vector<ChannelTransform>& transforms, const Remaking& remaking,
                ThreadPool& pool);

  // The source's rows with their columns as accepted, [rows, cols].
  const float* columns(LayerMatrix matrix) const { return columns_[matrix].weight.data(); }
  const MatrixView& layout(LayerMatrix matrix) const;

  // Makes the matrices of a coupling again for another transform of it, on top of what is applied
  // of others, which must be independent of it. moments: of the makers' and the readers' inputs as
  // accepted, null where no rounding looks at them.
  void apply(std::size_t coupling, const ChannelTransform& next, const Hessian* maker_moments,
             const Hessian* reader_moments);
  // What the one applied change does to the loss, to second order. The move itself does nothing:
  // what counts is how the rounded weights, moved back, differ from those accepted.
  // moments(matrix): second, of its inputs, [cols, cols], as accepted.
  double predicted(const LayerSlopes& slopes,
                   const std::function<const float*(LayerMatrix)>& moments, Backend& backend) const;
  void accept();  // all that was applied
  void undo();

 private:
  void make_rows(LayerMatrix matrix, const Coupling& coupling, const ChannelTransform& before,
                 const ChannelTransform& next, const Hessian* moments);
  void make_columns(LayerMatrix matrix, const Coupling& coupling, const ChannelTransform& before,
                    const ChannelTransform& next, const Hessian* moments);
  bool rows_move(LayerMatrix matrix) const;
  FloatLayer::Part wanted(LayerMatrix matrix) const;
  std::vector<float> moved_back(LayerMatrix matrix) const;
  // To undo what is applied.
  struct Kept {
    LayerMatrix matrix;
    Dense dense;
    std::vector<float> columns;  // empty where they did not change
  };
  Kept& keep(LayerMatrix matrix);

  const std::vector<Coupling>& couplings_;
  FloatLayer source_, columns_;
  LayerWeights& now_;
  std::vector<ChannelTransform>& transforms_;
  Remaking remaking_;
  ThreadPool& pool_;
  std::deque<Kept> kept_;  // a matrix once
  std::deque<std::pair<LayerNorm, Norm>> kept_norms_;
  std::vector<std::pair<std::size_t, ChannelTransform>> applied_;  // one after the other
};

}  // namespace tenfold
