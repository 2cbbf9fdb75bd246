// Operations that the backend does together: the bits of one after the other.

#include <gtest/gtest.h>

#include <functional>
#include <string>

#include "tests/cuda/backend/on_device.h"
#include "tests/support/packed_matrix.h"
#include "tests/support/random.h"
#include "tests/support/scratch_folder.h"

namespace tenfold {
namespace {

using testing::on_device;
using testing::ScratchFolder;

constexpr float kEps = 1e-5f;
constexpr std::int64_t kRows = 40;

class CudaOperations : public testing::CudaTest {
 protected:
  float* upload(const std::vector<float>& values) {
    memory_.push_back(backend_->allocate(values.size() * sizeof(float)));
    backend_->to_device(memory_.back().data(), values.data(), values.size() * sizeof(float));
    return memory_.back().as<float>();
  }
  std::vector<float> read(const float* from, std::size_t n) {
    std::vector<float> values(n);
    backend_->to_host(values.data(), from, n * sizeof(float));
    return values;
  }

  ScratchFolder folder_;
  testing::LaunchLog log_{folder_};
  std::unique_ptr<Backend> backend_ = on_device();
  std::vector<Buffer> memory_;
};

class CudaMadeRowsOf : public CudaOperations {
 protected:
  using Make = std::function<void(float* y)>;
  // y and the products of `weights` with it, read at once, or after y was looked at.
  std::vector<std::vector<float>> products(const Make& make, const std::vector<MatrixView>& weights,
                                           std::int64_t tokens, bool look) {
    const std::int64_t dim = weights[0].cols;
    const auto n = static_cast<std::size_t>(tokens * dim);
    float* y = upload(std::vector<float>(n));
    std::vector<Linear> parts;
    for (const MatrixView& weight : weights) {
      float* out = upload(std::vector<float>(static_cast<std::size_t>(tokens * kRows)));
      parts.push_back({weight, nullptr, out, kRows, false});
    }
    make(y);
    if (look) backend_->on_host(y, n);
    backend_->linear(parts, y, dim, tokens);
    std::vector<std::vector<float>> found = {read(y, n)};
    for (const Linear& part : parts) {
      found.push_back(read(part.y, static_cast<std::size_t>(tokens * kRows)));
    }
    return found;
  }
  void check(const Make& make, const std::vector<MatrixView>& weights, std::int64_t tokens,
             const char* kernel, bool taken = true) {
    const auto apart = products(make, weights, tokens, true);
    log_.begin();
    const auto together = products(make, weights, tokens, false);
    const std::string launched = log_.end();
    EXPECT_EQ(apart, together);
    if (launched.empty()) return;
    EXPECT_EQ(launched.find(kernel) != std::string::npos, taken) << launched;
  }
  // Each kind of row, for the weights.
  void check_all(const std::vector<MatrixView>& weights, std::int64_t tokens, bool taken = true) {
    const std::int64_t dim = weights[0].cols, n = tokens * dim;
    const float* x = upload(random_floats(static_cast<std::size_t>(n), 1));
    const float* up = upload(random_floats(static_cast<std::size_t>(n), 2));
    const auto weight = random_floats(static_cast<std::size_t>(dim), 3);
    const auto bias = random_floats(static_cast<std::size_t>(dim), 4);
    check([&](float* y) { backend_->rms_norm(x, weight.data(), kEps, tokens, dim, y); }, weights,
          tokens, "prepare_normed", taken);
    check(
        [&](float* y) {
          backend_->layer_norm(x, weight.data(), bias.data(), kEps, tokens, dim, y);
        },
        weights, tokens, "prepare_normed", taken);
    check([&](float* y) { backend_->silu_mul(x, up, n, y); }, weights, tokens, "prepare_gated",
          taken);
    backend_->forget(weight.data());
    backend_->forget(bias.data());
  }
};

const PackedMatrix& plain() {
  static const PackedMatrix matrix(kRows, 320, {{Format::q4, MinKind::zero, 0, 320, 64}});
  return matrix;
}

TEST_F(CudaMadeRowsOf, OneInput) {
  const PackedMatrix other(kRows, 320, {{Format::q2, MinKind::zero, 0, 320, 64}});
  for (const std::int64_t tokens : {1, 2, 5, 16, 33, 64}) {
    check_all({plain().view, other.view}, tokens);
  }
}

TEST_F(CudaMadeRowsOf, TwoMaps) {
  const PackedMatrix mapped(kRows, 320, {{Format::q4, MinKind::zero, 0, 320, 64}}, true);
  check_all({mapped.view, plain().view}, 3);
}

TEST_F(CudaMadeRowsOf, NotBeforeFloats) {
  const PackedMatrix floats(kRows, 320, {{Format::f16, MinKind::zero, 0, 320, 0}});
  check_all({floats.view, plain().view}, 3, false);
  check_all({floats.view}, 3, false);
}

TEST_F(CudaMadeRowsOf, NotForManyTokens) { check_all({plain().view}, 130, false); }

// What waits is done before anything else, of whatever rows, and in place at once.
TEST_F(CudaOperations, WaitsNoLongerThanToTheNext) {
  const auto x = random_floats(640, 1);
  const auto weight = random_floats(320, 2);
  float* in = upload(x);
  float* y = upload(std::vector<float>(640));
  float* z = upload(std::vector<float>(640));
  backend_->rms_norm(in, weight.data(), kEps, 2, 320, y);
  const auto expected = read(y, 640);
  EXPECT_NE(expected, std::vector<float>(640));
  backend_->rms_norm(in, weight.data(), kEps, 2, 320, z);
  backend_->relu(in, 640);
  EXPECT_EQ(read(z, 640), expected);
  backend_->to_device(in, x.data(), 640 * sizeof(float));
  backend_->rms_norm(in, weight.data(), kEps, 2, 320, in);
  EXPECT_EQ(read(in, 640), expected);
  backend_->forget(weight.data());
}

// A product reads other rows of what waits.
TEST_F(CudaOperations, ProductsOfAPartOfTheRows) {
  const auto x = random_floats(960, 1);
  const auto weight = random_floats(320, 2);
  const float* in = upload(x);
  float* y = upload(std::vector<float>(960));
  std::vector<std::vector<float>> found;
  for (const bool look : {false, true}) {
    float* out = upload(std::vector<float>(static_cast<std::size_t>(kRows)));
    backend_->rms_norm(in, weight.data(), kEps, 3, 320, y);
    if (look) backend_->on_host(y, 960);
    const Linear part{plain().view, nullptr, out, kRows, false};
    backend_->linear({&part, 1}, y + 320, 320, 1);
    found.push_back(read(out, kRows));
  }
  EXPECT_EQ(found[0], found[1]);
  backend_->forget(weight.data());
}

TEST_F(CudaOperations, TopLogits) {
  std::vector<float> logits(2 * 300, -1.0f);
  logits[7] = logits[200] = 3, logits[8] = 2, logits[300 + 299] = 5;
  std::vector<TopLogit> best(6);
  ASSERT_TRUE(backend_->top_k(upload(logits), 300, 2, 3, best.data()));
  const std::vector<TopLogit> expected = {{3, 7}, {3, 200}, {2, 8}, {5, 299}, {-1, 0}, {-1, 1}};
  EXPECT_EQ(best, expected);
}

}  // namespace
}  // namespace tenfold
