#include "quantizer/plan.h"

#include <fmt/core.h>

#include <algorithm>
#include <map>

#include "kernels/error.h"
#include "quantizer/columns.h"
#include "quantizer/rtn/realize.h"
#include "runtime/files/packed_matrix.h"

namespace tenfold {
namespace {

constexpr std::int64_t kSampledPanels = 64;
constexpr const char* kEmbedding = "token_embd.weight";
constexpr const char* kPositions = "position_embd.weight";
constexpr const char* kHead = "output.weight";

// Matrices that read the same input: "blk.3.attn_q.weight" -> "blk.3.qkv". Others: their own name.
std::string input_of(const std::string& name) {
  for (const char* part : {".attn_q.", ".attn_k.", ".attn_v."}) {
    if (const auto at = name.find(part); at != std::string::npos)
      return name.substr(0, at) + ".qkv";
  }
  for (const char* part : {".ffn_gate.", ".ffn_up."}) {
    if (const auto at = name.find(part); at != std::string::npos)
      return name.substr(0, at) + ".mlp";
  }
  return name;
}

// Numbers that are not quantized: F16, or what the source has where that is BF16.
DType half_type(const RowReader& rows) {
  const TensorSource* tensor = rows.weight().tensor;
  return tensor != nullptr && tensor->dtype == DType::bf16 ? DType::bf16 : DType::f16;
}

class Planner {
 public:
  Planner(const Recipe& recipe, const std::vector<ModelTensor>& tensors, ThreadPool& pool,
          const std::string& path)
      : recipe_(recipe), tensors_(tensors), pool_(pool), path_(path) {}

  Plan make(bool tied_head) {
    const int embed = recipe_.embed_bits.value_or(
        tied_head ? recipe_.head_bits.value_or(kDefaultTableBits) : kDefaultTableBits);
    const int head = recipe_.head_bits.value_or(tied_head ? embed : kDefaultTableBits);
    if (mixes(recipe_) && recipe_.salience == Salience::weight) score_inputs();
    check_rules();
    const bool calibrated = looks_at_inputs(recipe_) && head < kDefaultTableBits;
    Plan plan;
    plan.split_head = tied_head && head != embed;
    for (std::size_t i = 0; i < tensors_.size(); ++i) {
      const TensorShape& info = tensors_[i].info;
      TensorPlan tensor{info.name, i, std::nullopt, DType::f32};
      if (info.name == kEmbedding) {
        set_bits(tensor, embed);
      } else if (info.name == kHead) {
        set_bits(tensor, head);
      } else if (info.name == kPositions) {
        set_bits(tensor, kFloatBits);
      } else if (info.is_matrix()) {
        tensor.matrix = layer_matrix_plan(i);
      }
      plan.tensors.push_back(std::move(tensor));
      if (info.name == kEmbedding && plan.split_head) {
        TensorPlan second{kHead, i, std::nullopt, DType::f32};
        set_bits(second, head);
        plan.tensors.push_back(std::move(second));
      }
    }
    for (std::size_t i = 0; calibrated && i < plan.tensors.size(); ++i) {
      const bool tied = tied_head && !plan.split_head;
      if (plan.tensors[i].name == (tied ? kEmbedding : kHead)) plan.calibrated_head = i;
    }
    return plan;
  }

 private:
  MatrixPlan layer_matrix_plan(std::size_t index) const {
    const std::string& name = tensors_[index].info.name;
    Widths widths{recipe_.bits, recipe_.group, recipe_.min, recipe_.mixed, recipe_.high_bits};
    for (const Rule& rule : recipe_.rules) {
      if (!applies(rule, name)) continue;
      widths.bits = rule.bits.value_or(widths.bits);
      widths.group = rule.group.value_or(widths.group);
      if (rule.min) widths.min = *rule.min;
      widths.mixed = rule.mixed.value_or(0);
      widths.high_bits = rule.high_bits.value_or(widths.high_bits);
    }
    if (widths.mixed > 0 && widths.bits >= widths.high_bits) {
      throw_error(ErrorCode::bad_request,
                  "{}: {} would have columns of {} bits that are to keep more than the others' {}",
                  path_, name, widths.high_bits, widths.bits);
    }
    return planned(index, widths);
  }

  void check_rules() const {
    for (std::size_t i = 0; i < recipe_.rules.size(); ++i) {
      const bool used =
          std::any_of(tensors_.begin(), tensors_.end(), [&](const ModelTensor& tensor) {
            return tensor.info.is_matrix() && applies(recipe_.rules[i], tensor.info.name);
          });
      if (!used) {
        throw_error(ErrorCode::bad_request, "rule {} names no matrix of {}", i + 1, path_);
      }
    }
  }

  static bool applies(const Rule& rule, const std::string& name) {
    const std::int64_t layer = layer_of(name);
    if (layer < 0) return false;
    if (rule.layers && (layer < rule.layers->first || layer > rule.layers->second)) return false;
    return rule.matrices.empty() || std::find(rule.matrices.begin(), rule.matrices.end(),
                                              layer_matrix(name)) != rule.matrices.end();
  }

  void set_bits(TensorPlan& tensor, int bits) {
    if (bits == kFloatBits) {
      tensor.type = half_type(tensors_[tensor.source].rows);
    } else {
      Widths widths;
      widths.bits = bits;
      widths.group = recipe_.group;
      tensor.matrix = planned(tensor.source, widths);
    }
  }

  MatrixPlan planned(std::size_t index, Widths widths) const {
    // The weights' own error is no guide where activations are massive (docs/design.md).
    if (widths.bits == 2 && !widths.min && !needs_calibration(recipe_)) {
      widths.min = better_min_kind(index, widths);
    }
    MatrixPlan plan = plan_matrix(widths, recipe_.range, tensors_[index].rows.cols());
    if (plan.bands.size() == 2 && recipe_.salience == Salience::weight) {
      set_order(plan, column_order(scores_.at(input_of(tensors_[index].info.name)),
                                   plan.bands[0].col_end));
    }
    return plan;
  }

  MinKind better_min_kind(std::size_t index, Widths widths) const {
    const std::string what = fmt::format("{}: tensor \"{}\"", path_, tensors_[index].info.name);
    widths.mixed = 0;
    const auto error = [&](MinKind kind) {
      widths.min = kind;
      const MatrixPlan plan = plan_matrix(widths, recipe_.range, tensors_[index].rows.cols());
      return sampled_error(tensors_[index].rows, plan, pool_, kSampledPanels, what);
    };
    return error(MinKind::midrise) <= error(MinKind::zero) ? MinKind::midrise : MinKind::zero;
  }

  void score_inputs() {
    for (const ModelTensor& tensor : tensors_) {
      if (!tensor.info.is_matrix() || tensor.info.by_row || tensor.info.name == kHead) continue;
      add_column_scores(tensor.rows, pool_, scores_[input_of(tensor.info.name)]);
      tensor.rows.release();
    }
  }

  const Recipe& recipe_;
  const std::vector<ModelTensor>& tensors_;
  ThreadPool& pool_;
  const std::string& path_;
  std::map<std::string, std::vector<double>> scores_;  // of mixed layouts, by input
};

}  // namespace

MatrixView layout_of(const MatrixPlan& plan, std::int64_t rows, std::int64_t cols) {
  MatrixView layout;
  layout.rows = rows;
  layout.cols = cols;
  layout.n_bands = static_cast<int>(plan.bands.size());
  for (std::size_t k = 0; k < plan.bands.size(); ++k) {
    const BandPlan& from = plan.bands[k];
    Band& band = layout.bands.at(k);
    band.format = from.format;
    band.min_kind = from.min_kind;
    band.col_begin = from.col_begin;
    band.col_end = from.col_end;
    band.group = from.group == 0 ? band.cols() : from.group;
  }
  if (!plan.order.empty()) layout.map.source = plan.order.data();
  if (!plan.mask.empty()) layout.map.mask = plan.mask.data();
  return layout;
}

MatrixPlan plan_matrix(const Widths& widths, RangeKind range, std::int64_t cols) {
  const auto band = [&](int bits, std::optional<MinKind> min, std::int64_t begin,
                        std::int64_t end) {
    // An integer zero cannot say +-a.
    const MinKind by_width = bits == 1 ? MinKind::f16 : MinKind::zero;
    return BandPlan{*packed_format(bits), min.value_or(by_width), widths.group, begin, end};
  };
  MatrixPlan plan;
  plan.range = range;
  const std::int64_t first = widths.mixed > 0 ? mixed_columns(widths.mixed, cols) : 0;
  if (first > 0) {
    plan.bands = {band(widths.high_bits, std::nullopt, 0, first),
                  band(widths.bits, widths.min, first, cols)};
    set_order(plan, column_order(std::vector<double>(static_cast<std::size_t>(cols)), first));
  } else if (widths.mixed > 0) {  // too narrow for two
    plan.bands = {band(widths.high_bits, std::nullopt, 0, cols)};
  } else {
    plan.bands = {band(widths.bits, widths.min, 0, cols)};
  }
  return plan;
}

void set_order(MatrixPlan& plan, std::vector<std::int32_t> order) {
  plan.order = std::move(order);
  plan.mask.clear();
  plan.mask = column_mask(layout_of(plan, 1, static_cast<std::int64_t>(plan.order.size())));
}

Plan make_plan(const Recipe& recipe, const std::vector<ModelTensor>& tensors, bool tied_head,
               ThreadPool& pool, const std::string& path) {
  validate(recipe);
  return Planner(recipe, tensors, pool, path).make(tied_head);
}

}  // namespace tenfold
