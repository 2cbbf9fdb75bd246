#include "quantizer/plan.h"

#include <fmt/core.h>

#include <algorithm>
#include <map>

#include "kernels/error.h"
#include "quantizer/columns.h"
#include "quantizer/rtn/realize.h"

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
    if (recipe_.mixed > 0 && recipe_.salience == Salience::weight) score_inputs();
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
    bool ruled = false;
    int bits = recipe_.bits;
    std::int64_t group = recipe_.group;
    std::optional<MinKind> min = recipe_.min;
    for (const Rule& rule : recipe_.rules) {
      if (!applies(rule, name)) continue;
      ruled = true;
      bits = rule.bits.value_or(bits);
      group = rule.group.value_or(group);
      if (rule.min) min = *rule.min;
    }
    return recipe_.mixed > 0 && !ruled ? mixed(index) : one_band(index, bits, group, min);
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
      tensor.matrix = one_band(tensor.source, bits, recipe_.group, std::nullopt);
    }
  }

  MatrixPlan one_band(std::size_t index, int bits, std::int64_t group,
                      std::optional<MinKind> min) const {
    MatrixPlan plan;
    plan.range = recipe_.range;
    plan.bands = {
        {*packed_format(bits), min.value_or(MinKind::zero), group, 0, tensors_[index].rows.cols()}};
    if (min) return plan;
    if (bits == 1) plan.bands[0].min_kind = MinKind::f16;  // an integer zero cannot say +-a
    // The weights' own error is no guide where activations are massive (docs/design.md).
    if (bits == 2 && !needs_calibration(recipe_)) {
      plan.bands[0].min_kind = better_min_kind(index, plan);
    }
    return plan;
  }

  MinKind better_min_kind(std::size_t index, MatrixPlan plan) const {
    const std::string what = fmt::format("{}: tensor \"{}\"", path_, tensors_[index].info.name);
    const auto error = [&](MinKind kind) {
      plan.bands[0].min_kind = kind;
      return sampled_error(tensors_[index].rows, plan, pool_, kSampledPanels, what);
    };
    return error(MinKind::midrise) <= error(MinKind::zero) ? MinKind::midrise : MinKind::zero;
  }

  MatrixPlan mixed(std::size_t index) const {
    const std::int64_t cols = tensors_[index].rows.cols();
    const std::int64_t first = mixed_columns(recipe_.mixed, cols);
    if (first == 0) return one_band(index, kMixedHighBits, recipe_.group, std::nullopt);
    MatrixPlan plan = one_band(index, recipe_.bits, recipe_.group, recipe_.min);
    BandPlan high{*packed_format(kMixedHighBits), MinKind::zero, recipe_.group, 0, first};
    plan.bands[0].col_begin = first;
    plan.bands.insert(plan.bands.begin(), high);
    if (recipe_.salience != Salience::weight) {  // any order: the inputs will tell
      plan.order = column_order(std::vector<double>(static_cast<std::size_t>(cols)), first);
      return plan;
    }
    plan.order = column_order(scores_.at(input_of(tensors_[index].info.name)), first);
    return plan;
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
  return layout;
}

Plan make_plan(const Recipe& recipe, const std::vector<ModelTensor>& tensors, bool tied_head,
               ThreadPool& pool, const std::string& path) {
  validate(recipe);
  return Planner(recipe, tensors, pool, path).make(tied_head);
}

}  // namespace tenfold
