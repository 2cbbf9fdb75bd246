#pragma once
// A matrix that gives what the full-precision layer gives, though its inputs are those of the
// quantized layers before it (FIAS, reading B: W' = W (X_fp X_q^T)(X_q X_q^T)^-1).

#include <span>
#include <vector>

#include "kernels/thread_pool.h"
#include "models/tensors.h"
#include "quantizer/hessian.h"

namespace tenfold {

class AimedRows {
 public:
  // cross: of the quantized model's inputs with full precision's; feedback: of the first, damped,
  // in the source's order.
  AimedRows(const RowReader& source, const Hessian& inputs, const CrossMoments& cross,
            const Feedback& feedback, ThreadPool& pool);
  AimedRows(const AimedRows&) = delete;
  AimedRows& operator=(const AimedRows&) = delete;

  const RowReader& rows() const noexcept { return reader_; }  // lives as long as this

 private:
  std::vector<float> weights_;
  TensorSource tensor_;
  RowReader reader_;
};

}  // namespace tenfold
