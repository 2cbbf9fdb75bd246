#include "quantizer/search/searched_layer.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "quantizer/panel.h"
#include "quantizer/search/remake.h"

namespace tenfold {
namespace {

bool turns(const ChannelTransform& a, const ChannelTransform& b, std::size_t channel) {
  return channel / 2 < a.angle.size() && a.angle[channel / 2] != b.angle[channel / 2];
}

bool same_place(const ChannelTransform& a, const ChannelTransform& b, std::size_t place) {
  if (a.order[place] != b.order[place]) return false;
  const auto channel = static_cast<std::size_t>(a.order[place]);
  return !turns(a, b, channel) && a.scale[channel] == b.scale[channel];
}

// Of makers or readers, each once.
template <typename Parts>
std::vector<LayerMatrix> matrices_of(const Parts& parts) {
  std::vector<LayerMatrix> matrices;
  for (const auto& part : parts) {
    if (std::find(matrices.begin(), matrices.end(), part.matrix) == matrices.end()) {
      matrices.push_back(part.matrix);
    }
  }
  return matrices;
}

bool same_inputs(const Coupling& a, const Coupling& b) {
  return !a.readers.empty() && !b.readers.empty() &&
         a.readers.front().matrix == b.readers.front().matrix;
}

// Of the readers' inputs once their channels stand as `next` has them: back to the source's order
// and scale, turned, and forth.
Hessian moved_moments(const Hessian& moments, const Coupling& coupling,
                      const ChannelTransform& before, const ChannelTransform& next) {
  std::vector<std::int32_t> back(static_cast<std::size_t>(moments.cols()));
  std::iota(back.begin(), back.end(), 0);
  std::vector<std::int32_t> forth = back;
  std::vector<float> unscale(back.size(), 1.0f), scale = unscale;
  for (const Coupling::Reader& reader : coupling.readers) {
    const auto first = static_cast<std::size_t>(reader.first);
    for (std::size_t place = 0; place < before.order.size(); ++place) {
      const auto was = static_cast<std::size_t>(before.order[place]);
      back[first + was] = static_cast<std::int32_t>(first + place);
      unscale[first + was] = 1.0f / before.scale[was];
      const auto channel = static_cast<std::size_t>(next.order[place]);
      forth[first + place] = static_cast<std::int32_t>(first + channel);
      scale[first + place] = next.scale[channel];
    }
  }
  Hessian source = moments.of(back, unscale);
  for (const Coupling::Reader& reader : coupling.readers) {
    if (reader.matrix != coupling.readers.front().matrix) break;  // all have the same inputs
    for (std::size_t pair = 0; pair < next.angle.size(); ++pair) {
      const float angle = next.angle[pair] - before.angle[pair];
      if (angle != 0) source.turn(reader.first + 2 * static_cast<std::int64_t>(pair), angle);
    }
  }
  return source.of(forth, scale);
}

}  // namespace

SearchedLayer::SearchedLayer(const std::vector<Coupling>& couplings, FloatLayer source,
                             LayerWeights& now, std::vector<ChannelTransform>& transforms,
                             const Remaking& remaking, ThreadPool& pool)
    : couplings_(couplings),
      source_(std::move(source)),
      columns_(source_),
      now_(now),
      transforms_(transforms),
      remaking_(remaking),
      pool_(pool) {
  for (std::size_t c = 0; c < couplings_.size(); ++c) {
    for (const Coupling::Reader& reader : couplings_[c].readers) {
      transform_columns(source_[reader.matrix], reader, transforms_[c], columns_[reader.matrix]);
    }
  }
}

const MatrixView& SearchedLayer::layout(LayerMatrix matrix) const {
  return dense_of(now_, matrix).weight.view;
}

// Returns the matrix as accepted; the model goes on with memory that may be written to.
SearchedLayer::Kept& SearchedLayer::keep(LayerMatrix matrix) {
  const auto kept = std::ranges::find(kept_, matrix, &Kept::matrix);
  if (kept != kept_.end()) return *kept;
  Dense& dense = dense_of(now_, matrix);
  QuantizedMatrix copy = copy_matrix(dense.weight.view);
  std::swap(copy, dense.weight);
  // What is accepted keeps its address, by which a device knows it.
  kept_.push_back({matrix, {std::move(copy), std::move(dense.bias)}, {}});
  dense.bias = kept_.back().dense.bias;
  return kept_.back();
}

void SearchedLayer::apply(std::size_t c, const ChannelTransform& next, const Hessian* maker_moments,
                          const Hessian* reader_moments) {
  const ChannelTransform& before = transforms_[c];
  const Coupling& coupling = couplings_[c];
  applied_.emplace_back(c, next);
  for (const LayerMatrix matrix : matrices_of(coupling.makers)) {
    make_rows(matrix, coupling, before, next, maker_moments);
  }
  if (coupling.norm) {
    Norm& norm = norm_of(now_, *coupling.norm);
    kept_norms_.emplace_back(*coupling.norm, std::move(norm));
    norm = kept_norms_.back().second;
    transform_norm(source_[*coupling.norm], next, norm);
  }
  std::optional<Hessian> moved;
  for (const auto& [other, to] : applied_) {
    const Coupling& one = couplings_[other];
    if (reader_moments == nullptr || !same_inputs(one, coupling)) continue;
    moved = moved_moments(moved ? *moved : *reader_moments, one, transforms_[other], to);
  }
  for (const LayerMatrix matrix : matrices_of(coupling.readers)) {
    make_columns(matrix, coupling, before, next, moved ? &*moved : nullptr);
  }
}

// Rows that turned are rounded anew; others take their codes to their places.
void SearchedLayer::make_rows(LayerMatrix matrix, const Coupling& coupling,
                              const ChannelTransform& before, const ChannelTransform& next,
                              const Hessian* moments) {
  std::vector<std::int64_t> place_before(before.order.size());
  for (std::size_t place = 0; place < before.order.size(); ++place) {
    place_before[static_cast<std::size_t>(before.order[place])] = static_cast<std::int64_t>(place);
  }
  std::vector<RowMove> moves;
  std::vector<std::int64_t> rounded;
  for (const Coupling::Maker& maker : coupling.makers) {
    if (maker.matrix != matrix) continue;
    for (std::size_t place = 0; place < next.order.size(); ++place) {
      if (same_place(before, next, place)) continue;
      const auto channel = static_cast<std::size_t>(next.order[place]);
      const std::int64_t row = maker.first + static_cast<std::int64_t>(place);
      if (turns(before, next, channel)) {
        rounded.push_back(row);
        continue;
      }
      const RowMove move{row, maker.first + place_before[channel],
                         power_of(next.scale[channel] / before.scale[channel], maker.power)};
      if (move.from != move.place || move.factor != 1) moves.push_back(move);
    }
  }
  if (moves.empty() && rounded.empty()) return;
  const Dense& accepted = keep(matrix).dense;
  Dense& dense = dense_of(now_, matrix);
  move_rows(accepted.weight.view, moves, dense.weight, pool_);
  if (rounded.empty() && dense.bias.empty()) return;
  FloatLayer::Part made = wanted(matrix);
  round_rows(made.weight.data(), rounded,
             {remaking_.range, remaking_.weighted, moments, remaking_.damping}, dense.weight,
             pool_);
  dense.bias = std::move(made.bias);
}

void SearchedLayer::make_columns(LayerMatrix matrix, const Coupling& coupling,
                                 const ChannelTransform& before, const ChannelTransform& next,
                                 const Hessian* moments) {
  const MatrixView& view = layout(matrix);
  const std::vector<ColumnGroup> groups = column_groups(view);
  std::vector<bool> changed(static_cast<std::size_t>(view.cols));
  for (const Coupling::Reader& reader : coupling.readers) {
    if (reader.matrix != matrix) continue;
    for (std::size_t place = 0; place < next.order.size(); ++place) {
      if (same_place(before, next, place)) continue;
      changed[static_cast<std::size_t>(reader.first) + place] = true;
    }
  }
  std::vector<std::size_t> touched;
  for (std::size_t g = 0; g < groups.size(); ++g) {
    if (std::find(changed.begin() + groups[g].begin, changed.begin() + groups[g].end, true) !=
        changed.begin() + groups[g].end) {
      touched.push_back(g);
    }
  }
  if (touched.empty()) return;
  Kept& kept = keep(matrix);
  if (kept.columns.empty()) kept.columns = columns_[matrix].weight;
  for (const Coupling::Reader& reader : coupling.readers) {
    if (reader.matrix != matrix) continue;
    transform_columns(source_[matrix], reader, next, columns_[matrix]);
  }
  const Rounding rounding{remaking_.range, remaking_.weighted, moments, remaking_.damping};
  const QuantizedMatrix& out = dense_of(now_, matrix).weight;
  if (rows_move(matrix)) {
    round_groups(wanted(matrix).weight.data(), touched, rounding, out, pool_);
  } else {
    round_groups(columns(matrix), touched, rounding, out, pool_);
  }
}

bool SearchedLayer::rows_move(LayerMatrix matrix) const {
  return std::any_of(couplings_.begin(), couplings_.end(), [&](const Coupling& coupling) {
    return std::any_of(coupling.makers.begin(), coupling.makers.end(),
                       [&](const Coupling::Maker& maker) { return maker.matrix == matrix; });
  });
}

// What the packed matrix approximates, with what is applied.
FloatLayer::Part SearchedLayer::wanted(LayerMatrix matrix) const {
  FloatLayer::Part made = columns_[matrix];
  for (std::size_t c = 0; c < couplings_.size(); ++c) {
    for (const Coupling::Maker& maker : couplings_[c].makers) {
      if (maker.matrix != matrix) continue;
      const auto applied =
          std::ranges::find(applied_, c, [](const auto& one) { return one.first; });
      transform_rows(columns_[matrix], maker,
                     applied == applied_.end() ? transforms_[c] : applied->second, made);
    }
  }
  return made;
}

// The matrix as it is now, at the places of the accepted channels.
std::vector<float> SearchedLayer::moved_back(LayerMatrix matrix) const {
  const auto& [c, now] = applied_.front();
  const ChannelTransform& before = transforms_[c];
  const Coupling& coupling = couplings_[c];
  // From places to the source's channels, and forth to other places.
  ChannelTransform back(coupling.channels), forth = before;
  for (std::size_t place = 0; place < now.order.size(); ++place) {
    const auto channel = static_cast<std::size_t>(now.order[place]);
    back.order[channel] = static_cast<std::int32_t>(place);
    back.scale[place] = 1.0f / now.scale[channel];
  }
  for (std::size_t pair = 0; pair < now.angle.size(); ++pair) forth.angle[pair] -= now.angle[pair];
  const MatrixView& view = layout(matrix);
  FloatLayer::Part part{dequantized(view), {}, view.rows, view.cols};
  for (const ChannelTransform* step : {&back, &forth}) {
    const FloatLayer::Part from = part;
    for (const Coupling::Maker& maker : coupling.makers) {
      if (maker.matrix == matrix) transform_rows(from, maker, *step, part);
    }
    for (const Coupling::Reader& reader : coupling.readers) {
      if (reader.matrix == matrix) transform_columns(from, reader, *step, part);
    }
  }
  return std::move(part.weight);
}

double SearchedLayer::predicted(const LayerSlopes& slopes,
                                const std::function<const float*(LayerMatrix)>& moments,
                                Backend& backend) const {
  double sum = 0;
  for (const Kept& kept : kept_) {
    const MatrixView& view = layout(kept.matrix);
    const auto cols = static_cast<std::size_t>(view.cols);
    std::vector<float> change = moved_back(kept.matrix);
    const std::vector<float> accepted = dequantized(kept.dense.weight.view);
    for (std::size_t i = 0; i < change.size(); ++i) change[i] -= accepted[i];
    std::vector<float> seen(change.size());
    const Linear product{float_matrix(moments(kept.matrix), Format::f32, view.cols, view.cols),
                         nullptr, seen.data(), view.cols, false};
    backend.linear({&product, 1}, change.data(), view.cols, view.rows);
    const LossSlope& slope = slopes[static_cast<std::size_t>(kept.matrix)];
    for (std::size_t r = 0; r < slope.curvature.size(); ++r) {
      double along = 0, squares = 0;
      for (std::size_t i = r * cols; i < (r + 1) * cols; ++i) {
        along += static_cast<double>(slope.gradient[i] * change[i]);
        squares += static_cast<double>(seen[i] * change[i]);
      }
      sum += along + squares * static_cast<double>(slope.curvature[r]);
    }
  }
  return sum;
}

void SearchedLayer::accept() {
  for (auto& [c, next] : applied_) transforms_[c] = std::move(next);
  applied_.clear();
  kept_.clear();
  kept_norms_.clear();
}

void SearchedLayer::undo() {
  for (Kept& kept : kept_) {
    dense_of(now_, kept.matrix) = std::move(kept.dense);
    if (!kept.columns.empty()) columns_[kept.matrix].weight = std::move(kept.columns);
  }
  for (auto& [norm, kept] : kept_norms_) norm_of(now_, norm) = std::move(kept);
  kept_.clear();
  kept_norms_.clear();
  applied_.clear();
}

}  // namespace tenfold
