#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <utility>

#include "kernels/error.h"
#include "quantizer/plan.h"
#include "runtime/files/json_file.h"

namespace tenfold {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::array<std::int64_t, 4> kGroups = {0, 32, 64, 128};
constexpr std::array<const char*, 5> kPasses = {"awq", "omniquant", "rtn", "gptq", "tune"};
constexpr int kMaxEpochs = 1000;
constexpr std::int64_t kMostSearched = std::int64_t{1} << 30;  // steps and the like

void check_bits(const char* what, int bits, bool float_too) {
  if (packed_format(bits) || (float_too && bits == kFloatBits)) return;
  throw_error(ErrorCode::bad_request, "{} must be 1, 2, 3, 4{}, found {}", what,
              float_too ? ", 8 or 16" : " or 8", bits);
}

void check_group(std::int64_t group) {
  if (std::find(kGroups.begin(), kGroups.end(), group) != kGroups.end()) return;
  throw_error(ErrorCode::bad_request,
              "groups must have 32, 64 or 128 columns, or be rows, found {}", group);
}

void check_share(const char* what, double share) {
  if (share >= 0 && share <= 1) return;
  throw_error(ErrorCode::bad_request, "{} must lie between 0 and 1, found {}", what, share);
}

void check_search(const SearchOptions& search, bool mixed) {
  if (search.steps == 0) return;
  for (const std::int64_t number : {search.steps, search.local, search.matched, search.patience,
                                    search.together, search.ranked}) {
    if (number >= 0 && number <= kMostSearched) continue;
    throw_error(ErrorCode::bad_request, "the numbers of a search lie between 0 and {}, found {}",
                kMostSearched, number);
  }
  if (!search.permute && !search.scale && !search.rotate) {
    throw_error(ErrorCode::bad_request, "a search needs moves: perm, scale or rot");
  }
  if (!search.ffn && !search.values && !search.queries && !search.norms) {
    throw_error(ErrorCode::bad_request, "a search needs couplings: ffn, vo, qk or norm");
  }
  if (!(search.alpha >= 0) || !(search.scale_step >= 0) || !(search.rotate_step >= 0)) {
    throw_error(ErrorCode::bad_request, "the weights and steps of a search cannot be less than 0");
  }
  if (!(search.early >= 0 && search.early < 0.5)) {
    throw_error(ErrorCode::bad_request,
                "the chance to give up a good step must lie between 0 and 0.5, found {}",
                search.early);
  }
  if (mixed) {
    throw_error(ErrorCode::bad_request,
                "a search cannot move the columns of a mixed layout: their order is the layout's");
  }
}

void check_mixed(const Recipe& recipe) {
  const auto check = [](double share) {
    if (share >= 0 && share < 1) return;
    throw_error(ErrorCode::bad_request, "the mixed share must lie between 0 and 1, found {}",
                share);
  };
  check(recipe.mixed);
  check_bits("the bits of columns that keep more", recipe.high_bits, false);
  for (const Rule& rule : recipe.rules) {
    if (rule.mixed) check(*rule.mixed);
    if (rule.high_bits) check_bits("the bits of a rule", *rule.high_bits, false);
  }
  if (recipe.mixed > 0 && recipe.bits >= recipe.high_bits) {
    throw_error(ErrorCode::bad_request,
                "a mixed layout has columns of {} bits and columns of fewer, found {}",
                recipe.high_bits, recipe.bits);
  }
}

void check_allocation(const Recipe& recipe) {
  const AllocateOptions& allocate = recipe.allocate;
  if (allocate.kind == Allocation::none) return;
  if ((allocate.target_bits != 0) == (allocate.target_bytes != 0)) {
    throw_error(ErrorCode::bad_request,
                "a budget is divided by one target: bits a weight, or the size of the file");
  }
  if (!(allocate.target_bits >= 0 && allocate.target_bits <= kFloatBits)) {
    throw_error(ErrorCode::bad_request, "the target must lie between 0 and {} bits, found {}",
                kFloatBits, allocate.target_bits);
  }
  for (const int bits : allocate.widths) check_bits("the widths of a budget", bits, false);
  if (!allocate.widths.empty() && allocate.kind != Allocation::bits) {
    throw_error(ErrorCode::bad_request,
                "widths are for whole matrices, not for shares of their columns");
  }
  if (allocate.sequences < 1) {
    throw_error(ErrorCode::bad_request,
                "sensitivities are measured on at least one sequence, found {}",
                allocate.sequences);
  }
  if (allocate.solved && recipe.rules.empty()) {
    throw_error(ErrorCode::bad_request, "a budget that was divided has rules, and there are none");
  }
  if (!allocate.solved && !recipe.rules.empty()) {
    throw_error(ErrorCode::bad_request, "a budget makes the rules: others cannot be given too");
  }
  if (recipe.mixed > 0) {
    throw_error(ErrorCode::bad_request,
                "the allocation chooses the share of columns that keep more bits of each matrix: "
                "it cannot be asked for too");
  }
  if (allocate.kind == Allocation::ratio && recipe.bits >= recipe.high_bits) {
    throw_error(ErrorCode::bad_request,
                "high-impact columns have more bits than the others, found {} and {}",
                recipe.high_bits, recipe.bits);
  }
}

void check_squeeze(const Recipe& recipe) {
  if (recipe.salience != Salience::weight && !mixes(recipe)) {
    throw_error(ErrorCode::bad_request,
                "the columns that keep more bits are chosen in a mixed layout: --mixed SHARE, or a "
                "budget without --widths or a search");
  }
  if (recipe.salience != Salience::weight && (recipe.awq || recipe.omniquant)) {
    throw_error(ErrorCode::bad_request,
                "columns are chosen by their inputs when codes are, after {} has fitted its scales "
                "to another choice: they do not compose",
                recipe.awq ? "awq" : "omniquant");
  }
  if (recipe.pbar_lambda && recipe.salience != Salience::pbar) {
    throw_error(ErrorCode::bad_request, "PBAR's lambda needs --salience pbar");
  }
  if (recipe.pbar_trials && (recipe.pbar_lambda || recipe.salience != Salience::pbar)) {
    throw_error(ErrorCode::bad_request,
                "trials choose PBAR's lambda: they need --salience pbar, and no lambda given");
  }
  if (recipe.pbar_lambda && !(*recipe.pbar_lambda >= 0)) {
    throw_error(ErrorCode::bad_request, "PBAR's lambda cannot be less than 0, found {}",
                *recipe.pbar_lambda);
  }
  if (recipe.supervision == Supervision::none) return;
  if (recipe.method != Method::gptq) {
    throw_error(ErrorCode::bad_request,
                "full-precision activations guide the codes of gptq, which is not asked for");
  }
  if (recipe.awq || recipe.omniquant) {
    throw_error(ErrorCode::bad_request,
                "full-precision activations are no guide for channels that {} scaled",
                recipe.awq ? "awq" : "omniquant");
  }
}

std::string calibrated_pass(const Recipe& recipe) {
  if (recipe.method == Method::gptq) return "gptq";
  if (learns(recipe)) return recipe.omniquant ? "omniquant" : "tune";
  if (recipe.search.steps > 0) return "a search";
  if (recipe.allocate.kind != Allocation::none) return "a bit budget";
  if (recipe.salience != Salience::weight) return "a choice of columns by their inputs";
  return recipe.awq ? "awq" : "a weighted range";
}

Json group_json(std::int64_t group) { return group == 0 ? Json("row") : Json(group); }

Json min_json(MinKind kind) { return *min_kind_name(static_cast<std::uint32_t>(kind)); }

std::vector<std::string> passes_of(const Recipe& recipe) {
  std::vector<std::string> passes;
  if (recipe.awq) passes.emplace_back("awq");
  if (recipe.omniquant) passes.emplace_back("omniquant");
  passes.emplace_back(recipe.method == Method::gptq ? "gptq" : "rtn");
  if (recipe.tune) passes.emplace_back("tune");
  return passes;
}

Json rule_json(const Rule& rule) {
  Json json = Json::object();
  for (const LayerMatrix matrix : rule.matrices) json["matrices"].push_back(name_of(matrix));
  if (rule.layers) json["layers"] = {rule.layers->first, rule.layers->second};
  if (rule.bits) json["bits"] = *rule.bits;
  if (rule.group) json["group"] = group_json(*rule.group);
  if (rule.min) json["min"] = *rule.min ? min_json(**rule.min) : Json("auto");
  if (rule.mixed) json["mixed"] = *rule.mixed;
  if (rule.high_bits) json["high_bits"] = *rule.high_bits;
  return json;
}

Json allocate_json(const AllocateOptions& allocate) {
  Json json;
  json["kind"] = to_string(allocate.kind);
  if (allocate.target_bits > 0) json["target_bits"] = allocate.target_bits;
  if (allocate.target_bytes > 0) json["target_bytes"] = allocate.target_bytes;
  if (!allocate.widths.empty()) json["widths"] = allocate.widths;
  json["sensitivity"] = to_string(allocate.sensitivity);
  json["cross"] = allocate.cross;
  json["sequences"] = allocate.sequences;
  if (allocate.solved) json["solved"] = true;
  return json;
}

Json search_json(const SearchOptions& search) {
  return {{"method", "invarexplore"},
          {"steps", search.steps},
          {"together", search.together},
          {"ranked", search.ranked},
          {"permute", search.permute},
          {"scale", search.scale},
          {"rotate", search.rotate},
          {"ffn", search.ffn},
          {"values", search.values},
          {"queries", search.queries},
          {"norms", search.norms},
          {"matched", search.matched},
          {"alpha", search.alpha},
          {"target", to_string(search.target)},
          {"local", search.local},
          {"scale_step", search.scale_step},
          {"rotate_step", search.rotate_step},
          {"early", search.early},
          {"patience", search.patience}};
}

// Reads the keys of one object; what is left over is refused.
class Reader {
 public:
  Reader(const nlohmann::json& json, std::string name) : json_(json), name_(std::move(name)) {
    if (!json.is_object()) throw_error(ErrorCode::bad_request, "{} must be an object", name_);
  }

  template <typename T>
  void integer(const char* key, T& value) {
    if (!take(key)) return;
    const nlohmann::json& found = json_.at(key);
    const bool big = found.is_number_unsigned() && std::in_range<T>(found.get<std::uint64_t>());
    if (big) {
      value = static_cast<T>(found.get<std::uint64_t>());
      return;
    }
    const std::int64_t number = json_int(json_, key, name_);
    if (!std::in_range<T>(number)) fail(key, fmt::format("cannot be {}", number));
    value = static_cast<T>(number);
  }
  void integer(const char* key, std::optional<int>& value) {
    if (int read = 0; has(key)) {
      integer(key, read);
      value = read;
    }
  }
  void number(const char* key, double& value) {
    if (take(key)) value = json_number_or(json_, key, value, name_);
  }
  void number(const char* key, std::optional<double>& value) {
    if (double read = 0; has(key)) {
      number(key, read);
      value = read;
    }
  }
  void boolean(const char* key, bool& value) {
    if (take(key)) value = json_bool_or(json_, key, value, name_);
  }
  std::optional<std::string> text(const char* key) {
    if (!take(key)) return std::nullopt;
    return json_string_or(json_, key, "", name_);
  }
  // One of the names that parse() knows.
  template <typename T>
  void choice(const char* key, std::optional<T> (*parse)(std::string_view) noexcept,
              const char* names, T& value) {
    const std::optional<std::string> name = text(key);
    if (!name) return;
    const std::optional<T> known = parse(*name);
    if (!known) fail(key, fmt::format("must be {}, found \"{}\"", names, *name));
    value = *known;
  }
  const nlohmann::json* array(const char* key) {
    if (!take(key)) return nullptr;
    if (!json_.at(key).is_array()) fail(key, "must be an array");
    return &json_.at(key);
  }
  const nlohmann::json* object(const char* key) { return take(key) ? &json_.at(key) : nullptr; }

  std::optional<std::int64_t> group() {
    if (!has("group")) return std::nullopt;
    if (json_.at("group") == "row") {
      take("group");
      return 0;
    }
    std::int64_t value = 0;
    integer("group", value);
    return value;
  }
  // "auto": there, but no kind.
  std::optional<std::optional<MinKind>> min() {
    const std::optional<std::string> name = text("min");
    if (!name) return std::nullopt;
    if (*name == "auto") return std::optional<MinKind>();
    const std::optional<MinKind> kind = parse_min_kind(*name);
    if (!kind) fail("min", fmt::format("must be auto, zero, midrise or f16, found \"{}\"", *name));
    return kind;
  }

  void finish() const {
    for (const auto& [key, value] : json_.items()) {
      if (std::find(taken_.begin(), taken_.end(), key) == taken_.end()) {
        fail(key, "is not a field of a recipe");
      }
    }
  }

  [[noreturn]] void fail(const std::string& key, const std::string& what) const {
    throw_error(ErrorCode::bad_request, "{}: \"{}\" {}", name_, key, what);
  }
  const std::string& name() const noexcept { return name_; }

 private:
  bool has(const char* key) const { return json_.contains(key) && !json_.at(key).is_null(); }
  bool take(const char* key) {
    if (json_.contains(key)) taken_.emplace_back(key);
    return has(key);
  }

  const nlohmann::json& json_;
  std::string name_;
  std::vector<std::string> taken_;
};

Rule read_rule(const nlohmann::json& json, const std::string& name) {
  Reader reader(json, name);
  Rule rule;
  if (const nlohmann::json* matrices = reader.array("matrices")) {
    for (const nlohmann::json& matrix : *matrices) {
      const auto role =
          matrix.is_string() ? parse_layer_matrix(matrix.get<std::string>()) : std::nullopt;
      if (!role)
        reader.fail("matrices", fmt::format("names no matrix of a layer: {}", matrix.dump()));
      rule.matrices.push_back(*role);
    }
  }
  if (const nlohmann::json* layers = reader.array("layers")) {
    const auto is_layer = [](const nlohmann::json& layer) {
      return layer.is_number_unsigned() && std::in_range<std::int64_t>(layer.get<std::uint64_t>());
    };
    if (layers->size() != 2 || !is_layer(layers->at(0)) || !is_layer(layers->at(1)) ||
        layers->at(0) > layers->at(1)) {
      reader.fail("layers", "must be the first and the last layer");
    }
    rule.layers = {layers->at(0).get<std::int64_t>(), layers->at(1).get<std::int64_t>()};
  }
  reader.integer("bits", rule.bits);
  rule.group = reader.group();
  rule.min = reader.min();
  reader.number("mixed", rule.mixed);
  reader.integer("high_bits", rule.high_bits);
  reader.finish();
  return rule;
}

}  // namespace

void validate(const Recipe& recipe) {
  check_bits("bits", recipe.bits, false);
  check_bits("the bits of embeddings", recipe.embed_bits.value_or(kDefaultTableBits), true);
  check_bits("the bits of the head", recipe.head_bits.value_or(kDefaultTableBits), true);
  check_group(recipe.group);
  for (const Rule& rule : recipe.rules) {
    if (rule.bits) check_bits("the bits of a rule", *rule.bits, false);
    if (rule.group) check_group(*rule.group);
  }
  const bool looks = needs_calibration(recipe) || recipe.search.steps > 0;
  if (looks && recipe.calibration.file.empty()) {
    throw_error(ErrorCode::bad_request, "{} needs a calibration text: --calib FILE",
                calibrated_pass(recipe));
  }
  check_share("damping", recipe.damping);
  if (recipe.calibration.sequences < 1 || recipe.calibration.length < 2) {
    throw_error(ErrorCode::bad_request,
                "calibration takes at least one sequence of two tokens, found {} of {}",
                recipe.calibration.sequences, recipe.calibration.length);
  }
  if (recipe.learn.epochs < 1 || recipe.learn.epochs > kMaxEpochs) {
    throw_error(ErrorCode::bad_request, "epochs must lie between 1 and {}, found {}", kMaxEpochs,
                recipe.learn.epochs);
  }
  check_share("the learning rate", recipe.learn.rate);
  if (recipe.learn.codes != LearnedCodes::none && !recipe.tune) {
    throw_error(ErrorCode::bad_request, "codes are learned by tune, which is not asked for");
  }
  check_search(recipe.search, mixes(recipe));
  check_share("the learning rate of scales", recipe.learn.scale_rate);
  check_mixed(recipe);
  check_squeeze(recipe);
  check_allocation(recipe);
}

void set_passes(Recipe& recipe, const std::vector<std::string>& passes) {
  std::size_t last = 0;
  std::array<bool, kPasses.size()> seen{};
  for (const std::string& pass : passes) {
    const auto place =
        static_cast<std::size_t>(std::find(kPasses.begin(), kPasses.end(), pass) - kPasses.begin());
    if (place == kPasses.size()) {
      throw_error(ErrorCode::bad_request, "passes are {}; found \"{}\"", fmt::join(kPasses, ", "),
                  pass);
    }
    if (seen[place]) throw_error(ErrorCode::bad_request, "pass {} can run only once", pass);
    if (place < last) {
      throw_error(
          ErrorCode::bad_request,
          "{} cannot come after {}: channels are scaled first (awq), then grids are learned "
          "(omniquant), then codes are chosen "
          "(rtn or gptq), then their grids are learned (tune)",
          pass, kPasses[last]);
    }
    seen[place] = true;
    last = place;
  }
  if (seen[2] && seen[3]) {
    throw_error(ErrorCode::bad_request,
                "rtn and gptq both choose the codes: the second would undo the first");
  }
  recipe.awq = seen[0];
  recipe.omniquant = seen[1];
  recipe.method = seen[3] ? Method::gptq : Method::rtn;
  recipe.tune = seen[4];
}

void set_squeeze10(Recipe& recipe) {
  set_passes(recipe, {"gptq"});
  recipe.mixed = kSqueezeShare;
  recipe.salience = Salience::pbar;
  recipe.supervision = Supervision::target;
  recipe.range = RangeKind::weighted;
}

bool mixes(const Recipe& recipe) {
  const bool allocated = recipe.allocate.kind == Allocation::ratio ||
                         (recipe.allocate.kind == Allocation::bits &&
                          recipe.allocate.widths.empty() && recipe.search.steps == 0);
  return recipe.mixed > 0 || allocated ||
         std::any_of(recipe.rules.begin(), recipe.rules.end(),
                     [](const Rule& rule) { return rule.mixed.value_or(0) > 0; });
}

bool learns(const Recipe& recipe) { return recipe.omniquant || recipe.tune; }

bool looks_at_inputs(const Recipe& recipe) {
  return recipe.method == Method::gptq || recipe.range == RangeKind::weighted ||
         recipe.salience != Salience::weight;
}

bool weighs_ranges(const Recipe& recipe) {
  return recipe.range == RangeKind::weighted ||
         (recipe.method == Method::gptq && recipe.range != RangeKind::minmax);
}

bool needs_calibration(const Recipe& recipe) {
  return looks_at_inputs(recipe) || recipe.awq || learns(recipe) ||
         recipe.allocate.kind != Allocation::none;
}

std::string to_json(const Recipe& recipe) {
  Json json;
  json["passes"] = passes_of(recipe);
  json["bits"] = recipe.bits;
  json["group"] = group_json(recipe.group);
  json["range"] = name_of(recipe.range);
  json["min"] = recipe.min ? min_json(*recipe.min) : Json("auto");
  if (recipe.embed_bits) json["embed_bits"] = *recipe.embed_bits;
  if (recipe.head_bits) json["head_bits"] = *recipe.head_bits;
  if (mixes(recipe)) {
    if (recipe.mixed > 0) json["mixed"] = recipe.mixed;
    if (recipe.high_bits != kMixedHighBits || recipe.allocate.kind == Allocation::ratio) {
      json["high_bits"] = recipe.high_bits;
    }
    json["salience"] = to_string(recipe.salience);
    if (recipe.pbar_lambda) json["pbar_lambda"] = *recipe.pbar_lambda;
    if (recipe.pbar_trials) json["pbar_trials"] = true;
  }
  if (recipe.supervision != Supervision::none) {
    json["supervision"] = to_string(recipe.supervision);
  }
  if (recipe.allocate.kind != Allocation::none) {
    json["allocate"] = allocate_json(recipe.allocate);
  }
  for (const Rule& rule : recipe.rules) json["rules"].push_back(rule_json(rule));
  if (learns(recipe)) {
    json["learning"] = {{"epochs", recipe.learn.epochs},
                        {"rate", recipe.learn.rate},
                        {"scales", recipe.learn.scales},
                        {"scale_rate", recipe.learn.scale_rate}};
    if (recipe.learn.codes != LearnedCodes::none) {
      json["learning"]["codes"] = to_string(recipe.learn.codes);
    }
  }
  if (recipe.method == Method::gptq) {
    json["damping"] = recipe.damping;
    json["act_order"] = recipe.act_order;
  }
  if (recipe.search.steps > 0) json["search"] = search_json(recipe.search);
  if (needs_calibration(recipe) || recipe.search.steps > 0) {
    json["calibration"] = {{"sequences", recipe.calibration.sequences},
                           {"length", recipe.calibration.length},
                           {"seed", recipe.calibration.seed}};
  }
  return json.dump();
}

void read_json(const nlohmann::json& json, const std::string& name, Recipe& recipe) {
  Reader reader(json, name);
  if (const nlohmann::json* list = reader.array("passes")) {
    std::vector<std::string> passes;
    for (const nlohmann::json& pass : *list) {
      if (!pass.is_string()) reader.fail("passes", "must hold names");
      passes.push_back(pass.get<std::string>());
    }
    set_passes(recipe, passes);
  }
  reader.integer("bits", recipe.bits);
  recipe.group = reader.group().value_or(recipe.group);
  reader.choice("range", parse_range, "minmax, mse or weighted", recipe.range);
  if (const auto kind = reader.min()) recipe.min = *kind;
  reader.integer("embed_bits", recipe.embed_bits);
  reader.integer("head_bits", recipe.head_bits);
  reader.number("mixed", recipe.mixed);
  reader.integer("high_bits", recipe.high_bits);
  reader.choice("salience", parse_salience, "weight, activation or pbar", recipe.salience);
  reader.number("pbar_lambda", recipe.pbar_lambda);
  reader.boolean("pbar_trials", recipe.pbar_trials);
  reader.choice("supervision", parse_supervision, "none, full, target or blend",
                recipe.supervision);
  if (const nlohmann::json* rules = reader.array("rules")) {
    recipe.rules.clear();
    for (const nlohmann::json& rule : *rules) {
      recipe.rules.push_back(
          read_rule(rule, fmt::format("{}: rule {}", name, recipe.rules.size() + 1)));
    }
  }
  if (const nlohmann::json* allocate = reader.object("allocate")) {
    Reader part(*allocate, name + ": allocate");
    part.choice("kind", parse_allocation, "none, ratio or bits", recipe.allocate.kind);
    part.number("target_bits", recipe.allocate.target_bits);
    part.integer("target_bytes", recipe.allocate.target_bytes);
    if (const nlohmann::json* widths = part.array("widths")) {
      recipe.allocate.widths.clear();
      for (const nlohmann::json& width : *widths) {
        if (!width.is_number_unsigned() || width > kFloatBits) {
          part.fail("widths", fmt::format("must hold numbers of bits, found {}", width.dump()));
        }
        recipe.allocate.widths.push_back(width.get<int>());
      }
    }
    part.choice("sensitivity", parse_sensitivity, "block, scaled or final",
                recipe.allocate.sensitivity);
    part.boolean("cross", recipe.allocate.cross);
    part.integer("sequences", recipe.allocate.sequences);
    part.boolean("solved", recipe.allocate.solved);
    part.finish();
  }
  if (const nlohmann::json* learn = reader.object("learning")) {
    Reader part(*learn, name + ": learning");
    part.integer("epochs", recipe.learn.epochs);
    part.number("rate", recipe.learn.rate);
    part.boolean("scales", recipe.learn.scales);
    part.number("scale_rate", recipe.learn.scale_rate);
    part.choice("codes", parse_learned_codes, "none, high or all", recipe.learn.codes);
    part.finish();
  }
  if (const nlohmann::json* search = reader.object("search")) {
    Reader part(*search, name + ": search");
    if (const auto method = part.text("method"); method && *method != "invarexplore") {
      part.fail("method", fmt::format("must be invarexplore, found \"{}\"", *method));
    }
    if (recipe.search.steps == 0) recipe.search.steps = kDefaultSearchSteps;
    part.integer("steps", recipe.search.steps);
    part.integer("together", recipe.search.together);
    part.integer("ranked", recipe.search.ranked);
    part.boolean("permute", recipe.search.permute);
    part.boolean("scale", recipe.search.scale);
    part.boolean("rotate", recipe.search.rotate);
    part.boolean("ffn", recipe.search.ffn);
    part.boolean("values", recipe.search.values);
    part.boolean("queries", recipe.search.queries);
    part.boolean("norms", recipe.search.norms);
    part.integer("matched", recipe.search.matched);
    part.number("alpha", recipe.search.alpha);
    part.choice("target", parse_search_target, "text or teacher", recipe.search.target);
    part.integer("local", recipe.search.local);
    part.number("scale_step", recipe.search.scale_step);
    part.number("rotate_step", recipe.search.rotate_step);
    part.number("early", recipe.search.early);
    part.integer("patience", recipe.search.patience);
    part.finish();
  }
  reader.number("damping", recipe.damping);
  reader.boolean("act_order", recipe.act_order);
  if (const nlohmann::json* calibration = reader.object("calibration")) {
    Reader part(*calibration, name + ": calibration");
    part.integer("sequences", recipe.calibration.sequences);
    part.integer("length", recipe.calibration.length);
    part.integer("seed", recipe.calibration.seed);
    part.finish();
  }
  reader.finish();
}

}  // namespace tenfold
