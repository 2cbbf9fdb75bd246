// Products on a CUDA device or the interpreter in front of one: every format, minimum and group
// over odd shapes and numbers of tokens. Against double within a derived tolerance, likewise
// against the scalar kernels; the same bits twice, and for a token alone and among others.

#include <array>
#include <cmath>
#include <deque>
#include <limits>
#include <stdexcept>

#include "tests/cuda/cuda_test.h"
#include "tests/cuda/one_token.h"
#include "tests/support/packed_matrix.h"

namespace tenfold {
namespace {

constexpr MinKind kMinKinds[] = {MinKind::zero, MinKind::midrise, MinKind::f16};
constexpr std::int64_t kGroups[] = {32, 64, 128, 0};
constexpr int kTokens[] = {1, 2, 4, 5, 8, 16, 33, 64, 128};
struct Extent {
  std::int64_t rows, cols;
};
constexpr Extent kExtents[] = {{1, 1}, {19, 330}, {16, 256}, {35, 1281}, {48, 31}};

struct Extras {
  bool bias = false, accumulate = false;
  std::int64_t gap = 0;  // between tokens of y
  float outlier = 4;
  int checked = 4;  // tokens that are compared with double, spread over all
};

class CudaPackedLinear : public CudaKernels {
 protected:
  static void check(const PackedMatrix& matrix, int tokens, const Extras& extras = {}) {
    const std::int64_t rows = matrix.view.rows, cols = matrix.view.cols, ldy = rows + extras.gap;
    const std::vector<float> x = activations_with_outliers(tokens, cols);
    const std::vector<float> bias = random_floats(static_cast<std::size_t>(rows), 3);
    const std::vector<float> y0 = random_floats(static_cast<std::size_t>(ldy * tokens), 4);
    DeviceRun run;
    run.outlier = extras.outlier;
    run.bias = extras.bias ? bias.data() : nullptr;
    run.accumulate = extras.accumulate;
    run.ldy = ldy;
    const std::vector<float> y = device_linear(matrix.view, x, tokens, y0, run);
    const int step = std::max(1, (tokens - 1) / std::max(1, extras.checked - 1));
    for (int t = 0; t < tokens; t += step) {
      const auto of = [&](const std::vector<float>& all, std::int64_t n) {
        return std::vector(all.begin() + t * n, all.begin() + (t + 1) * n);
      };
      const std::vector<float> one = of(y, ldy);
      if (tokens > 1 && (t == 0 || t + step >= tokens)) {
        ASSERT_EQ(one, device_linear(matrix.view, of(x, cols), 1, of(y0, ldy), run))
            << matrix.description << ": token " << t << " of " << tokens << " depends on its batch";
      }
      const OneToken token(matrix.view, x.data() + t * cols, extras.outlier);
      compare(token, one, of(y0, ldy), run, matrix.description);
      if (HasFatalFailure()) return;
    }
  }

  static void compare(const OneToken& token, const std::vector<float>& y,
                      const std::vector<float>& before, const DeviceRun& run,
                      const std::string& what) {
    const OneToken::Exact exact = token.exact();
    const std::size_t rows = exact.y.size();
    const std::vector<float> scalar = token.on_cpu(
        scalar_kernels(), {before.begin(), before.begin() + static_cast<std::ptrdiff_t>(rows)},
        run.bias, run.accumulate);
    // For each block and plane: the product of two scales, and two sums, which the scalar kernels
    // round twice each, and the factors' own; slices and quarters; then bias and y, for each of at
    // most four bands. Nothing rounded is larger than the norm.
    const double roundings = static_cast<double>(16 * token.blocks() + 4 * 24);
    for (std::size_t r = 0; r < rows; ++r) {
      const double more =
          (run.bias != nullptr ? run.bias[r] : 0.0) + (run.accumulate ? before[r] : 0.0);
      const double norm = exact.norm[r] + (run.bias != nullptr || run.accumulate ? 2.0 : 0.0);
      const double tolerance = roundings * norm * std::numeric_limits<float>::epsilon() / 2;
      ASSERT_NEAR(y[r], exact.y[r] + more, tolerance) << what << " row " << r;
      ASSERT_NEAR(y[r], scalar[r], 2 * tolerance) << what << " row " << r;
    }
    for (std::size_t r = rows; r < y.size(); ++r) ASSERT_EQ(y[r], before[r]) << "beyond the rows";
  }
};

PackedMatrix matrix_of(Format format, MinKind min, std::int64_t group, Extent extent) {
  return PackedMatrix(extent.rows, extent.cols, {{format, min, 0, extent.cols, group}});
}

// Each of these with two of the numbers of tokens and shapes in turn; all pairs: FullProduct.
TEST_F(CudaPackedLinear, EveryFormatMinimumAndGroup) {
  std::size_t turn = 0;
  for (const Format format : packed_formats()) {
    for (const MinKind min : kMinKinds) {
      for (const std::int64_t group : kGroups) {
        for (int i = 0; i < 2; ++i, ++turn) {
          check(matrix_of(format, min, group, kExtents[turn % std::size(kExtents)]),
                kTokens[turn % std::size(kTokens)], {turn % 2 == 0, turn % 3 == 0});
          if (HasFatalFailure()) return;
        }
      }
    }
  }
}

TEST_F(CudaPackedLinear, EveryNumberOfTokens) {
  for (const int tokens : kTokens) {
    for (const float outlier : {0.0f, 4.0f}) {
      check(matrix_of(Format::q2, MinKind::zero, 64, {67, 600}), tokens,
            {true, true, 5, outlier, 6});
      if (HasFatalFailure()) return;
    }
  }
}

// By hand: minutes on the interpreter.
TEST_F(CudaPackedLinear, DISABLED_FullProduct) {
  for (const Format format : packed_formats()) {
    for (const MinKind min : kMinKinds) {
      for (const std::int64_t group : kGroups) {
        for (const Extent extent : kExtents) {
          for (const int tokens : kTokens) {
            check(matrix_of(format, min, group, extent), tokens);
            if (HasFatalFailure()) return;
          }
        }
      }
    }
  }
}

TEST_F(CudaPackedLinear, BandsOfDifferentFormats) {
  for (const int tokens : {1, 3, 9, 40}) {
    for (const std::int64_t edge : {1, 128, 300, 511}) {
      check(PackedMatrix(21, 512,
                         {{Format::q4, MinKind::zero, 0, edge, 32},
                          {Format::q1, MinKind::f16, edge, 512, 128}},
                         true),
            tokens, {true, edge == 128});
      if (HasFatalFailure()) return;
    }
  }
}

// Two bands of 128 columns' blocks in one launch: the same bits as a launch for each.
class CudaTwoBands : public CudaPackedLinear {
 protected:
  struct Half {
    Format format;
    MinKind min_kind;
    std::int64_t group = 128;
  };
  static PackedMatrix mixed(Extent extent, std::int64_t edge, Half high, Half low) {
    return PackedMatrix(extent.rows, extent.cols,
                        {{high.format, high.min_kind, 0, edge, high.group},
                         {low.format, low.min_kind, edge, extent.cols, low.group}},
                        true);
  }
  static void check_one_launch(const PackedMatrix& matrix, int tokens, const Extras& extras = {},
                               LaunchShape shape = {}, int times = 1) {
    const std::int64_t rows = matrix.view.rows, ldy = rows + extras.gap;
    const std::vector<float> x = activations_with_outliers(tokens, matrix.view.cols);
    const std::vector<float> bias = random_floats(static_cast<std::size_t>(rows), 3);
    const std::vector<float> y0 = random_floats(static_cast<std::size_t>(ldy * tokens), 4);
    DeviceRun run;
    run.bias = extras.bias ? bias.data() : nullptr;
    run.accumulate = extras.accumulate;
    run.ldy = ldy;
    run.outlier = extras.outlier;
    run.by_band = true;
    const std::vector<float> expected = device_linear(matrix.view, x, tokens, y0, run);
    run.by_band = false;
    run.shape = shape;
    const int run_tokens = shape.tile_tokens != 0 ? shape.tile_tokens : 16;
    run.launches = (tokens + run_tokens - 1) / run_tokens;
    for (int i = 0; i < times; ++i) {
      ASSERT_EQ(expected, device_linear(matrix.view, x, tokens, y0, run))
          << matrix.description << ", " << tokens << " tokens";
    }
  }
};

constexpr Format kHighFormats[] = {Format::q4, Format::q8, Format::q3, Format::q2, Format::q1};

// Against double as well; each pair with one of the numbers of tokens, shapes and edges in turn.
TEST_F(CudaTwoBands, EveryFormatAndMinimum) {
  std::size_t turn = 0;
  for (const Format high : kHighFormats) {
    for (const Format low : packed_formats()) {
      for (const MinKind min : kMinKinds) {
        const int tokens = std::array{1, 2, 4, 5, 8, 16, 33}[turn % 7];
        const std::int64_t edge = std::array{1, 128, 300, 511}[turn % 4];
        const MinKind high_min = kMinKinds[turn / 3 % 3];
        const PackedMatrix matrix = mixed({21, 800}, edge, {high, high_min}, {low, min});
        const Extras extras{turn % 2 == 0, turn % 3 == 0, turn % 5 == 0 ? 3 : 0};
        check_one_launch(matrix, tokens, extras);
        if (turn % 4 == 0) check(matrix, tokens, extras);
        if (HasFatalFailure()) return;
        ++turn;
      }
    }
  }
}

// Groups of 128 columns and of whole rows in turn. The second time, too.
TEST_F(CudaTwoBands, EveryNumberOfTokensAndEdge) {
  std::size_t turn = 0;
  for (const int tokens : {1, 2, 4, 5, 8, 16, 33}) {
    ++turn;
    for (const std::int64_t edge : {16, 256, 816, 2000}) {
      const bool whole_row = ++turn % 2 == 0;
      const std::int64_t group = whole_row ? 0 : 128;
      const PackedMatrix matrix = mixed({19, 2100}, edge, {Format::q4, MinKind::zero, group},
                                        {Format::q1, MinKind::f16, group});
      check_one_launch(matrix, tokens, {.outlier = whole_row ? 0.0f : 4.0f}, {}, 2);
      if (tokens == 5) check(matrix, tokens);
      if (HasFatalFailure()) return;
    }
  }
}

// More segments than slices in both.
TEST_F(CudaTwoBands, LongRows) {
  for (const int tokens : {1, 4, 7, 16}) {
    check_one_launch(
        mixed({20, 11008}, 4608, {Format::q4, MinKind::zero}, {Format::q2, MinKind::midrise}),
        tokens, {true, true});
    if (HasFatalFailure()) return;
  }
}

// More panels than thread blocks.
TEST_F(CudaTwoBands, ManyRows) {
  for (const int tokens : {3, 7}) {
    const PackedMatrix matrix =
        mixed({9001, 300}, 32, {Format::q4, MinKind::zero}, {Format::q1, MinKind::f16});
    check_one_launch(matrix, tokens, {.accumulate = true});
    if (HasFatalFailure()) return;
  }
}

TEST_F(CudaTwoBands, TuningChangesNothing) {
  const PackedMatrix matrix =
      mixed({35, 3000}, 700, {Format::q4, MinKind::zero}, {Format::q1, MinKind::f16});
  for (const int stages : {2, 3}) {
    for (const int warps : {4, 8, 16}) {
      check_one_launch(matrix, 3, {}, {.decode_warps = warps, .stages = stages});
      for (const int run : {8, 16}) {
        check_one_launch(matrix, 20, {},
                         {.decode_warps = warps, .tile_tokens = run, .stages = stages});
      }
      if (HasFatalFailure()) return;
    }
  }
}

// Where the sums of two bands find no room, or blocks are others: a launch each.
TEST_F(CudaTwoBands, OthersTakeTwoLaunches) {
  DeviceRun run;
  run.ldy = 35;
  run.launches = 2;
  const PackedMatrix g64 =
      mixed({35, 700}, 300, {Format::q4, MinKind::zero, 64}, {Format::q1, MinKind::f16, 64});
  const PackedMatrix g128 =
      mixed({35, 700}, 300, {Format::q4, MinKind::zero}, {Format::q1, MinKind::f16});
  for (const int tokens : {3, 16, 64}) {
    const std::vector<float> x = activations_with_outliers(tokens, 700);
    const std::vector<float> y(static_cast<std::size_t>(35 * tokens));
    run.shared_per_block = 0;
    device_linear(g64.view, x, tokens, y, run);
    if (tokens == 3) continue;
    if (tokens == 16) run.shared_per_block = 64 << 10;
    device_linear(g128.view, x, tokens, y, run);
  }
}

// Groups of them, with more panels than thread blocks and without.
TEST_F(CudaTwoBands, ProductsOfOneInput) {
  const auto check_group = [](const std::vector<std::int64_t>& rows, int tokens) {
    std::deque<PackedMatrix> matrices;
    std::vector<MatrixView> views;
    for (const std::int64_t n : rows) {
      views.push_back(
          matrices
              .emplace_back(n, 600,
                            std::vector<BandShape>{{Format::q4, MinKind::zero, 0, 128, 128},
                                                   {Format::q1, MinKind::f16, 128, 600, 128}})
              .view);
    }
    const std::vector<float> x = activations_with_outliers(tokens, 600);
    DeviceRun run;
    run.by_band = true;
    const auto expected = device_linear_group(views, x, tokens, run);
    run.by_band = false;
    run.launches = 1;
    EXPECT_EQ(expected, device_linear_group(views, x, tokens, run)) << tokens << " tokens";
  };
  for (const int tokens : {1, 4, 5, 16}) check_group({100, 19, 40}, tokens);
  for (const int tokens : {3, 7}) check_group({2500, 30, 2300}, tokens);
}

// The same bits as one after the other.
class CudaProductsOfOneInput : public CudaPackedLinear {
 protected:
  struct Shape {
    std::int64_t rows;
    Format format;
    std::int64_t group;
  };
  static void check(std::int64_t cols, const std::vector<Shape>& shapes, int tokens) {
    std::deque<PackedMatrix> matrices;
    std::vector<MatrixView> views;
    for (const Shape& s : shapes) {
      const BandShape band{s.format, MinKind::zero, 0, cols, s.group};
      views.push_back(matrices.emplace_back(s.rows, cols, std::vector{band}).view);
    }
    const std::vector<float> x = activations_with_outliers(tokens, cols);
    const auto y = device_linear_group(views, x, tokens);
    for (std::size_t i = 0; i < views.size(); ++i) {
      DeviceRun run;
      run.ldy = views[i].rows;
      std::vector<float> y0(static_cast<std::size_t>(run.ldy * tokens));
      EXPECT_EQ(y[i], device_linear(views[i], x, tokens, std::move(y0), run))
          << matrices[i].description << ", " << tokens << " tokens";
    }
  }
};

TEST_F(CudaProductsOfOneInput, FewRows) {
  for (const int tokens : {1, 4, 5, 19, 70}) {
    check(600, {{100, Format::q2, 64}, {19, Format::q2, 64}, {40, Format::q2, 64}}, tokens);
    check(600, {{20, Format::q2, 0}, {35, Format::q2, 0}}, tokens);
  }
}

TEST_F(CudaProductsOfOneInput, OthersAreRefused) {
  const std::vector<float> x(600);
  const PackedMatrix q2 = matrix_of(Format::q2, MinKind::zero, 64, {19, 600}),
                     q4 = matrix_of(Format::q4, MinKind::zero, 64, {19, 600}),
                     whole = matrix_of(Format::q2, MinKind::zero, 0, {19, 600});
  EXPECT_THROW(device_linear_group({q2.view, q4.view}, x, 1), std::runtime_error);
  EXPECT_THROW(device_linear_group({q2.view, whole.view}, x, 1), std::runtime_error);
}

// More panels than thread blocks: some have panels of two parts, or three.
TEST_F(CudaProductsOfOneInput, ManyRows) {
  for (const int tokens : {3, 7}) {
    check(40, {{9001, Format::q1, 32}, {30, Format::q1, 32}, {9001, Format::q1, 32}}, tokens);
  }
}

// More segments than slices; a last one that is not whole.
TEST_F(CudaPackedLinear, LongRows) {
  for (const std::int64_t group : {32, 0}) {
    for (const int tokens : {1, 4, 16, 17}) {
      check(matrix_of(Format::q3, MinKind::zero, group, {20, 8803}), tokens, {.checked = 2});
      if (HasFatalFailure()) return;
    }
  }
}

// More panels than thread blocks: 1,000 of 16 rows.
TEST_F(CudaPackedLinear, ManyRows) {
  for (const int tokens : {1, 3, 7}) {
    check(matrix_of(Format::q2, MinKind::f16, 32, {16001, 40}), tokens,
          {.accumulate = true, .checked = 1});
    if (HasFatalFailure()) return;
  }
}

TEST_F(CudaPackedLinear, LargestCodes) {
  for (const Format format : packed_formats()) {
    for (const int tokens : {4, 8}) {
      check(PackedMatrix(16, 1024, {{format, MinKind::zero, 0, 1024, 128}}, false, true), tokens);
      if (HasFatalFailure()) return;
    }
  }
}

TEST_F(CudaPackedLinear, TuningChangesNothing) {
  const PackedMatrix matrix(70, 3000, {{Format::q2, MinKind::zero, 0, 3000, 128}});
  const auto run = [&](int tokens, LaunchShape shape) {
    DeviceRun with;
    with.ldy = 70;
    with.shape = shape;
    return device_linear(matrix.view, activations_with_outliers(tokens, 3000), tokens,
                         std::vector<float>(static_cast<std::size_t>(70 * tokens)), with);
  };
  const auto few = run(3, {}), many = run(20, {});
  for (const int stages : {2, 3}) {
    for (const int warps : {4, 8, 16}) {
      EXPECT_EQ(few, run(3, {.decode_warps = warps, .stages = stages})) << warps << ' ' << stages;
    }
    for (const int warps : {4, 8, 16}) {
      EXPECT_EQ(many, run(20, {warps, 8, 0, 0, stages})) << warps << ' ' << stages;
      EXPECT_EQ(many, run(20, {warps, 16, 0, 0, stages})) << warps << ' ' << stages;
    }
    for (const int panels : {1, 2, 4, 8}) {
      for (const int ways : {1, 4}) {
        if (panels * ways > 8) continue;
        EXPECT_EQ(many, run(20, {0, 64, panels, ways, stages})) << panels << ' ' << ways;
      }
    }
  }
}

// Devices with less shared memory (sm_75: 64 KiB; sm_86: 99) launch smaller thread blocks.
TEST_F(CudaPackedLinear, LittleSharedMemory) {
  for (const Format format : packed_formats()) {
    for (const std::int64_t group : {32, 64, 128}) {
      const PackedMatrix matrix = matrix_of(format, MinKind::f16, group, {35, 700});
      for (const int tokens : {3, 8, 16, 64}) {
        const std::vector<float> x = activations_with_outliers(tokens, 700);
        DeviceRun run;
        run.ldy = 35;
        const std::vector<float> y0(static_cast<std::size_t>(35 * tokens));
        const auto expected = device_linear(matrix.view, x, tokens, y0, run);
        for (const int kib : {64, 99}) {
          run.shared_per_block = kib << 10;
          ASSERT_EQ(expected, device_linear(matrix.view, x, tokens, y0, run))
              << matrix.description << ", " << tokens << " tokens, " << kib << " KiB";
        }
      }
    }
  }
}

// What bench/cuda_counts.py counts: twice as many rows the second time, so that the difference is
// what rows cost.
TEST_F(CudaPackedLinear, Profile) {
  for (const int tokens : {1, 16, 64}) {
    for (const std::int64_t rows : {128, 256}) {
      const PackedMatrix matrix = matrix_of(Format::q2, MinKind::zero, 128, {rows, 4096});
      DeviceRun run;
      run.ldy = rows;
      const std::vector<float> x = random_floats(static_cast<std::size_t>(tokens * 4096), 1);
      const std::vector<float> y = device_linear(
          matrix.view, x, tokens, std::vector<float>(static_cast<std::size_t>(rows * tokens)), run);
      const OneToken token(matrix.view, x.data(), run.outlier);
      compare(token, {y.begin(), y.begin() + rows}, std::vector<float>(y.size()), run, "profile");
    }
  }
}

}  // namespace
}  // namespace tenfold
