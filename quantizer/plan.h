#pragma once
// What is made of each tensor of a model: a Recipe is what a person asks, a Plan what was decided.
// Plans are small data; realizing one (rtn/realize.h) is a pure function of source and plan.

#include <array>
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "kernels/matrix.h"
#include "kernels/thread_pool.h"
#include "models/tensors.h"
#include "quantizer/allocate/options.h"
#include "quantizer/calibration.h"
#include "quantizer/omniquant/options.h"
#include "quantizer/range.h"
#include "quantizer/roles.h"
#include "quantizer/search/options.h"
#include "quantizer/squeeze/options.h"

namespace tenfold {

struct BandPlan {
  Format format = Format::q4;  // packed
  MinKind min_kind = MinKind::zero;
  std::int64_t group = 128;  // 32, 64, 128 or 0: the whole band
  std::int64_t col_begin = 0, col_end = 0;
};

struct MatrixPlan {
  std::vector<BandPlan> bands;      // from column 0 to the last, interior edges multiples of 16
  std::vector<std::int32_t> order;  // the input column of each column; empty: as they are
  std::vector<std::byte> mask;      // the same as kernels/matrix.h has it, where it can be said so
  RangeKind range = RangeKind::mse;
  // What the source's weights are multiplied with first, by input column and by row; empty: 1. The
  // inverse is folded into what comes before and after, so the model computes the same.
  std::vector<float> col_factor, row_factor;
  // Grids that a pass chose, of weights so multiplied: [panels of 16 rows, groups of all bands,
  // 16]; empty: fitted as `range` says.
  std::vector<Grid> grids;
};
void set_order(MatrixPlan& plan, std::vector<std::int32_t> order);
// Its map points into the plan.
MatrixView layout_of(const MatrixPlan& plan, std::int64_t rows, std::int64_t cols);

// What passes multiplied a matrix with before it was rounded; empty: 1.
struct Factors {
  std::vector<float> col, row;
};
using LayerFactors = std::array<Factors, kLayerMatrices>;

inline constexpr int kFloatBits = 16;  // of embeddings and head: not quantized
inline constexpr int kMixedHighBits = 4;
inline constexpr int kDefaultTableBits = 8;

enum class Method { rtn, gptq };  // how codes are chosen

// What some of the layers' matrices get instead.
struct Rule {
  std::vector<LayerMatrix> matrices;                            // empty: all
  std::optional<std::pair<std::int64_t, std::int64_t>> layers;  // first and last; absent: all
  std::optional<int> bits;
  std::optional<std::int64_t> group;
  std::optional<std::optional<MinKind>> min;  // there, but no kind: by width
  std::optional<double> mixed = {};           // absent: not mixed, whatever the recipe says
  std::optional<int> high_bits = {};
};

struct Recipe {
  Method method = Method::rtn;
  int bits = 4;              // of the layers' matrices
  std::int64_t group = 128;  // 0: the whole row
  RangeKind range = RangeKind::mse;
  std::optional<MinKind> min;                // of the layers' matrices; absent: by width
  std::optional<int> embed_bits, head_bits;  // absent: 8; where they are tied, like the other
  CalibrationOptions calibration;            // of gptq, awq and weighted ranges
  double damping = 0.1;   // gptq: this share of each input's mean square is added to it
  bool act_order = true;  // gptq: the strongest inputs first
  bool awq = false;       // scale the input channels first, by how strong they are
  bool omniquant =
      false;             // learn grids (and channel scales) layer by layer before codes are chosen
  bool tune = false;     // then learn the grids again, for the codes that were chosen
  LearnOptions learn;    // of omniquant and tune
  SearchOptions search;  // after all passes; no steps: none
  double mixed = 0;      // this share of a matrix's input columns gets high_bits, the rest `bits`
  int high_bits = kMixedHighBits;
  Salience salience = Salience::weight;  // which columns these are
  std::optional<double> pbar_lambda;     // absent: for each input the best of several
  bool pbar_trials = false;  // the best by the model's loss, not by the error of its outputs
  Supervision supervision = Supervision::none;  // of gptq
  AllocateOptions allocate;                     // adds rules
  std::vector<Rule> rules;                      // a later one beats an earlier one
};
// Throws bad_request for a width, group, share or rate that cannot be.
void validate(const Recipe& recipe);
// Squeeze10-LLM's own choices.
void set_squeeze10(Recipe& recipe);
// Sets awq, omniquant and method from passes in the order they run in ("awq,gptq"). Throws
// bad_request where they do not compose, saying why.
void set_passes(Recipe& recipe, const std::vector<std::string>& passes);
// A recipe as the file holds it, and as a person may write it: absent keys keep what `recipe` has;
// the calibration's file is not part of it. Throws bad_request naming `name` and the key.
std::string to_json(const Recipe& recipe);
void read_json(const nlohmann::json& json, const std::string& name, Recipe& recipe);
// Whether any matrix is asked to have columns of two widths.
bool mixes(const Recipe& recipe);
// Whether making the model takes a look at how it runs.
bool needs_calibration(const Recipe& recipe);
// Whether codes are chosen by the inputs a matrix meets.
bool looks_at_inputs(const Recipe& recipe);
// Whether ranges count errors by the inputs they meet.
bool weighs_ranges(const Recipe& recipe);
// Whether layers are trained against the full-precision model's.
bool learns(const Recipe& recipe);

// What one matrix of a layer gets.
struct Widths {
  int bits = 4;
  std::int64_t group = 128;
  std::optional<MinKind> min;  // absent: by width
  double mixed = 0;            // share of the columns that get high_bits
  int high_bits = kMixedHighBits;
};
// The bands of `cols` columns; the columns of two are in any order.
MatrixPlan plan_matrix(const Widths& widths, RangeKind range, std::int64_t cols);

struct TensorPlan {
  std::string name;                  // in the output
  std::size_t source = 0;            // index among read_tensors()
  std::optional<MatrixPlan> matrix;  // absent: plain numbers of `type`
  DType type = DType::f32;
};

struct Plan {
  std::vector<TensorPlan> tensors;             // in file order
  bool split_head = false;                     // embedding and head were tied and are now two
  std::optional<std::size_t> calibrated_head;  // of tensors, made from the activations it meets
};

// Layer matrices and projections follow bits, group, min and mixed; embeddings and head their own
// widths, with the width's default min and the same groups (a head of less than 8 bits is made like
// the layers where the recipe looks at inputs); vectors become F32, positions and what
// is asked at 16 bits F16 (BF16 where the source has it). Reads weights where the answer depends on
// them: without calibration, `zero` or `midrise` at 2 bits (the lesser squared error over up to 64
// panels; with it, `zero`), and the columns of the largest weights, which `mixed` keeps unless the
// inputs are to tell. Throws
// bad_request for a rule that no matrix falls under. `path`: the model, for messages.
Plan make_plan(const Recipe& recipe, const std::vector<ModelTensor>& tensors, bool tied_head,
               ThreadPool& pool, const std::string& path);

}  // namespace tenfold
