#include "quantizer/hessian.h"

#include <algorithm>
#include <cmath>

#include "kernels/cpu/isa.h"
#include "kernels/error.h"
#include "quantizer/transpose.h"

namespace tenfold {
namespace {

constexpr std::int64_t kTokens = 512;     // added up in float32
constexpr std::int64_t kBlock = 64;       // columns of a Cholesky step, a multiple of 4
constexpr std::size_t kSolvedRows = 128;  // that stay in the first cache
constexpr double kLeastDamping = 1e-6;    // where none was asked for, but is needed
constexpr double kMostDamping = 10.0;
constexpr double kLeastPower =
    1e-6;  // of the mean: an input that is always 0 counts as this strong

// Lower Cholesky factor of a [n, n], in place in the lower triangle; false where it is not
// positive definite. Sums are in column order, whatever the number of threads.
bool cholesky(std::vector<double>& a, std::int64_t n, ThreadPool& pool) {
  const auto at = [&](std::int64_t i) { return a.data() + i * n; };
  for (std::int64_t k = 0; k < n; k += kBlock) {
    const std::int64_t end = std::min(k + kBlock, n);
    for (std::int64_t j = k; j < end; ++j) {
      double pivot = at(j)[j];
      for (std::int64_t c = k; c < j; ++c) pivot -= at(j)[c] * at(j)[c];
      if (!(pivot > 0) || !std::isfinite(pivot)) return false;
      at(j)[j] = std::sqrt(pivot);
      for (std::int64_t i = j + 1; i < end; ++i) {
        double sum = at(i)[j];
        for (std::int64_t c = k; c < j; ++c) sum -= at(i)[c] * at(j)[c];
        at(i)[j] = sum / at(j)[j];
      }
    }
    const std::int64_t left = n - end;
    const auto blocks = static_cast<int>((left + kBlock - 1) / kBlock);
    const auto rows_of = [&](int block, auto&& row) {
      const std::int64_t begin = end + block * kBlock;
      for (std::int64_t i = begin; i < std::min(begin + kBlock, n); ++i) row(i);
    };
    pool.run(blocks, [&](int block, int) {
      rows_of(block, [&](std::int64_t i) {
        for (std::int64_t j = k; j < end; ++j) {
          double sum = at(i)[j];
          for (std::int64_t c = k; c < j; ++c) sum -= at(i)[c] * at(j)[c];
          at(i)[j] = sum / at(j)[j];
        }
      });
    });
    // The panel's transpose lets the update run along rows.
    std::vector<double> panel(static_cast<std::size_t>((end - k) * left));
    for (std::int64_t i = end; i < n; ++i) {
      for (std::int64_t c = k; c < end; ++c) {
        panel[static_cast<std::size_t>((c - k) * left + i - end)] = at(i)[c];
      }
    }
    pool.run(blocks, [&](int block, int) {
      rows_of(block, [&](std::int64_t i) {
        double* row = at(i) + end;
        const std::int64_t count = i - end + 1;
        for (std::int64_t c = k; c < end; c += 4) {  // rows are left only where the block is whole
          loops().subtract_four(at(i) + c, panel.data() + (c - k) * left, left, count, row);
        }
      });
    });
  }
  return true;
}

// [cols, tokens] of x [tokens, cols].
const float* turned(const float* x, std::int64_t tokens, std::int64_t cols, Scratch& scratch) {
  float* t = scratch.get<float>(static_cast<std::size_t>(cols * tokens));
  transpose(x, tokens, cols, t);
  return t;
}

// sum[i, j] += x_i . y_j, both [cols, tokens].
void add_products(const float* x, const float* y, std::int64_t tokens, std::int64_t cols,
                  Scratch& scratch, Backend& backend, std::vector<double>& sum) {
  float* product = scratch.get<float>(sum.size());
  const Linear by_y{float_matrix(y, Format::f32, cols, tokens), nullptr, product, cols, false};
  backend.linear({&by_y, 1}, x, tokens, cols);
  for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += static_cast<double>(product[i]);
}

void require_finite_diagonal(const std::vector<double>& sum, std::int64_t cols) {
  for (std::int64_t c = 0; c < cols; ++c) {
    if (std::isfinite(sum[static_cast<std::size_t>(c * cols + c)])) continue;
    throw_error(ErrorCode::bad_request,
                "an activation of the calibration text is not a finite number");
  }
}

}  // namespace

Hessian::Hessian(std::int64_t cols)
    : cols_(cols),
      sum_(static_cast<std::size_t>(cols * cols), 0.0),
      magnitude_(static_cast<std::size_t>(cols), 0.0) {}

void Hessian::add(const float* x, std::int64_t tokens, Backend& backend) {
  for (std::int64_t begin = 0; begin < tokens; begin += kTokens) {
    const std::int64_t n = std::min(kTokens, tokens - begin);
    const float* rows = x + begin * cols_;
    for (std::int64_t i = 0; i < n; ++i) {
      for (std::int64_t c = 0; c < cols_; ++c) {
        magnitude_[static_cast<std::size_t>(c)] +=
            static_cast<double>(std::fabs(rows[i * cols_ + c]));
      }
    }
    const float* t = turned(rows, n, cols_, transposed_);
    add_products(t, t, n, cols_, product_, backend, sum_);
  }
  tokens_ += tokens;
}

double Hessian::mean(std::int64_t i, std::int64_t j) const noexcept {
  return sum_[static_cast<std::size_t>(i * cols_ + j)] / static_cast<double>(tokens_);
}

Hessian Hessian::of(std::span<const std::int32_t> columns, std::span<const float> factors) const {
  const auto n = columns.empty() ? cols_ : static_cast<std::int64_t>(columns.size());
  const auto from = [&](std::int64_t i) {
    return columns.empty() ? i : std::int64_t{columns[static_cast<std::size_t>(i)]};
  };
  const auto factor = [&](std::int64_t i) {
    return factors.empty() ? 1.0 : static_cast<double>(factors[static_cast<std::size_t>(i)]);
  };
  Hessian result(n);
  result.tokens_ = tokens_;
  for (std::int64_t i = 0; i < n; ++i) {
    const double* row = sum_.data() + from(i) * cols_;
    for (std::int64_t j = 0; j < n; ++j) {
      result.sum_[static_cast<std::size_t>(i * n + j)] = row[from(j)] * factor(i) * factor(j);
    }
    result.magnitude_[static_cast<std::size_t>(i)] =
        magnitude_[static_cast<std::size_t>(from(i))] * factor(i);
  }
  return result;
}

void Hessian::blend(const Hessian& other, double share) {
  const double scale = share * static_cast<double>(tokens_) / static_cast<double>(other.tokens_);
  for (std::size_t i = 0; i < sum_.size(); ++i) {
    sum_[i] = (1 - share) * sum_[i] + scale * other.sum_[i];
  }
  for (std::size_t i = 0; i < magnitude_.size(); ++i) {
    magnitude_[i] = (1 - share) * magnitude_[i] + scale * other.magnitude_[i];
  }
}

CrossMoments::CrossMoments(std::int64_t cols)
    : cols_(cols), sum_(static_cast<std::size_t>(cols * cols), 0.0) {}

void CrossMoments::add(const float* x, const float* y, std::int64_t tokens, Backend& backend) {
  for (std::int64_t begin = 0; begin < tokens; begin += kTokens) {
    const std::int64_t n = std::min(kTokens, tokens - begin);
    add_products(turned(x + begin * cols_, n, cols_, x_), turned(y + begin * cols_, n, cols_, y_),
                 n, cols_, product_, backend, sum_);
  }
  tokens_ += tokens;
}

double CrossMoments::mean(std::int64_t i, std::int64_t j) const noexcept {
  return sum_[static_cast<std::size_t>(i * cols_ + j)] / static_cast<double>(tokens_);
}

void Hessian::turn(std::int64_t i, float angle) {
  const double cosine = std::cos(static_cast<double>(angle));
  const double sine = std::sin(static_cast<double>(angle));
  const auto mix = [&](double& a, double& b) {
    const double first = cosine * a - sine * b;
    b = sine * a + cosine * b;
    a = first;
  };
  const auto at = [&](std::int64_t row, std::int64_t col) -> double& {
    return sum_[static_cast<std::size_t>(row * cols_ + col)];
  };
  for (std::int64_t c = 0; c < cols_; ++c) mix(at(i, c), at(i + 1, c));
  for (std::int64_t r = 0; r < cols_; ++r) mix(at(r, i), at(r, i + 1));
}

std::vector<float> Hessian::means() const {
  std::vector<float> result;
  result.reserve(sum_.size());
  for (std::int64_t i = 0; i < cols_; ++i) {
    for (std::int64_t j = 0; j < cols_; ++j) result.push_back(static_cast<float>(mean(i, j)));
  }
  return result;
}

std::vector<float> Hessian::diagonal() const {
  std::vector<float> result(static_cast<std::size_t>(cols_));
  for (std::int64_t c = 0; c < cols_; ++c) {
    result[static_cast<std::size_t>(c)] = static_cast<float>(mean(c, c));
  }
  return result;
}

std::vector<float> Hessian::mean_magnitude() const {
  std::vector<float> result;
  for (const double sum : magnitude_) {
    result.push_back(static_cast<float>(sum / static_cast<double>(tokens_)));
  }
  return result;
}

void Hessian::require_finite() const { require_finite_diagonal(sum_, cols_); }
void CrossMoments::require_finite() const { require_finite_diagonal(sum_, cols_); }

Feedback factor(const Hessian& hessian, const std::vector<std::int32_t>& order, double damping,
                ThreadPool& pool) {
  const std::int64_t n = hessian.cols();
  const auto size = static_cast<std::size_t>(n);
  const auto from = [&](std::int64_t i) {
    return order.empty() ? i : std::int64_t{order[static_cast<std::size_t>(i)]};
  };
  Feedback result;
  double trace = 0;
  for (std::int64_t i = 0; i < n; ++i) trace += hessian.mean(i, i);
  const double mean = trace > 0 ? trace / static_cast<double>(n) : 1.0;
  std::vector<double> a(size * size);
  for (result.damping = damping;; result.damping = std::max(10 * result.damping, kLeastDamping)) {
    // Columns in reverse: a lower factor of the reversed matrix is an upper one of H.
    for (std::int64_t i = 0; i < n; ++i) {
      const std::int64_t row = from(n - 1 - i);
      for (std::int64_t j = 0; j <= i; ++j) {
        a[static_cast<std::size_t>(i * n + j)] = hessian.mean(row, from(n - 1 - j));
      }
      double& diagonal = a[static_cast<std::size_t>(i * n + i)];
      diagonal += result.damping * std::max(diagonal, kLeastPower * mean);
    }
    if (cholesky(a, n, pool)) break;
    if (result.damping > kMostDamping) {
      throw_error(ErrorCode::bad_request, "the calibration inputs have no usable second moments");
    }
  }
  result.u.resize(size * size);
  result.d.resize(size);
  for (std::int64_t j = 0; j < n; ++j) {
    const std::int64_t col = n - 1 - j;
    const double pivot = a[static_cast<std::size_t>(col * n + col)];
    result.d[static_cast<std::size_t>(j)] = static_cast<float>(pivot * pivot);
    for (std::int64_t i = 0; i < j; ++i) {
      result.u[static_cast<std::size_t>(i * n + j)] =
          static_cast<float>(a[static_cast<std::size_t>((n - 1 - i) * n + col)] / pivot);
    }
  }
  return result;
}

void solve(const Feedback& feedback, std::span<SideBySide> x) {
  const std::size_t n = feedback.d.size();
  const auto left = [&](std::size_t i) { return static_cast<std::int64_t>(n - 1 - i); };
  for (std::size_t i = n; i-- > 0;) {
    const float* u = feedback.u.data() + i * n + i + 1;
    loops().subtract_products(u, x[i].data() + kSideBySide, left(i), x[i].data());
  }
  for (std::size_t i = 0; i < n; ++i) {
    for (double& value : x[i]) value /= static_cast<double>(feedback.d[i]);
  }
  for (std::size_t begin = 0; begin < n; begin += kSolvedRows) {
    const std::size_t end = std::min(begin + kSolvedRows, n);
    for (std::size_t i = 0; i < end; ++i) {
      const std::size_t first = std::max(begin, i + 1);
      if (first >= end) continue;
      loops().subtract_outer(feedback.u.data() + i * n + first, x[i].data(),
                             static_cast<std::int64_t>(end - first), x[first].data());
    }
  }
}

void solve(const Feedback& feedback, std::span<double> x) {
  const std::size_t n = feedback.d.size();
  for (std::size_t i = n; i-- > 0;) {
    x[i] -= loops().dot_double(feedback.u.data() + i * n + i + 1, x.data() + i + 1,
                               static_cast<std::int64_t>(n - 1 - i));
  }
  for (std::size_t i = 0; i < n; ++i) x[i] /= static_cast<double>(feedback.d[i]);
  for (std::size_t i = 0; i < n; ++i) {
    const float* u = feedback.u.data() + i * n;
    for (std::size_t j = i + 1; j < n; ++j) x[j] -= static_cast<double>(u[j]) * x[i];
  }
}

}  // namespace tenfold
