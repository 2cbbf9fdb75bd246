#pragma once
// Q4_0, Q4_1 and Q8_0 blocks as packed bands that mean exactly the same weights: Q4_0 is 4 bits
// with zero 8, Q4_1 4 bits with f16 minima, Q8_0 8 bits with zero 128, all in groups of 32 columns.

#include <optional>

#include "kernels/matrix.h"
#include "kernels/thread_pool.h"
#include "runtime/files/tensor_source.h"

namespace tenfold {

// The layout; nullopt for other types and for tensors that are not matrices.
std::optional<MatrixView> exact_layout(const TensorSource& tensor);

// Rows 16 * panel ... of the tensor into a matrix of that layout.
void import_panel(const TensorSource& tensor, std::int64_t panel,
                  const QuantizedMatrix& into) noexcept;
// All of it.
QuantizedMatrix import_blocks(const TensorSource& tensor, const MatrixView& layout,
                              ThreadPool& pool);

}  // namespace tenfold
