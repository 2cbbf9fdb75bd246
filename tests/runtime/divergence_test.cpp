#include "runtime/divergence.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/random.h"

namespace tenfold {
namespace {

double plain_kl(const std::vector<float>& p, const std::vector<float>& q) {
  long double sum_p = 0;
  long double sum_q = 0;
  for (const float x : p) sum_p += std::exp(static_cast<long double>(x));
  for (const float x : q) sum_q += std::exp(static_cast<long double>(x));
  long double kl = 0;
  for (std::size_t i = 0; i < p.size(); ++i) {
    const long double log_p = static_cast<long double>(p[i]) - std::log(sum_p);
    const long double log_q = static_cast<long double>(q[i]) - std::log(sum_q);
    kl += std::exp(log_p) * (log_p - log_q);
  }
  return static_cast<double>(kl);
}

TEST(Divergence, OfTwoDistributions) {
  for (const std::size_t n : {2u, 17u, 1000u}) {
    std::vector<float> p = random_floats(n, 1);
    std::vector<float> q = random_floats(n, 2);
    for (float& x : p) x *= 8;
    for (float& x : q) x *= 8;
    const double expected = plain_kl(p, q);
    EXPECT_GT(expected, 0);
    EXPECT_NEAR(kl_divergence(p, q), expected, 1e-6 * expected);
    // Adding a constant to all logits changes no distribution.
    for (float& x : q) x += 64;
    EXPECT_NEAR(kl_divergence(p, q), expected, 1e-4 * expected);
    EXPECT_EQ(kl_divergence(p, p), 0);
  }
}

TEST(Divergence, OfCertainties) {
  EXPECT_NEAR(kl_divergence(std::vector<float>{0, -1e4f}, std::vector<float>{0, 0}), std::log(2.0),
              1e-6);
  EXPECT_NEAR(kl_divergence(std::vector<float>{0, 0}, std::vector<float>{0, -100}),
              50 - std::log(2.0), 1e-4);
}

}  // namespace
}  // namespace tenfold
