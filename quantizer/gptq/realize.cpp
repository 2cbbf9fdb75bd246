#include "quantizer/gptq/realize.h"

#include <algorithm>
#include <numeric>

#include "kernels/cpu/isa.h"
#include "runtime/files/packed_matrix.h"

namespace tenfold {
namespace {

constexpr std::int64_t kTurns = 128;  // columns whose targets are brought up to date together

// Rounds the rows of one panel after another; memory of one thread. Arrays by turn are in the order
// columns are rounded in.
class PanelRounder {
 public:
  PanelRounder(const MatrixPlan& plan, const GptqInput& input, const QuantizedMatrix& out)
      : plan_(plan),
        input_(input),
        out_(out),
        n_(out.view.cols),
        groups_(column_groups(out.view)),
        grids_(groups_.size()),
        group_of_(static_cast<std::size_t>(n_)),
        errors_(static_cast<std::size_t>(kPanelRows * n_)),
        targets_(static_cast<std::size_t>(kPanelRows * n_)) {
    for (std::size_t g = 0; g < groups_.size(); ++g) {
      for (std::int64_t c = groups_[g].begin; c < groups_[g].end; ++c) {
        group_of_[static_cast<std::size_t>(c)] = g;
      }
    }
  }

  // Returns the loss, sum over rows and turns of D (target - value)^2.
  double round(std::int64_t panel, const float* rows, int n_rows, std::uint8_t* codes) {
    panel_ = panel;
    for (PanelGrids& grids : grids_) grids = {};
    rows_ = rows;
    n_rows_ = n_rows;
    codes_ = codes;
    loss_ = 0;
    if (input_.act_order()) {
      for (std::size_t g = 0; g < groups_.size(); ++g) fit(g, rows_ + groups_[g].begin, n_);
      for (std::int64_t begin = 0; begin < n_; begin += kTurns) {
        update_targets(begin, std::min(begin + kTurns, n_));
        round_turns(begin, std::min(begin + kTurns, n_));
      }
      return loss_;
    }
    for (std::size_t g = 0; g < groups_.size(); ++g) {
      const ColumnGroup& group = groups_[g];
      update_targets(group.begin, group.end);
      fit(g, targets_.data(), group.end - group.begin);
      if (group.end - group.begin <= kTurns) {
        round_turns(group.begin, group.end);
        continue;
      }
      for (std::int64_t begin = group.begin; begin < group.end; begin += kTurns) {
        update_targets(begin, std::min(begin + kTurns, group.end));
        round_turns(begin, std::min(begin + kTurns, group.end));
      }
    }
    return loss_;
  }

  void write() const {
    for (std::size_t g = 0; g < groups_.size(); ++g) {
      write_grids(grids_[g], band_of(groups_[g]), panel_, groups_[g].index, out_.view.rows, out_);
    }
    for (const Band& band : out_.view.all_bands()) {
      write_codes(codes_ + band.col_begin * kPanelRows, n_rows_, band, panel_, out_.view.rows,
                  out_);
    }
  }

 private:
  const Band& band_of(const ColumnGroup& group) const {
    return out_.view.bands[static_cast<std::size_t>(group.band)];
  }
  std::int64_t place(std::int64_t turn) const {
    return input_.turns()[static_cast<std::size_t>(turn)];
  }

  // weights: the group's first column of the first row.
  void fit(std::size_t g, const float* weights, std::int64_t stride) {
    const std::span<const Grid> given = plan_grids(plan_, panel_, g, groups_.size());
    for (int r = 0; r < n_rows_; ++r) {
      Grid& grid = grids_[g][static_cast<std::size_t>(r)];
      grid = given.empty() ? fit_columns(weights + r * stride - groups_[g].begin, groups_[g],
                                         out_.view, plan_.range, input_.importance())
                           : given[static_cast<std::size_t>(r)];
    }
  }

  // targets_ [n_rows, end - begin]: the weights of these turns, moved by all errors before them.
  void update_targets(std::int64_t begin, std::int64_t end) {
    const std::int64_t count = end - begin;
    const float* u = input_.feedback().u.data();
    for (int r = 0; r < n_rows_; ++r) {
      float* target = targets_.data() + r * count;
      for (std::int64_t k = 0; k < count; ++k) target[k] = rows_[r * n_ + place(begin + k)];
    }
    for (std::int64_t i = 0; i < begin; i += 4) {
      const std::int64_t terms = std::min<std::int64_t>(4, begin - i);
      for (int r = 0; r < n_rows_; ++r) {
        float* target = targets_.data() + r * count;
        const float* error = errors_.data() + r * n_ + i;
        const float* from = u + i * n_ + begin;
        if (terms == 4) {
          loops_.add_four(error, from, n_, count, target);
          continue;
        }
        for (std::int64_t t = 0; t < terms; ++t) {
          loops_.add_scaled(error[t], from + t * n_, count, target);
        }
      }
    }
  }

  // targets_ are those of [begin, end).
  void round_turns(std::int64_t begin, std::int64_t end) {
    const Feedback& feedback = input_.feedback();
    const std::int64_t count = end - begin;
    for (std::int64_t turn = begin; turn < end; ++turn) {
      const std::int64_t column = place(turn);
      const std::size_t g = group_of_[static_cast<std::size_t>(column)];
      const Band& band = band_of(groups_[g]);
      const int bits = format_traits(band.format).bits;
      std::uint8_t* codes =
          codes_ + band.col_begin * kPanelRows + column - band.col_begin;  // row 0 of the band
      const float* u = feedback.u.data() + turn * n_;
      const auto d = static_cast<double>(feedback.d[static_cast<std::size_t>(turn)]);
      for (int r = 0; r < n_rows_; ++r) {
        float* target = targets_.data() + r * count - begin;  // by turn
        const float value = nearest_value(target[turn], grids_[g][static_cast<std::size_t>(r)],
                                          bits, codes[r * band.cols()]);
        const auto missed = static_cast<double>(target[turn] - value);
        loss_ += d * missed * missed;
        const float error = rows_[r * n_ + column] - value;
        errors_[static_cast<std::size_t>(r * n_ + turn)] = error;
        loops_.add_scaled(error, u + turn + 1, end - turn - 1, target + turn + 1);
      }
    }
  }

  const MatrixPlan& plan_;
  const GptqInput& input_;
  const QuantizedMatrix& out_;
  const Loops& loops_ = loops();
  std::int64_t n_;
  std::vector<ColumnGroup> groups_;
  std::vector<PanelGrids> grids_;
  std::vector<std::size_t> group_of_;
  std::vector<float> errors_;   // [16, cols] by turn: weight - value
  std::vector<float> targets_;  // [16, turns at hand]
  std::int64_t panel_ = 0;
  const float* rows_ = nullptr;
  int n_rows_ = 0;
  std::uint8_t* codes_ = nullptr;  // band after band: [16, band.cols()]
  double loss_ = 0;
};

std::vector<std::int32_t> identity(std::int64_t n) {
  std::vector<std::int32_t> order(static_cast<std::size_t>(n));
  std::iota(order.begin(), order.end(), 0);
  return order;
}

}  // namespace

GptqInput::GptqInput(const Hessian& hessian, const std::vector<std::int32_t>& column_order,
                     const GptqOptions& options, ThreadPool& pool)
    : turns_(identity(hessian.cols())), act_order_(options.act_order) {
  const std::vector<float> diagonal = hessian.diagonal();
  std::vector<std::int32_t> columns =
      column_order.empty() ? identity(hessian.cols()) : column_order;
  std::vector<float> power(columns.size());
  for (std::size_t i = 0; i < columns.size(); ++i) {
    power[i] = diagonal[static_cast<std::size_t>(columns[i])];
  }
  if (act_order_) {
    std::stable_sort(turns_.begin(), turns_.end(), [&](std::int32_t a, std::int32_t b) {
      return power[static_cast<std::size_t>(a)] > power[static_cast<std::size_t>(b)];
    });
  }
  std::vector<std::int32_t> order(columns.size());
  for (std::size_t t = 0; t < order.size(); ++t) {
    order[t] = columns[static_cast<std::size_t>(turns_[t])];
  }
  feedback_ = factor(hessian, order, options.damping, pool);
  importance_ = act_order_ ? std::move(power) : feedback_.d;
}

GptqResult realize_gptq(const RowReader& source, const MatrixPlan& plan, const GptqInput& input,
                        ThreadPool& pool, const std::string& what,
                        const std::function<void(std::int64_t)>& done) {
  GptqResult result;
  result.matrix = allocate_matrix(layout_of(plan, source.rows(), source.cols()));
  std::vector<PanelRounder> rounders(static_cast<std::size_t>(pool.size()),
                                     PanelRounder(plan, input, result.matrix));
  std::vector<double> losses(static_cast<std::size_t>(panel_count(source)));
  for_each_panel(source, plan, pool, what, done,
                 [&](PanelReader& reader, std::int64_t panel, int thread) {
                   PanelRounder& rounder = rounders[static_cast<std::size_t>(thread)];
                   losses[static_cast<std::size_t>(panel)] =
                       rounder.round(panel, reader.rows(), reader.n_rows(), reader.codes());
                   rounder.write();
                 });
  result.loss = std::accumulate(losses.begin(), losses.end(), 0.0);
  return result;
}

}  // namespace tenfold
