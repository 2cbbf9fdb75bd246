#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "kernels/error.h"
#include "quantizer/plan.h"

namespace tenfold {
namespace {

constexpr std::array<std::int64_t, 4> kGroups = {0, 32, 64, 128};

void check_bits(const char* what, int bits, bool float_too) {
  if (packed_format(bits) || (float_too && bits == kFloatBits)) return;
  throw_error(ErrorCode::bad_request, "{} must be 1, 2, 3, 4{}, found {}", what,
              float_too ? ", 8 or 16" : " or 8", bits);
}

}  // namespace

void validate(const Recipe& recipe) {
  check_bits("bits", recipe.bits, false);
  check_bits("the bits of embeddings", recipe.embed_bits.value_or(kDefaultTableBits), true);
  check_bits("the bits of the head", recipe.head_bits.value_or(kDefaultTableBits), true);
  if (std::find(kGroups.begin(), kGroups.end(), recipe.group) == kGroups.end()) {
    throw_error(ErrorCode::bad_request,
                "groups must have 32, 64 or 128 columns, or be rows, found {}", recipe.group);
  }
  if (needs_calibration(recipe) && recipe.calibration.file.empty()) {
    throw_error(ErrorCode::bad_request, "{} needs a calibration text: --calib FILE",
                recipe.method == Method::gptq ? "gptq"
                : recipe.awq                  ? "awq"
                                              : "a weighted range");
  }
  if (!(recipe.damping >= 0 && recipe.damping <= 1)) {
    throw_error(ErrorCode::bad_request, "damping must lie between 0 and 1, found {}",
                recipe.damping);
  }
  if (recipe.calibration.sequences < 1 || recipe.calibration.length < 2) {
    throw_error(ErrorCode::bad_request,
                "calibration takes at least one sequence of two tokens, found {} of {}",
                recipe.calibration.sequences, recipe.calibration.length);
  }
  if (!(recipe.mixed >= 0 && recipe.mixed < 1)) {
    throw_error(ErrorCode::bad_request, "the mixed share must lie between 0 and 1, found {}",
                recipe.mixed);
  }
  if (recipe.mixed > 0 && recipe.bits >= kMixedHighBits) {
    throw_error(ErrorCode::bad_request,
                "a mixed layout has columns of {} bits and columns of fewer, found {}",
                kMixedHighBits, recipe.bits);
  }
}

bool needs_calibration(const Recipe& recipe) {
  return recipe.method != Method::rtn || recipe.awq || recipe.range == RangeKind::weighted;
}

std::string to_json(const Recipe& recipe) {
  nlohmann::ordered_json json;
  json["method"] = recipe.method == Method::gptq ? "gptq" : "rtn";
  json["bits"] = recipe.bits;
  json["group"] = recipe.group;
  if (recipe.group == 0) json["group"] = "row";
  json["range"] = recipe.range == RangeKind::mse        ? "mse"
                  : recipe.range == RangeKind::weighted ? "weighted"
                                                        : "minmax";
  json["min"] = "auto";
  if (recipe.min) json["min"] = *min_kind_name(static_cast<std::uint32_t>(*recipe.min));
  json["embed_bits"] = recipe.embed_bits.value_or(recipe.head_bits.value_or(kDefaultTableBits));
  json["head_bits"] = recipe.head_bits.value_or(recipe.embed_bits.value_or(kDefaultTableBits));
  if (recipe.mixed > 0) json["mixed"] = recipe.mixed;
  if (recipe.awq) json["awq"] = true;
  if (recipe.method == Method::gptq) {
    json["damping"] = recipe.damping;
    json["act_order"] = recipe.act_order;
  }
  if (needs_calibration(recipe)) {
    json["calibration"] = {{"sequences", recipe.calibration.sequences},
                           {"length", recipe.calibration.length},
                           {"seed", recipe.calibration.seed}};
  }
  return json.dump();
}

}  // namespace tenfold
