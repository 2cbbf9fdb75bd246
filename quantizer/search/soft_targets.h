#pragma once
// What the full-precision model expects of each next token, as the target of another model: its
// likeliest tokens one by one, all others as one. The text's own token is a single draw from about
// that distribution, so losses against all of it say the same with far less chance in them.

#include <cstdint>
#include <span>
#include <vector>

namespace tenfold {

class SoftTargets {
 public:
  explicit SoftTargets(std::int64_t vocab);
  // The teacher's logits [vocab] of the next row, and the logarithm of their exponentials' sum.
  void add(const float* logits, double log_sum);
  // -sum p log q of another model's row, over the tokens that are kept and over the rest as one.
  double cross_entropy(std::size_t row, const float* logits, double log_sum) const;
  // Its gradient, d [vocab], with respect to the logits.
  void gradient(std::size_t row, const float* logits, double log_sum, float* d) const;

 private:
  struct Rest {
    double teacher, model;  // what each leaves to the tokens that are not kept
  };
  Rest rest_of(std::size_t row, const float* logits, double log_sum) const;
  bool keeps_all() const noexcept { return static_cast<std::int64_t>(kept_) == vocab_; }

  std::int64_t vocab_;
  std::size_t kept_;
  std::vector<std::int32_t> ids_;  // [rows, kept]
  std::vector<float> p_;
  std::vector<std::int32_t> order_;
};

}  // namespace tenfold
