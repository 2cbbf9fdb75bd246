#include "quantizer/search/searched_layer.h"

#include <algorithm>
#include <numeric>

#include "quantizer/panel.h"
#include "quantizer/search/remake.h"

namespace tenfold {
namespace {

bool same_place(const ChannelTransform& a, const ChannelTransform& b, std::size_t place) {
  if (a.order[place] != b.order[place]) return false;
  const auto channel = static_cast<std::size_t>(a.order[place]);
  const bool turns = channel / 2 < a.angle.size() && a.angle[channel / 2] != b.angle[channel / 2];
  return !turns && a.scale[channel] == b.scale[channel];
}

bool turned(const ChannelTransform& transform, std::size_t channel) {
  return channel / 2 < transform.angle.size() && transform.angle[channel / 2] != 0;
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
    for (std::size_t pair = 0; pair < next.angle.size(); ++pair) {
      const float angle = next.angle[pair] - before.angle[pair];
      if (angle != 0) source.turn(reader.first + 2 * static_cast<std::int64_t>(pair), angle);
    }
  }
  return source.of(forth, scale);
}

}  // namespace

SearchedLayer::SearchedLayer(const std::vector<Coupling>& couplings, FloatLayer source,
                             const LayerWeights& start, LayerWeights& now,
                             std::vector<ChannelTransform>& transforms, const Remaking& remaking,
                             ThreadPool& pool)
    : couplings_(couplings),
      source_(std::move(source)),
      start_(start),
      now_(now),
      transforms_(transforms),
      remaking_(remaking),
      pool_(pool) {
  for (const Coupling& coupling : couplings_) {
    for (const Coupling::Reader& reader : coupling.readers) {
      columns_[reader.matrix] = source_[reader.matrix];
    }
  }
  for (std::size_t c = 0; c < couplings_.size(); ++c) {
    for (const Coupling::Reader& reader : couplings_[c].readers) {
      transform_columns(source_[reader.matrix], reader, transforms_[c], columns_[reader.matrix]);
    }
  }
}

const MatrixView& SearchedLayer::layout(LayerMatrix matrix) const {
  return dense_of(now_, matrix).weight.view;
}

void SearchedLayer::keep(LayerMatrix matrix) {
  for (const Kept& kept : kept_) {
    if (kept.matrix == matrix) return;
  }
  Dense& dense = dense_of(now_, matrix);
  QuantizedMatrix copy = copy_matrix(dense.weight.view);
  std::swap(copy, dense.weight);  // the model goes on with memory that may be written to
  kept_.push_back({matrix, {std::move(copy), dense.bias}, columns_[matrix].weight});
}

void SearchedLayer::apply(std::size_t c, const ChannelTransform& next, const Hessian* moments,
                          std::span<const float> row_importance) {
  const ChannelTransform& before = transforms_[c];
  applied_.emplace(c, next);
  for (const Coupling::Maker& maker : couplings_[c].makers) {
    make_rows(maker, before, next, row_importance);
  }
  make_columns(couplings_[c], before, next, moments);
}

void SearchedLayer::make_rows(const Coupling::Maker& maker, const ChannelTransform& before,
                              const ChannelTransform& next, std::span<const float> importance) {
  std::vector<RowMove> moves;
  std::vector<std::int64_t> rounded;
  for (std::size_t place = 0; place < next.order.size(); ++place) {
    if (same_place(before, next, place)) continue;
    const auto channel = static_cast<std::size_t>(next.order[place]);
    const std::int64_t row = maker.first + static_cast<std::int64_t>(place);
    if (turned(next, channel)) {
      rounded.push_back(row);
      continue;
    }
    moves.push_back({row, maker.first + static_cast<std::int64_t>(channel),
                     power_of(next.scale[channel], maker.power)});
  }
  if (moves.empty() && rounded.empty()) return;
  keep(maker.matrix);
  Dense& dense = dense_of(now_, maker.matrix);
  move_rows(dense_of(start_, maker.matrix).weight.view, moves, dense.weight, pool_);
  if (rounded.empty() && dense.bias.empty()) return;
  FloatLayer::Part made = source_[maker.matrix];
  transform_rows(source_[maker.matrix], maker, next, made);
  round_rows(made.weight.data(), rounded, remaking_.range,
             remaking_.weighted ? importance : std::span<const float>(), dense.weight, pool_);
  if (!dense.bias.empty()) {
    std::copy_n(made.bias.begin() + maker.first, next.order.size(),
                dense.bias.begin() + maker.first);
  }
}

void SearchedLayer::make_columns(const Coupling& coupling, const ChannelTransform& before,
                                 const ChannelTransform& next, const Hessian* moments) {
  if (coupling.readers.empty()) return;
  const LayerMatrix matrix = coupling.readers.front().matrix;  // of all readers
  const MatrixView& view = layout(matrix);
  const std::vector<ColumnGroup> groups = column_groups(view);
  std::vector<bool> changed(static_cast<std::size_t>(view.cols));
  for (const Coupling::Reader& reader : coupling.readers) {
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
  keep(matrix);
  for (const Coupling::Reader& reader : coupling.readers) {
    transform_columns(source_[matrix], reader, next, columns_[matrix]);
  }
  std::optional<Hessian> moved;
  if (moments != nullptr) moved = moved_moments(*moments, coupling, before, next);
  round_groups(columns_[matrix].weight.data(), touched,
               {remaking_.range, remaking_.weighted, moved ? &*moved : nullptr, remaking_.damping},
               dense_of(now_, matrix).weight, pool_);
}

void SearchedLayer::accept() {
  transforms_[applied_->first] = std::move(applied_->second);
  applied_.reset();
  kept_.clear();
}

void SearchedLayer::undo() {
  for (Kept& kept : kept_) {
    dense_of(now_, kept.matrix) = std::move(kept.dense);
    columns_[kept.matrix].weight = std::move(kept.columns);
  }
  kept_.clear();
  applied_.reset();
}

}  // namespace tenfold
