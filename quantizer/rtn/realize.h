#pragma once
// Round to nearest: from full-precision rows and a MatrixPlan to packed bytes. Each group gets the
// grid that range.h fits, each weight the nearest code. A pure function: the same rows and plan
// give the same bytes, whatever the number of threads.

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>

#include "kernels/matrix.h"
#include "kernels/thread_pool.h"
#include "models/tensors.h"
#include "quantizer/plan.h"

namespace tenfold {

// One panel of up to 16 rows. rows: [n_rows, cols] in the plan's column order, finite; codes:
// scratch [16, cols]; out: a matrix of the plan's layout; importance: [cols] in the plan's order,
// how much a column's errors count, or empty. Returns the sum of (weighted) squared errors.
double realize_panel(const float* rows, int n_rows, const MatrixPlan& plan, std::int64_t panel,
                     const QuantizedMatrix& out, std::uint8_t* codes,
                     std::span<const float> importance = {}) noexcept;

// Where the source is a quantized type and the plan its very layout, its codes are copied; nullopt
// where it is not.
std::optional<QuantizedMatrix> copy_of_source(const RowReader& source, const MatrixPlan& plan,
                                              ThreadPool& pool);

// A copy of the source where that is possible, else rounded to nearest. `what`
// names the tensor for the error (bad_file) that a weight which is no number ends in. done(rows) is
// called now and then, and may throw.
QuantizedMatrix realize(const RowReader& source, const MatrixPlan& plan, ThreadPool& pool,
                        const std::string& what, const std::function<void(std::int64_t)>& done,
                        std::span<const float> importance = {});

// The sum of squared errors over up to `panels` panels, evenly spread.
double sampled_error(const RowReader& source, const MatrixPlan& plan, ThreadPool& pool,
                     std::int64_t panels, const std::string& what);

}  // namespace tenfold
