#include "tools/bench_report.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <optional>

namespace tenfold {
namespace {

std::optional<double> share(double value, double limit) {
  if (limit <= 0) return std::nullopt;
  return value / limit;
}

std::optional<double> peak_share(const BenchReport& report, const PrefillResult& result) {
  return share(operations_per_second(report, result), report.peak_gop_s);
}

std::optional<double> bandwidth_share(const BenchReport& report, const DecodeResult& result) {
  return share(weight_gb_s(report, result), result.read_gb_s);
}

std::optional<double> measured(double limit) {
  if (limit <= 0) return std::nullopt;
  return limit;
}

std::string percent(const std::optional<double>& value) {
  return value ? fmt::format("{:.1f} %", 100 * *value) : "";
}

std::string gigabytes(const std::optional<double>& value) {
  return value ? fmt::format("{:.2f}", *value) : "";
}

nlohmann::ordered_json or_null(const std::optional<double>& value) {
  return value ? nlohmann::ordered_json(*value) : nlohmann::ordered_json(nullptr);
}

std::string or_empty(const std::optional<double>& value) {
  return value ? fmt::format("{:.4f}", *value) : "";
}

std::string speed_text(const Speed& speed) {
  return fmt::format("{:.2f} ± {:.2f}", speed.mean, speed.sd);
}

}  // namespace

double operations_per_second(const BenchReport& report, const PrefillResult& result) {
  // The head runs once a prompt, for its last token.
  const double macs =
      static_cast<double>(report.work.token_macs) * static_cast<double>(result.tokens) +
      static_cast<double>(report.work.logit_macs);
  return 2e-9 * macs * result.tok_s.mean / static_cast<double>(result.tokens);
}

double weight_gb_s(const BenchReport& report, const DecodeResult& result) {
  const double steps_per_second = result.tok_s.mean / static_cast<double>(result.batch);
  return 1e-9 * static_cast<double>(report.work.step_bytes) * steps_per_second;
}

double kv_gb_s(const BenchReport& report, const DecodeResult& result) {
  // A token attends to itself and all before it: (steps + 1) / 2 tokens on average.
  const double tokens = static_cast<double>(result.steps + 1) / 2;
  return 1e-9 * static_cast<double>(report.kv_bytes_per_token) * tokens * result.tok_s.mean;
}

std::string to_markdown(const BenchReport& report) {
  std::string text = fmt::format(
      "{}: {:.2f} bits per weight, {}; a decode step reads {:.3f} GB of weights.\n", report.model,
      report.bits_per_weight, report.runs_on, 1e-9 * static_cast<double>(report.work.step_bytes));
  if (report.peak_gop_s > 0) {
    text += fmt::format("The machine does {:.0f} Gop/s ({}).\n", report.peak_gop_s,
                        report.work.int8 ? "int8" : "float FMA");
  }
  text +=
      "\n| test | tok/s | Gop/s | of peak | weights GB/s | machine GB/s | share | KV GB/s |\n"
      "|---|---|---|---|---|---|---|---|\n";
  for (const PrefillResult& result : report.prefill) {
    text += fmt::format("| prefill {} | {} | {:.1f} | {} | | | | |\n", result.tokens,
                        speed_text(result.tok_s), operations_per_second(report, result),
                        percent(peak_share(report, result)));
  }
  for (const DecodeResult& result : report.decode) {
    text += fmt::format("| decode {} × {} | {} | | | {:.2f} | {} | {} | {:.2f} |\n", result.batch,
                        result.steps, speed_text(result.tok_s), weight_gb_s(report, result),
                        gigabytes(measured(result.read_gb_s)),
                        percent(bandwidth_share(report, result)), kv_gb_s(report, result));
  }
  return text;
}

std::string to_json(const BenchReport& report) {
  nlohmann::ordered_json json = {{"model", report.model},
                                 {"isa", report.isa},
                                 {"device", report.device},
                                 {"threads", report.threads},
                                 {"bits_per_weight", report.bits_per_weight},
                                 {"weight_bytes", report.work.step_bytes},
                                 {"prefill", nlohmann::ordered_json::array()},
                                 {"decode", nlohmann::ordered_json::array()},
                                 {"read_bandwidth_gb_s", or_null(measured(report.read_gb_s))},
                                 {"peak_gop_s", or_null(measured(report.peak_gop_s))}};
  for (const PrefillResult& result : report.prefill) {
    json["prefill"].push_back({{"tokens", result.tokens},
                               {"tok_s", result.tok_s.mean},
                               {"sd", result.tok_s.sd},
                               {"gop_s", operations_per_second(report, result)},
                               {"peak_share", or_null(peak_share(report, result))}});
  }
  for (const DecodeResult& result : report.decode) {
    json["decode"].push_back({{"batch", result.batch},
                              {"tok_s", result.tok_s.mean},
                              {"sd", result.tok_s.sd},
                              {"gb_s", weight_gb_s(report, result)},
                              {"bandwidth_share", or_null(bandwidth_share(report, result))}});
  }
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

std::string to_csv(const BenchReport& report) {
  std::string text = "test,tokens,batch,tok_s,sd,gop_s,peak_share,gb_s,bandwidth_share,kv_gb_s\n";
  for (const PrefillResult& result : report.prefill) {
    text += fmt::format("prefill,{},1,{:.4f},{:.4f},{:.3f},{},,,\n", result.tokens,
                        result.tok_s.mean, result.tok_s.sd, operations_per_second(report, result),
                        or_empty(peak_share(report, result)));
  }
  for (const DecodeResult& result : report.decode) {
    text +=
        fmt::format("decode,{},{},{:.4f},{:.4f},,,{:.4f},{},{:.4f}\n", result.steps, result.batch,
                    result.tok_s.mean, result.tok_s.sd, weight_gb_s(report, result),
                    or_empty(bandwidth_share(report, result)), kv_gb_s(report, result));
  }
  return text;
}

}  // namespace tenfold
