#include "tests/cuda/one_token.h"

#include <algorithm>
#include <cmath>

#include "kernels/formats/codec.h"
#include "kernels/formats/plane.h"

namespace tenfold {
namespace {

std::int64_t divide_up(std::int64_t n, std::int64_t by) { return (n + by - 1) / by; }

PackedBand packed_band(const Band& band, std::int64_t rows) {
  const PackedLayout layout =
      packed_layout(band.format, band.min_kind, rows, band.cols(), band.group);
  PackedBand result;
  result.format = static_cast<int>(band.format);
  result.min_kind = static_cast<int>(band.min_kind);
  result.cols = band.cols();
  result.groups = layout.groups;
  result.codes = band.codes;
  result.scale = band.scale;
  result.min = band.min;
  result.panel_code_bytes = layout.panel_code_bytes;
  result.panel_min_bytes = layout.panel_min_bytes;
  result.input.col_begin = band.col_begin;
  result.input.cols = band.cols();
  result.input.block = std::min(band.group, kMaxActivationBlock);
  result.group = divide_up(band.group, result.input.block) * result.input.block;
  return result;
}

}  // namespace

OneToken::OneToken(const MatrixView& weight, const float* x, float outlier) : weight_(weight) {
  std::vector<PreparedBand> prepared;
  for (const Band& band : weight.all_bands()) {
    PackedBand& packed = bands_.emplace_back(packed_band(band, weight.rows));
    packed.input.dword = input_.dwords;
    packed.input.first_block = input_.blocks;
    input_.dwords += divide_up(band.cols(), kBlockCols) * kBlockCols / 4;
    input_.blocks += divide_up(band.cols(), packed.input.block);
    prepared.push_back(packed.input);
  }
  codes_.resize(static_cast<std::size_t>(2 * input_.dwords * 4));
  scale_.resize(static_cast<std::size_t>(2 * input_.blocks));
  sum_.resize(static_cast<std::size_t>(2 * input_.blocks));
  second_.resize(static_cast<std::size_t>(input_.blocks));
  input_.tokens = 1;
  input_.planes = 2;
  input_.outlier = outlier;
  input_.codes = codes_.data();
  input_.scale = scale_.data();
  input_.sum = sum_.data();
  input_.second = second_.data();
  const PrepareArgs args{
      x,     weight.cols, weight.map.source, weight.map.factor, prepared.data(), weight.n_bands,
      input_};
  scalar_kernels().prepare(args, 0, 1);
}

std::vector<float> OneToken::on_cpu(const KernelTable& kernels, std::vector<float> y,
                                    const float* bias, bool accumulate) const {
  const PackedArgs args{bands_.data(), weight_.n_bands, weight_.rows, bias,
                        input_,        y.data(),        weight_.rows, accumulate};
  kernels.linear_packed(args, 0, divide_up(weight_.rows, kPanelRows), nullptr);
  return y;
}

double OneToken::activation(const PackedBand& band, std::int64_t col, int plane) const {
  const std::int64_t block = band.input.first_block + col / band.input.block;
  if (plane == 1 && second_[static_cast<std::size_t>(block)] == 0) return 0;
  const std::int64_t at = plane * input_.dwords * 4 + band.input.dword * 4 + col;
  return static_cast<double>(scale_[static_cast<std::size_t>(plane * input_.blocks + block)]) *
         codes_[static_cast<std::size_t>(at)];
}

OneToken::Exact OneToken::exact() const {
  Exact result;
  for (std::int64_t row = 0; row < weight_.rows; ++row) {
    double sum = 0, norm = 0;
    for (std::size_t b = 0; b < bands_.size(); ++b) {
      const Band& band = weight_.bands[b];
      std::vector<std::uint8_t> codes(static_cast<std::size_t>(band.cols()));
      unpack_panel_row(band.format, band.codes + row / kPanelRows * bands_[b].panel_code_bytes,
                       static_cast<int>(row % kPanelRows), band.cols(), codes.data());
      for (std::int64_t col = 0; col < band.cols(); ++col) {
        const double x0 = activation(bands_[b], col, 0), x1 = activation(bands_[b], col, 1);
        const double magnitude = std::fabs(x0) + std::fabs(x1);
        const std::int64_t group = col / band.group;
        const double scaled = static_cast<double>(group_scale(band, row, group)) *
                              codes[static_cast<std::size_t>(col)];
        const double min = group_min(band, row, group);
        sum += (scaled + min) * (x0 + x1);
        norm += (std::fabs(scaled) + std::fabs(min)) * magnitude;
      }
    }
    result.y.push_back(sum);
    result.norm.push_back(norm);
  }
  return result;
}

}  // namespace tenfold
