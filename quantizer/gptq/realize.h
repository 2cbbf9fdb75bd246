#pragma once
// GPTQ: columns are rounded one after the other, each after it was moved by what the errors of the
// earlier ones can make up for on the calibration inputs (hessian.h has the algebra). Grids are
// fitted with importances: in act order the mean square of each input, from left to right its
// conditional variance given the later ones.

#include <functional>
#include <span>
#include <string>

#include "quantizer/hessian.h"
#include "quantizer/panel.h"

namespace tenfold {

struct GptqOptions {
  double damping = 0.1;  // of each input's mean square, added to it
  // Columns of the strongest inputs first, with grids fitted before any is rounded; else from left
  // to right, each group's grid fitted to its weights as moved so far.
  bool act_order = true;
};

// The second moments of one input, ready for all matrices that read it in this column order.
class GptqInput {
 public:
  GptqInput(const Hessian& hessian, const std::vector<std::int32_t>& column_order,
            const GptqOptions& options, ThreadPool& pool);

  // The columns (in the plan's order) in the order they are rounded in.
  const std::vector<std::int32_t>& turns() const noexcept { return turns_; }
  const Feedback& feedback() const noexcept { return feedback_; }  // in that order
  // Importance of each column (in the plan's order) when grids are fitted.
  std::span<const float> importance() const noexcept { return importance_; }
  bool act_order() const noexcept { return act_order_; }

 private:
  std::vector<std::int32_t> turns_;
  Feedback feedback_;
  std::vector<float> importance_;
  bool act_order_;
};

struct GptqResult {
  QuantizedMatrix matrix;
  double loss =
      0;  // mean square of the outputs' errors on the calibration inputs, summed over rows
};

GptqResult realize_gptq(const RowReader& source, const MatrixPlan& plan, const GptqInput& input,
                        ThreadPool& pool, const std::string& what,
                        const std::function<void(std::int64_t)>& done);

}  // namespace tenfold
