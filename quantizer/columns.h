#pragma once
// Which input columns the mixed layout keeps at more bits: those of the largest sum of squares.
// Matrices that read the same input add their scores, so that they share one order.

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/thread_pool.h"
#include "models/tensors.h"

namespace tenfold {

// Adds each column's sum of squares; scores: [cols]. The same for any number of threads.
void add_column_scores(const RowReader& rows, ThreadPool& pool, std::vector<double>& scores);

// How many of `cols` columns a share is: a multiple of 16 between 16 and cols - 1; 0 where there is
// none.
std::int64_t mixed_columns(double share, std::int64_t cols);

// The `first` columns of the highest scores, then the others, each in ascending order.
std::vector<std::int32_t> column_order(const std::vector<double>& scores, std::int64_t first);

// Values of the source's columns, in that order; empty: as they are.
std::vector<float> in_order(std::span<const float> values, const std::vector<std::int32_t>& order);

}  // namespace tenfold
