// What a divided budget is shown as, also where a file says nonsense.

#include "tools/allocation_text.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace tenfold {
namespace {

TEST(AllocationText, ShowsWidthsAndShares) {
  Rule whole, mixed, everywhere;
  whole.layers = mixed.layers = {0, 0};
  whole.matrices = {LayerMatrix::q, LayerMatrix::down};
  whole.bits = 2;
  mixed.matrices = {LayerMatrix::v};
  mixed.bits = 1;
  mixed.mixed = 0.1944;
  mixed.high_bits = 4;
  everywhere.bits = 8;  // a person's, not a budget's
  EXPECT_EQ(allocation_table({whole, mixed, everywhere}),
            "layer  q         v         down    \n"
            "    0  2         1 +19%4   2       \n");
  EXPECT_EQ(allocation_table({everywhere}), "");
}

TEST(AllocationText, SaysNothingOfNonsense) {
  for (const char* text : {"null", "[]", "7", "{}", R"({"measured":1})", R"({"predicted":1})",
                           R"({"measured":"1","predicted":2})", R"({"measured":null})"}) {
    EXPECT_EQ(allocation_sentence(nlohmann::json::parse(text)), "") << text;
  }
  EXPECT_NE(allocation_sentence({{"measured", 0.5}, {"predicted", 0.25}}).find("0.2500"),
            std::string::npos);
}

}  // namespace
}  // namespace tenfold
