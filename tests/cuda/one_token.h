#pragma once
// A matrix of packed bands and one token, prepared as the CPU backend prepares them.

#include <cstdint>
#include <vector>

#include "kernels/cpu/kernel_table.h"
#include "kernels/matrix.h"

namespace tenfold {

class OneToken {
 public:
  // `weight` outlives this; x: [weight.cols]; outlier: as in PreparedInput.
  OneToken(const MatrixView& weight, const float* x, float outlier);

  const PreparedInput& input() const { return input_; }
  const PreparedBand& input_of(int band) const {
    return bands_[static_cast<std::size_t>(band)].input;
  }
  // y: [weight.rows], also what is added to where `accumulate`.
  std::vector<float> on_cpu(const KernelTable& kernels, std::vector<float> y, const float* bias,
                            bool accumulate) const;

  // In double: W x for the rounded x, and the sums of |scale code x| + |min x| over both planes of
  // x, which bound every partial sum.
  struct Exact {
    std::vector<double> y, norm;
  };
  Exact exact() const;
  // Activation blocks of all bands: what a row's sum has two roundings for, and two more for the
  // factors.
  std::int64_t blocks() const { return input_.blocks; }

 private:
  double activation(const PackedBand& band, std::int64_t col, int plane) const;

  const MatrixView& weight_;
  std::vector<PackedBand> bands_;
  std::vector<std::int8_t> codes_;
  std::vector<float> scale_, sum_;
  std::vector<std::uint8_t> second_;
  PreparedInput input_;
};

}  // namespace tenfold
