#include "tools/bench_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace tenfold {
namespace {

using nlohmann::ordered_json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

BenchReport example() {
  BenchReport report;
  report.model = "model.gguf";
  report.isa = "avx2";
  report.device = "cpu";
  report.threads = 2;
  report.bits_per_weight = 4.5;
  report.work = {2'000'000'000, 3'000'000, 1'000'000, true};
  report.kv_bytes_per_token = 1'000'000;
  report.read_gb_s = 50;
  report.peak_gop_s = 800;
  report.prefill = {{100, {50, 1.5}}};
  report.decode = {{1, 9, {10, 0.5}, 40}, {4, 9, {20, 0}, 50}};
  return report;
}

std::vector<std::string> keys(const ordered_json& object) {
  std::vector<std::string> names;
  for (const auto& [name, value] : object.items()) names.push_back(name);
  return names;
}

TEST(BenchReport, SpeedsBecomeRates) {
  const BenchReport report = example();
  // 2 operations * (100 tokens * 3e6 + 1 row of logits * 1e6) in 2 s.
  EXPECT_NEAR(operations_per_second(report, report.prefill[0]), 0.301, 1e-12);
  EXPECT_NEAR(weight_gb_s(report, report.decode[0]), 20, 1e-12);
  EXPECT_NEAR(weight_gb_s(report, report.decode[1]), 10, 1e-12);  // 5 steps/s of 4 sequences
  EXPECT_NEAR(kv_gb_s(report, report.decode[0]), 0.05, 1e-12);    // 5 tokens on average, 10 times/s
}

TEST(BenchReport, JsonHasTheDocumentedKeys) {
  const std::string text = to_json(example());
  EXPECT_EQ(text.find('\n'), text.size() - 1);
  const ordered_json json = ordered_json::parse(text);
  EXPECT_THAT(keys(json),
              ElementsAre("model", "isa", "device", "threads", "bits_per_weight", "weight_bytes",
                          "prefill", "decode", "read_bandwidth_gb_s", "peak_gop_s"));
  EXPECT_THAT(keys(json["prefill"][0]),
              ElementsAre("tokens", "tok_s", "sd", "gop_s", "peak_share"));
  EXPECT_THAT(keys(json["decode"][1]),
              ElementsAre("batch", "tok_s", "sd", "gb_s", "bandwidth_share"));
  EXPECT_DOUBLE_EQ(json["decode"][0]["bandwidth_share"], 0.5);
  EXPECT_EQ(json["weight_bytes"], 2'000'000'000);
}

TEST(BenchReport, WithoutLimitsThereAreNoShares) {
  BenchReport report = example();
  report.read_gb_s = report.peak_gop_s = report.decode[0].read_gb_s = 0;
  const ordered_json json = ordered_json::parse(to_json(report));
  EXPECT_TRUE(json["prefill"][0]["peak_share"].is_null());
  EXPECT_TRUE(json["decode"][0]["bandwidth_share"].is_null());
  EXPECT_TRUE(json["read_bandwidth_gb_s"].is_null());
  EXPECT_THAT(to_csv(report), HasSubstr("\nprefill,100,1,50.0000,1.5000,0.301,,,,\n"));
}

TEST(BenchReport, MarkdownAndCsvShowTheSameFigures) {
  EXPECT_THAT(to_markdown(example()),
              HasSubstr("| decode 1 × 9 | 10.00 ± 0.50 | | | 20.00 | 40.00 | 50.0 % |"));
  EXPECT_THAT(to_csv(example()),
              HasSubstr("\ndecode,9,1,10.0000,0.5000,,,20.0000,0.5000,0.0500\n"));
}

TEST(BenchReport, SpreadIsThatOfASample) {
  const std::vector<double> speeds = {1, 2, 3, 4};
  EXPECT_DOUBLE_EQ(summarize(speeds).mean, 2.5);
  EXPECT_NEAR(summarize(speeds).sd, 1.2909944487358056, 1e-12);
  EXPECT_EQ(summarize(std::vector<double>{7}).sd, 0);
}

}  // namespace
}  // namespace tenfold
