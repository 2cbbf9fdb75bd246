// Recipes as JSON, and which passes compose.

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "quantizer/plan.h"
#include "tests/support/expect_error.h"

namespace tenfold {
namespace {

Recipe from_json(const std::string& text) {
  Recipe recipe;
  read_json(nlohmann::json::parse(text), "recipe.json", recipe);
  return recipe;
}

std::string refused(const std::string& text) {
  return testing::expect_error(ErrorCode::bad_request, [&] { from_json(text); });
}

TEST(Recipe, JsonComesBackAsItWas) {
  Recipe recipe;
  set_passes(recipe, {"awq", "omniquant", "gptq", "tune"});
  recipe.bits = 2;
  recipe.group = 0;
  recipe.range = RangeKind::weighted;
  recipe.min = MinKind::midrise;
  recipe.embed_bits = 4;
  recipe.head_bits = 16;
  recipe.damping = 0.02;
  recipe.act_order = false;
  recipe.learn = {7, 0.25, 0.5, false};
  recipe.calibration = {"", 12, 34, 56};
  recipe.rules = {{{LayerMatrix::down}, {{0, 3}}, 4, 64, MinKind::zero},
                  {{}, {}, 3, {}, std::optional<MinKind>()}};
  recipe.calibration.seed = ~std::uint64_t{0};
  const std::string text = to_json(recipe);
  EXPECT_EQ(to_json(from_json(text)), text);
  SearchOptions& search = recipe.search;
  search = {77, 3, 8, false, true, false, false, true, false, false, 3, 0.5, SearchTarget::teacher};
  search.local = 5;
  search.scale_step = 0.25;
  search.rotate_step = 0.125;
  search.early = 0.0625;
  search.patience = 9;
  const std::string with_search = to_json(recipe);
  EXPECT_NE(with_search, text);
  EXPECT_EQ(to_json(from_json(with_search)), with_search);
  const SearchOptions back = from_json(with_search).search;
  EXPECT_TRUE(back.scale && back.values && !back.permute && !back.ffn && !back.norms);
  EXPECT_EQ(back.target, SearchTarget::teacher);
  Recipe mixed;
  set_squeeze10(mixed);
  mixed.bits = 1;
  mixed.mixed = 0.25;
  mixed.pbar_lambda = 0.5;
  mixed.supervision = Supervision::target;
  const Recipe mixed_back = from_json(to_json(mixed));
  EXPECT_TRUE(mixed_back.salience == Salience::pbar && mixed_back.pbar_lambda == 0.5 &&
              mixed_back.supervision == Supervision::target);
  EXPECT_EQ(to_json(from_json(to_json(mixed))), to_json(mixed));
}

TEST(Recipe, AbsentKeysKeepWhatIsThere) {
  EXPECT_EQ(to_json(from_json("{}")), to_json(Recipe()));
  EXPECT_EQ(from_json(R"({"bits": 3})").bits, 3);
  EXPECT_EQ(from_json(R"({"group": "row"})").group, 0);
  EXPECT_FALSE(from_json(R"({"min": "auto"})").min);
}

TEST(Recipe, RefusesWhatIsNotOne) {
  EXPECT_NE(refused("[]").find("recipe.json must be an object"), std::string::npos);
  EXPECT_NE(refused(R"({"bit": 3})").find("\"bit\" is not a field of a recipe"), std::string::npos);
  EXPECT_NE(refused(R"({"range": "wide"})").find("found \"wide\""), std::string::npos);
  EXPECT_NE(refused(R"({"min": "low"})").find("found \"low\""), std::string::npos);
  EXPECT_NE(refused(R"({"rules": [{"matrices": ["head"]}]})").find("rule 1"), std::string::npos);
  EXPECT_NE(refused(R"({"rules": [{}, {"layers": [1]}]})").find("rule 2"), std::string::npos);
  EXPECT_NE(refused(R"({"rules": {"bits": 3}})").find("must be an array"), std::string::npos);
  EXPECT_NE(refused(R"({"passes": ["awq", 3]})").find("must hold names"), std::string::npos);
  EXPECT_NE(refused(R"({"learning": {"speed": 3}})").find("speed"), std::string::npos);
  EXPECT_NE(refused(R"({"search": {"target": "truth"}})").find("found \"truth\""),
            std::string::npos);
  EXPECT_NE(refused(R"({"salience": "size"})").find("found \"size\""), std::string::npos);
  EXPECT_NE(refused(R"({"supervision": "A"})").find("found \"A\""), std::string::npos);
  EXPECT_NE(refused(R"({"bits": 4294967300})").find("cannot be 4294967300"), std::string::npos);
  EXPECT_NE(refused(R"({"calibration": {"seed": -1}})").find("cannot be -1"), std::string::npos);
  EXPECT_NE(refused(R"({"rules": [{"layers": [5, 2]}]})").find("layers"), std::string::npos);
  EXPECT_NE(refused(R"({"rules": [{"layers": [0, 18446744073709551615]}]})").find("layers"),
            std::string::npos);
  testing::expect_error(ErrorCode::bad_file, [] { from_json(R"({"bits": "three"})"); });
  Recipe wide = from_json(R"({"rules": [{"bits": 5}]})");
  EXPECT_NE(testing::expect_error(ErrorCode::bad_request, [&] { validate(wide); })
                .find("the bits of a rule"),
            std::string::npos);
}

TEST(Recipe, PassesComposeInOneOrder) {
  const auto refusal = [](const std::vector<std::string>& passes) {
    Recipe recipe;
    return testing::expect_error(ErrorCode::bad_request, [&] { set_passes(recipe, passes); });
  };
  EXPECT_NE(refusal({"gptq", "awq"}).find("awq cannot come after gptq: channels are scaled first"),
            std::string::npos);
  EXPECT_NE(refusal({"rtn", "gptq"}).find("both choose the codes"), std::string::npos);
  EXPECT_NE(refusal({"awq", "awq"}).find("only once"), std::string::npos);
  EXPECT_NE(refusal({"magic"}).find("found \"magic\""), std::string::npos);
  Recipe recipe;
  set_passes(recipe, {"omniquant"});
  EXPECT_TRUE(recipe.omniquant && recipe.method == Method::rtn && !recipe.awq && !recipe.tune);
}

}  // namespace
}  // namespace tenfold
