#include "quantizer/allocate/solver.h"

#include <algorithm>
#include <cmath>
#include <span>

#include "kernels/error.h"

namespace tenfold {
namespace {

constexpr int kBisections = 100;
// Of the sums' own rounding: a bound may be off by it.
constexpr double kSlack = 1e-9;

struct Point {
  std::int64_t cost;
  double loss;
  std::uint64_t index;  // of a combination, or of what the point was made from
};

// Those that no other beats, the cheapest first.
void keep_front(std::vector<Point>& points) {
  std::sort(points.begin(), points.end(), [](const Point& a, const Point& b) {
    if (a.cost != b.cost) return a.cost < b.cost;
    return a.loss != b.loss ? a.loss < b.loss : a.index < b.index;
  });
  std::size_t kept = 0;
  for (const Point& point : points) {
    if (kept == 0 || point.loss < points[kept - 1].loss) points[kept++] = point;
  }
  points.resize(kept);
}

class Combinations {
 public:
  explicit Combinations(const LayerChoices& layer) : layer_(layer), all_(layer.choices()) {
    std::size_t first = 0;
    for (const MatrixChoices& matrix : layer.matrices) {
      first_.push_back(first);
      first += matrix.cost.size();
    }
  }

  std::vector<Point> front() {
    visit(0, {0, 0.0, 0});
    keep_front(points_);
    points_.shrink_to_fit();  // not with the room of all that were beaten
    return std::move(points_);
  }

 private:
  void visit(std::size_t m, const Point& so_far) {
    if (m == layer_.matrices.size()) {
      points_.push_back(so_far);
      if (points_.size() > kMostAtOnce) keep_front(points_);
      return;
    }
    const MatrixChoices& matrix = layer_.matrices[m];
    for (std::size_t c = 0; c < matrix.cost.size(); ++c) {
      double loss = so_far.loss + matrix.loss[c];
      for (std::size_t before = 0; before < m && !layer_.cross.empty(); ++before) {
        loss += layer_.cross[chosen_[before] * all_ + first_[m] + c];
      }
      chosen_.push_back(first_[m] + c);
      visit(m + 1, {so_far.cost + matrix.cost[c], loss, so_far.index * matrix.cost.size() + c});
      chosen_.pop_back();
    }
  }

  static constexpr std::size_t kMostAtOnce = std::size_t{1} << 20;
  const LayerChoices& layer_;
  std::size_t all_;
  std::vector<std::size_t> first_;   // choice of each matrix
  std::vector<std::size_t> chosen_;  // of the matrices so far
  std::vector<Point> points_;
};

LayerAnswer answer_of(const LayerChoices& layer, std::uint64_t index) {
  LayerAnswer answer(layer.matrices.size());
  for (std::size_t m = answer.size(); m-- > 0;) {
    const std::uint64_t choices = layer.matrices[m].cost.size();
    answer[m] = static_cast<std::size_t>(index % choices);
    index /= choices;
  }
  return answer;
}

const Point& cheapest_at(const std::vector<Point>& front, double price) {
  const auto value = [&](const Point& p) { return p.loss + price * static_cast<double>(p.cost); };
  return *std::min_element(front.begin(), front.end(), [&](const Point& a, const Point& b) {
    return value(a) != value(b) ? value(a) < value(b) : a.cost < b.cost;
  });
}

// Joins the fronts of the layers within the budget.
class Joined {
 public:
  Joined(const std::vector<std::vector<Point>>& fronts, std::int64_t budget)
      : fronts_(fronts), budget_(budget) {
    find_price();
    const std::size_t n = fronts.size();
    least_cost_.assign(n + 1, 0);
    bound_.assign(n + 1, 0.0);
    for (std::size_t k = n; k-- > 0;) {
      const Point& best = cheapest_at(fronts[k], price_);
      least_cost_[k] = least_cost_[k + 1] + fronts[k].front().cost;
      bound_[k] = bound_[k + 1] + best.loss + price_ * static_cast<double>(best.cost);
    }
  }

  // A point of each front.
  std::vector<std::size_t> best() {
    std::vector<std::vector<Point>> steps;
    std::vector<Point> states = {{0, 0.0, 0}};
    for (std::size_t k = 0; k < fronts_.size(); ++k) {
      states = step(states, k);
      steps.push_back(states);
    }
    std::vector<std::size_t> chosen(fronts_.size());
    std::size_t state = steps.back().size() - 1;  // the dearest has the least loss
    for (std::size_t k = fronts_.size(); k-- > 0;) {
      const std::uint64_t index = steps[k][state].index;
      chosen[k] = static_cast<std::size_t>(index % fronts_[k].size());
      state = static_cast<std::size_t>(index / fronts_[k].size());
    }
    return chosen;
  }

 private:
  // The least price of cost at which the layers' own best points keep within the budget; what they
  // lose is more than the answer does.
  void find_price() {
    double low = 0, high = 1e-12;
    while (!fits(high)) low = high, high *= 2;
    if (fits(0)) high = 0;
    for (int i = 0; i < kBisections && high > 0; ++i) {
      const double middle = low + (high - low) / 2;
      (fits(middle) ? high : low) = middle;
    }
    price_ = high;
    for (const auto& front : fronts_) most_ += cheapest_at(front, high).loss;
  }

  bool fits(double price) const {
    std::int64_t cost = 0;
    for (const auto& front : fronts_) cost += cheapest_at(front, price).cost;
    return cost <= budget_;
  }

  std::vector<Point> step(const std::vector<Point>& states, std::size_t k) const {
    const std::vector<Point>& front = fronts_[k];
    const double slack = kSlack * (std::fabs(most_) + price_ * static_cast<double>(budget_));
    std::vector<Point> next;
    for (std::size_t s = 0; s < states.size(); ++s) {
      for (std::size_t p = 0; p < front.size(); ++p) {
        const std::int64_t cost = states[s].cost + front[p].cost;
        if (cost + least_cost_[k + 1] > budget_) break;
        const double loss = states[s].loss + front[p].loss;
        const double reached = loss + bound_[k + 1] + price_ * static_cast<double>(cost - budget_);
        if (reached > most_ + slack) continue;
        next.push_back({cost, loss, static_cast<std::uint64_t>(s * front.size() + p)});
      }
    }
    keep_front(next);
    return next;
  }

  const std::vector<std::vector<Point>>& fronts_;
  std::int64_t budget_;
  double price_ = 0;
  double most_ = 0;                       // loss of an answer within the budget
  std::vector<std::int64_t> least_cost_;  // of the layers from k on
  std::vector<double> bound_;             // of their losses and the price of their costs
};

}  // namespace

std::size_t LayerChoices::choices() const noexcept {
  std::size_t all = 0;
  for (const MatrixChoices& matrix : matrices) all += matrix.cost.size();
  return all;
}

std::int64_t cost_of(const LayerChoices& layer, const LayerAnswer& answer) noexcept {
  std::int64_t cost = 0;
  for (std::size_t m = 0; m < answer.size(); ++m) cost += layer.matrices[m].cost[answer[m]];
  return cost;
}

double loss_of(const LayerChoices& layer, const LayerAnswer& answer) noexcept {
  const std::size_t all = layer.choices();
  double loss = 0;
  std::vector<std::size_t> chosen;
  std::size_t first = 0;
  for (std::size_t m = 0; m < answer.size(); ++m) {
    loss += layer.matrices[m].loss[answer[m]];
    for (const std::size_t before : chosen) {
      if (!layer.cross.empty()) loss += layer.cross[before * all + first + answer[m]];
    }
    chosen.push_back(first + answer[m]);
    first += layer.matrices[m].cost.size();
  }
  return loss;
}

std::vector<LayerAnswer> solve_budget(const std::vector<LayerChoices>& layers,
                                      std::int64_t budget) {
  std::vector<std::vector<Point>> fronts;
  std::int64_t least = 0;
  for (const LayerChoices& layer : layers) {
    fronts.push_back(Combinations(layer).front());
    least += fronts.back().front().cost;
  }
  if (least > budget) {
    throw_error(ErrorCode::bad_request,
                "the layers' matrices take {} bytes at the least, and the target leaves them {}: a "
                "larger target, larger groups or fewer bits would do",
                least, budget);
  }
  std::vector<LayerAnswer> answers;
  const std::vector<std::size_t> points = Joined(fronts, budget).best();
  for (std::size_t k = 0; k < layers.size(); ++k) {
    answers.push_back(answer_of(layers[k], fronts[k][points[k]].index));
  }
  return answers;
}

}  // namespace tenfold
