#pragma once
// A matrix whose grids are learned: OmniQuant's learnable weight clipping (Shao et al., 2023,
// section 3.2). The paper learns which share of a group's extremes is kept; here scale and minimum
// themselves are learned, as offsets from what the range search found, which serves all three min
// kinds and lets a range also grow. Rounding has the straight-through gradient:
//   value = s q + m, q = clamp(round((w - m) / s)):
//   d value / ds = q - (w - m) / s and d value / dm = 0 where nothing is clamped, q and 1 where it
//   is.
// Scale, minimum and zero point are rounded to what the file holds before each use.
//
// Once codes are chosen (by GPTQ, say), the same parameters can be learned with the codes as they
// are: d value / ds = q and d value / dm = 1, no rounding in between. Codes, too, can then be
// learned, as SignSGD rounding does (Cheng et al., 2023): each has a shift that takes steps of one
// size down the sign of its gradient, q = round(chosen + shift).

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "quantizer/omniquant/options.h"
#include "quantizer/panel.h"

namespace tenfold {

// A step of AdamW without decay, for parameters whose unit is their own size.
struct AdamStep {
  // rate: the learning rate; step: counted from 1.
  AdamStep(float rate, std::int64_t step) noexcept;
  float rate, first_share, second_share;  // the running means are so far from their start
};

struct Adam {
  float first = 0, second = 0;
  // The change to add.
  float update(float gradient, const AdamStep& step) noexcept;
};

class LearnedMatrix {
 public:
  // importance: [cols] in the plan's order, or empty, for the first grids. Throws bad_file where a
  // weight is not finite.
  LearnedMatrix(const RowReader& source, const MatrixPlan& plan, std::span<const float> importance,
                ThreadPool& pool, const std::string& what);

  // The matrix as it was made: its codes stay, but for those that `learned` says; its grids are
  // learned. A zero point stays too.
  LearnedMatrix(const QuantizedMatrix& made, const std::vector<std::int32_t>& order,
                LearnedCodes learned, ThreadPool& pool);

  std::int64_t rows() const noexcept { return rows_; }
  std::int64_t cols() const noexcept { return cols_; }
  // out: [rows, cols] in the source's column order: what is left of the weights when each column is
  // multiplied by factor[c] (the source's order), rounded and divided.
  void rounded(std::span<const float> factor, float* out) const;
  // One step down the gradient [rows, cols] of those values; code_step: how far a code shifts. Adds
  // the gradient of log(factor) to d_log_factor [cols].
  void learn(std::span<const float> factor, const float* gradient, const AdamStep& step,
             float code_step, std::span<double> d_log_factor);
  // What was learned: for MatrixPlan::grids.
  std::vector<Grid> grids() const;
  // The same, and codes that were learned, into the matrix that was made.
  void write(const QuantizedMatrix& made) const;

  // The learned parameters, to return to.
  struct State {
    std::vector<float> scale, min;
    std::vector<float> shift;  // of codes, [rows, cols] in the plan's order; empty: none is learned
  };
  const State& state() const noexcept { return state_; }
  void set_state(const State& state) { state_ = state; }

 private:
  std::size_t at(std::int64_t row, std::size_t group) const {
    return static_cast<std::size_t>(row) * groups_.size() + group;
  }
  Grid grid(std::int64_t row, std::size_t group) const;
  bool fixed() const noexcept { return !codes_.empty(); }
  float code(std::size_t place, float top) const noexcept;  // of those that were chosen
  void size_parameters();
  void write_learned_codes(std::int64_t panel, const QuantizedMatrix& made) const;
  template <typename Body>
  void for_rows(Body&& body) const;

  ThreadPool& pool_;
  std::int64_t rows_, cols_;
  MatrixView layout_;
  std::vector<std::int32_t> order_;  // the source column of each column
  std::vector<ColumnGroup> groups_;
  std::vector<std::uint8_t> codes_;             // [rows, cols] in the plan's order, as chosen
  std::int64_t learned_cols_ = 0;               // whose codes are learned, from the first on
  std::vector<float> weights_;                  // [rows, cols] in the plan's order
  std::vector<float> first_scale_, first_min_;  // [rows, groups]
  State state_;                                 // log(scale / first), (min - first) / first scale
  std::vector<Adam> scale_steps_, min_steps_;
};

}  // namespace tenfold
