#include "quantizer/search/moves.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>
#include <vector>

namespace tenfold {
namespace {

constexpr double kShare = 0.1;          // of the channels that a random move changes
constexpr float kLeastScale = 1e-3f;    // a channel that is scaled to nothing never returns
constexpr double kScreenedScale = 0.2;  // standard deviation of a screened scale's logarithm
constexpr double kScreenedAngle = 0.3;  // of a screened angle
// What all channels are scaled by at first: these powers of their inputs' mean squares.
constexpr float kPowers[] = {-0.1f, -0.05f, 0.05f, 0.1f};
constexpr float kLeastPower = 1e-6f;  // of the mean: the least that a silent channel counts

// Sets what all readers of the coupling have at a place.
void set_place(const Coupling& coupling, std::int64_t place, std::int64_t from, float factor,
               ColumnChange& change, std::vector<std::int64_t>& columns) {
  for (const Coupling::Reader& reader : coupling.readers) {
    const std::int64_t col = reader.first + place;
    change.from[static_cast<std::size_t>(col)] = static_cast<std::int32_t>(reader.first + from);
    change.factor[static_cast<std::size_t>(col)] = factor;
    columns.push_back(col);
  }
}

class ScreenedMove {
 public:
  ScreenedMove(const Coupling& coupling, Screen& screen)
      : coupling_(coupling), screen_(screen), next_(screen.change()) {}

  std::int64_t from(std::int64_t place) const {
    return screen_.change().from[column(place)] - coupling_.readers.front().first;
  }
  float factor(std::int64_t place) const { return screen_.change().factor[column(place)]; }

  bool swap(std::int64_t a, std::int64_t b) {
    columns_.clear();
    const std::int64_t from_a = from(a);
    const float factor_a = factor(a);
    set_place(coupling_, a, from(b), factor(b), next_, columns_);
    set_place(coupling_, b, from_a, factor_a, next_, columns_);
    return improve();
  }
  bool scale(std::int64_t place, float by) {
    columns_.clear();
    set_place(coupling_, place, from(place), factor(place) * by, next_, columns_);
    return improve();
  }
  // All of them, by a power of their inputs' mean squares: AWQ's scales.
  bool scale_by_power(std::span<const float> power, float exponent) {
    columns_.clear();
    const auto all = static_cast<float>(power.size());
    const float least = kLeastPower * std::accumulate(power.begin(), power.end(), 0.0f) / all;
    if (!(least > 0)) return false;
    double sum = 0;
    std::vector<float> by;
    for (std::int64_t place = 0; place < coupling_.channels; ++place) {
      const float p =
          power[static_cast<std::size_t>(coupling_.readers.front().first + from(place))];
      by.push_back(std::pow(std::max(p, least), exponent));
      sum += std::log(static_cast<double>(by.back()));
    }
    const auto middle = static_cast<float>(std::exp(sum / static_cast<double>(by.size())));
    for (std::int64_t place = 0; place < coupling_.channels; ++place) {
      set_place(coupling_, place, from(place),
                factor(place) * by[static_cast<std::size_t>(place)] / middle, next_, columns_);
    }
    return improve();
  }
  // Of the accepted columns, unscaled.
  bool reorder(const std::vector<std::int64_t>& places) {
    columns_.clear();
    for (std::size_t p = 0; p < places.size(); ++p) {
      set_place(coupling_, static_cast<std::int64_t>(p), places[p], 1.0f, next_, columns_);
    }
    return improve();
  }
  std::size_t group(std::int64_t place) const {
    return screen_.group_of(coupling_.readers.front().first + place);
  }

 private:
  std::size_t column(std::int64_t place) const {
    return static_cast<std::size_t>(coupling_.readers.front().first + place);
  }
  bool improve() {
    if (screen_.improve(next_, columns_)) return true;
    for (const std::int64_t col : columns_) {
      const auto c = static_cast<std::size_t>(col);
      next_.from[c] = screen_.change().from[c];
      next_.factor[c] = screen_.change().factor[c];
    }
    return false;
  }

  const Coupling& coupling_;
  Screen& screen_;
  ColumnChange next_;
  std::vector<std::int64_t> columns_;
};

// Places by the largest weight of their column, by the root mean square, and by that times the
// size of its input.
std::vector<std::vector<std::int64_t>> sorted_places(const Coupling& coupling,
                                                     std::span<const float> power,
                                                     const float* columns, std::int64_t rows,
                                                     std::int64_t cols) {
  const auto n = static_cast<std::size_t>(coupling.channels);
  std::vector<std::vector<double>> keys(3, std::vector<double>(n));
  for (std::size_t p = 0; p < n; ++p) {
    const std::int64_t col = coupling.readers.front().first + static_cast<std::int64_t>(p);
    double squares = 0;
    for (std::int64_t r = 0; r < rows; ++r) {
      const auto w = static_cast<double>(columns[r * cols + col]);
      keys[0][p] = std::max(keys[0][p], std::fabs(w));
      squares += w * w;
    }
    keys[1][p] = squares;
    keys[2][p] = squares * static_cast<double>(power[static_cast<std::size_t>(col)]);
  }
  std::vector<std::vector<std::int64_t>> result;
  for (const std::vector<double>& key : keys) {
    std::vector<std::int64_t>& places = result.emplace_back(n);
    std::iota(places.begin(), places.end(), 0);
    std::stable_sort(places.begin(), places.end(), [&](std::int64_t a, std::int64_t b) {
      return key[static_cast<std::size_t>(a)] > key[static_cast<std::size_t>(b)];
    });
  }
  return result;
}

// A pair's rows, [2, cols] one after the other, and what rounding them misses.
struct RoundedPair {
  std::vector<float> values;
  double missed = 0;
};

void round_row(const float* row, const RowScreen::Maker& maker, const RowScreen& screen,
               RoundedPair& out) {
  const std::span<const float> importance =
      screen.weighted ? maker.power : std::span<const float>();
  for (const ColumnGroup& group : column_groups(*maker.layout)) {
    const Grid grid = fit_columns(row, group, *maker.layout, screen.range, importance);
    const int bits = group_bits(group, *maker.layout);
    for (std::int64_t c = group.begin; c < group.end; ++c) {
      std::uint8_t code = 0;
      out.values.push_back(nearest_value(row[c], grid, bits, code));
      const float e = row[c] - out.values.back();
      out.missed += static_cast<double>(maker.power[static_cast<std::size_t>(c)] * e * e);
    }
  }
}

RoundedPair round_pair(const std::vector<float>& rows, const RowScreen::Maker& maker,
                       const RowScreen& screen) {
  const float* a = rows.data();
  const float* b = a + screen.cols;
  RoundedPair out;
  if (maker.compensation == nullptr) {
    round_row(a, maker, screen, out);
    round_row(b, maker, screen, out);
    return out;
  }
  const RowToCompensate both[] = {{a, {}}, {b, {}}};
  out.values.resize(rows.size());
  float* values = out.values.data();
  for (const CompensatedRow& made : maker.compensation->round(
           both, screen.range, screen.weighted ? maker.power : std::span<const float>())) {
    out.missed += made.loss;
    for (std::size_t t = 0; t < made.codes.size(); ++t) {
      const Grid& grid = made.grids[maker.compensation->group_of_turn()[t]];
      values[maker.compensation->columns()[t]] =
          grid.scale * static_cast<float>(made.codes[t]) + grid.min;
    }
    values += screen.cols;
  }
  return out;
}

// change M change^T.
double moment_of(const float* change, const float* moments, std::size_t cols,
                 std::vector<float>& scratch) {
  scratch.assign(cols, 0.0f);
  for (std::size_t i = 0; i < cols; ++i) {
    const float* row = moments + i * cols;
    for (std::size_t j = 0; j < cols; ++j) scratch[j] += change[i] * row[j];
  }
  double sum = 0;
  for (std::size_t j = 0; j < cols; ++j) sum += static_cast<double>(scratch[j] * change[j]);
  return sum;
}

class TurnScreen {
 public:
  TurnScreen(const ChannelTransform& now, const RowScreen& screen)
      : now_(now),
        screen_(screen),
        place_of_(now.order.size()),
        slopes_(screen.makers.front().gradient != nullptr) {
    for (std::size_t place = 0; place < now.order.size(); ++place) {
      place_of_[static_cast<std::size_t>(now.order[place])] = place;
    }
  }

  // Of the pair as accepted.
  double start(std::size_t pair) const { return slopes_ ? 0.0 : error(pair, now_.angle[pair]); }
  // Of the pair turned by the angle, over all makers.
  double error(std::size_t pair, float angle) const {
    const auto cols = static_cast<std::size_t>(screen_.cols);
    const float cosine = std::cos(angle), sine = std::sin(angle);
    std::vector<float> rows(2 * cols);
    double error = 0;
    for (const RowScreen::Maker& maker : screen_.makers) {
      const float* a = maker.rows + 2 * pair * cols;
      const float* b = a + cols;
      double held = 0;
      for (std::size_t c = 0; c < cols; ++c) {
        rows[c] = cosine * a[c] - sine * b[c];
        rows[cols + c] = sine * a[c] + cosine * b[c];
        held += static_cast<double>(maker.power[c] * (a[c] * a[c] + b[c] * b[c]));
      }
      RoundedPair rounded = round_pair(rows, maker, screen_);
      if (slopes_) {
        error += predicted(maker, pair, angle - now_.angle[pair], rounded.values);
      } else if (held > 0) {
        error += rounded.missed / held;
      }
    }
    return error;
  }

 private:
  double predicted(const RowScreen::Maker& maker, std::size_t pair, float turn,
                   std::vector<float>& rounded) const {
    const auto cols = static_cast<std::size_t>(screen_.cols);
    float* rows[] = {rounded.data(), rounded.data() + cols};
    const float cosine = std::cos(turn), sine = std::sin(turn);
    for (std::size_t c = 0; c < cols; ++c) {
      const float a = rows[0][c], b = rows[1][c];
      rows[0][c] = cosine * a + sine * b;
      rows[1][c] = cosine * b - sine * a;
    }
    std::vector<float> scratch;
    double sum = 0;
    for (const std::size_t i : {0, 1}) {
      const std::size_t channel = 2 * pair + i, place = place_of_[channel];
      const float scale = power_of(now_.scale[channel], maker.scale_power);
      const float* accepted = maker.accepted + place * cols;
      const float* gradient = maker.gradient + place * cols;
      for (std::size_t c = 0; c < cols; ++c) {
        rows[i][c] = scale * rows[i][c] - accepted[c];
        sum += static_cast<double>(gradient[c] * rows[i][c]);
      }
      sum += static_cast<double>(maker.curvature[place]) *
             moment_of(rows[i], screen_.moments, cols, scratch);
    }
    return sum;
  }

  const ChannelTransform& now_;
  const RowScreen& screen_;
  std::vector<std::size_t> place_of_;  // of each channel
  bool slopes_;
};

}  // namespace

ChannelTransform random_move(const ChannelTransform& now, const Coupling& coupling,
                             const SearchOptions& options, StepRandom& random) {
  const auto pairs = static_cast<std::uint64_t>(coupling.channels / 2);
  const auto members = std::max<std::uint64_t>(
      1, static_cast<std::uint64_t>(std::llround(kShare * static_cast<double>(coupling.channels))) /
             2);
  std::vector<std::size_t> all(pairs);
  std::iota(all.begin(), all.end(), std::size_t{0});
  std::vector<std::size_t> channels;
  ChannelTransform next = now;
  for (std::uint64_t i = 0; i < std::min(members, pairs); ++i) {
    std::swap(all[i], all[i + random.below(pairs - i)]);
    channels.push_back(2 * all[i]);
    channels.push_back(2 * all[i] + 1);
    if (options.rotate && coupling.rotation != Exactness::none) {
      next.angle[all[i]] += static_cast<float>(options.rotate_step * random.normal());
    }
  }
  for (std::size_t i = channels.size(); i > 1; --i) {
    std::swap(channels[i - 1], channels[random.below(i)]);
  }
  if (options.scale && coupling.scale != Exactness::none) {
    for (const std::size_t channel : channels) {
      if (coupling.scales_pairs && channel % 2 == 1) continue;
      const float scale =
          std::max(kLeastScale,
                   next.scale[channel] + static_cast<float>(options.scale_step * random.normal()));
      next.scale[channel] = scale;
      if (coupling.scales_pairs) next.scale[channel + 1] = scale;
    }
  }
  if (options.permute && coupling.permutation != Exactness::none) {
    const std::int32_t first = next.order[channels.front()];
    for (std::size_t i = 0; i + 1 < channels.size(); ++i) {
      next.order[channels[i]] = next.order[channels[i + 1]];
    }
    next.order[channels.back()] = first;
  }
  return next;
}

std::optional<ChannelTransform> screened_move(const ChannelTransform& now, const Coupling& coupling,
                                              const SearchOptions& options, Screen& screen,
                                              std::span<const float> power, const float* columns,
                                              std::int64_t rows, std::int64_t cols,
                                              StepRandom& random) {
  ScreenedMove move(coupling, screen);
  const auto n = static_cast<std::uint64_t>(coupling.channels);
  const bool scales = options.scale && coupling.scale != Exactness::none;
  const bool permutes = options.permute && coupling.permutation != Exactness::none &&
                        move.group(0) != move.group(coupling.channels - 1);
  bool changed = false;
  if (permutes) {
    for (const auto& places : sorted_places(coupling, power, columns, rows, cols)) {
      changed |= move.reorder(places);
    }
  }
  if (scales) {
    for (const float exponent : kPowers) changed |= move.scale_by_power(power, exponent);
  }
  for (std::int64_t i = 0; i < options.local && (permutes || scales); ++i) {
    const auto place = static_cast<std::int64_t>(random.below(n));
    if (scales && (!permutes || random.below(2) == 0)) {
      changed |= move.scale(place, static_cast<float>(std::exp(kScreenedScale * random.normal())));
      continue;
    }
    const auto other = static_cast<std::int64_t>(random.below(n));
    if (move.group(place) != move.group(other)) changed |= move.swap(place, other);
  }
  if (!changed) return std::nullopt;
  ChannelTransform next = now;
  for (std::int64_t place = 0; place < coupling.channels; ++place) {
    const std::int32_t channel = now.order[static_cast<std::size_t>(move.from(place))];
    next.order[static_cast<std::size_t>(place)] = channel;
    next.scale[static_cast<std::size_t>(channel)] =
        std::clamp(now.scale[static_cast<std::size_t>(channel)] * move.factor(place), kLeastScale,
                   1 / kLeastScale);
  }
  return next;
}

std::optional<ChannelTransform> screened_turn(const ChannelTransform& now, const Coupling& coupling,
                                              const SearchOptions& options, const RowScreen& screen,
                                              StepRandom& random) {
  const TurnScreen turns(now, screen);
  ChannelTransform next = now;
  std::vector<std::optional<double>> errors(next.angle.size());
  bool changed = false;
  for (std::int64_t i = 0; i < options.local; ++i) {
    const auto pair =
        static_cast<std::size_t>(random.below(static_cast<std::uint64_t>(coupling.channels / 2)));
    if (!errors[pair]) errors[pair] = turns.start(pair);
    const float angle = next.angle[pair] + static_cast<float>(kScreenedAngle * random.normal());
    const double error = turns.error(pair, angle);
    if (!(error < *errors[pair])) continue;
    errors[pair] = error;
    next.angle[pair] = angle;
    changed = true;
  }
  if (!changed) return std::nullopt;
  return next;
}

}  // namespace tenfold
