#pragma once
// AWQ (Lin et al., 2023): input channels that meet strong activations are scaled up before
// rounding, by s = mean|x|^r, and their inputs down by as much in the operation before. The
// exponent r is the one of the least error of the outputs, sum e H e^T, among 0, 0.05 ... 0.95; 0
// changes nothing. Ranges are those of the plan, so that AWQ's clip search is the range search's.

#include <span>
#include <vector>

#include "quantizer/hessian.h"
#include "quantizer/panel.h"

namespace tenfold {

struct AwqScales {
  std::vector<float> scale;  // [cols] what weights are multiplied with; empty: r = 0 is best
  double ratio = 0;          // r
  double loss_before = 0, loss = 0;  // of the rows looked at
};

struct AwqMatrix {
  const RowReader* source;
  const MatrixPlan* plan;
};

// For all matrices of one input. Looks at up to 128 rows of each.
AwqScales search_scales(const Hessian& hessian, std::span<const AwqMatrix> matrices,
                        Backend& backend, ThreadPool& pool);

}  // namespace tenfold
