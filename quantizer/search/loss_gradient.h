#pragma once
// The gradient of the search's loss (objective.h) with respect to the weights of a layer's
// matrices, and a guess at the second derivatives, at the accepted model: its packed weights
// dequantized, its residual streams as the packed kernels made them. Together they say what a
// change of weights does to the true loss, well enough to rank proposals without running the model.

#include <array>
#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "kernels/thread_pool.h"
#include "models/decoder.h"
#include "quantizer/roles.h"
#include "quantizer/search/objective.h"

namespace tenfold {

// Of one matrix.
struct LossSlope {
  std::vector<float> gradient;   // [rows, cols]
  std::vector<float> curvature;  // [rows]: with M the second moments of the inputs, a change d of a
                                 // row costs about so many times d M d^T beyond its gradient
};
using LayerSlopes = std::array<LossSlope, kLayerMatrices>;

// Memory: the head and the layers asked for in float32, and a residual stream for each sequence.
class LossGradient {
 public:
  // All outlive this.
  LossGradient(const Decoder& model, Objective& objective, ThreadPool& pool);
  // Of these layers, ascending: about three times the arithmetic of running all layers from the
  // first of them on, in float32.
  void compute(std::span<const std::int64_t> layers);
  const LayerSlopes& of(std::int64_t layer) const { return slopes_.at(layer); }

 private:
  void layer_back(std::int64_t layer, LayerSlopes* slopes);

  const Decoder& model_;
  Objective& objective_;
  ThreadPool& pool_;
  std::vector<float> turned_head_;     // [dim, vocab]
  std::vector<std::vector<float>> d_;  // [sequences][tokens, dim]: of what leaves a layer
  std::map<std::int64_t, LayerSlopes> slopes_;
};

}  // namespace tenfold
