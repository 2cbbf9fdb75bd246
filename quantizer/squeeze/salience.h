#pragma once
// Scores of input columns: which keep more bits in a mixed layout. Matrices that read the same
// input add theirs, so that they share one choice.

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "kernels/thread_pool.h"
#include "quantizer/hessian.h"
#include "quantizer/panel.h"

namespace tenfold {

struct SalientMatrix {
  const RowReader* source;
  const MatrixPlan* plan;  // whose factors multiply the source; its order does not count
  std::string name;        // for errors
};

// Sums over rows of (w x)^2: how much of the output comes through the column. power: the mean
// square of each input.
std::vector<double> activation_scores(std::span<const SalientMatrix> matrices,
                                      std::span<const float> power, ThreadPool& pool);

// PBAR: with e the error of a weight that is binarized (to mu +- a of its row's columns that are),
// d the share of its input's power that no later input has (GPTQ's D, from left to right; that no
// other has chooses no better), and x its input,
//   sum over rows of  e^2 d / mean(e^2 d) + lambda e^2 x^2 / mean(e^2 x^2).
// Which columns are binarized follows from the scores and they from it: three rounds. `first`: how
// many columns are not. Throws bad_file where a weight is not finite.
std::vector<double> pbar_scores(std::span<const SalientMatrix> matrices, const Hessian& inputs,
                                const Feedback& left_to_right, double lambda, std::int64_t first,
                                ThreadPool& pool);

}  // namespace tenfold
