#pragma once
// What `tenfold bench` found, and how it says so. GB are 1e9 bytes; a multiply-accumulate of a
// weight is two operations; attention over the KV cache counts in the time, not in the operations.

#include <cstdint>
#include <string>
#include <vector>

#include "tools/bench_run.h"

namespace tenfold {

struct PrefillResult {
  std::int64_t tokens = 0;
  Speed tok_s;
};

struct DecodeResult {
  std::int64_t batch = 0, steps = 0;
  Speed tok_s;
  double read_gb_s = 0;  // the machine's read bandwidth between the runs, averaged; 0: not measured
};

struct BenchReport {
  std::string model;        // as on the command line
  std::string isa, device;  // isa: of the CPU
  std::string runs_on;      // the device, for people
  int threads = 0;
  double bits_per_weight = 0;
  WeightWork work;
  std::uint64_t kv_bytes_per_token = 0;
  // What the machine can do; 0: not measured, and shares are null or empty.
  double read_gb_s = 0;   // the most that was seen
  double peak_gop_s = 0;  // of int8 products where the weights are packed, else of float FMAs
  std::vector<PrefillResult> prefill;
  std::vector<DecodeResult> decode;
};

double operations_per_second(const BenchReport& report, const PrefillResult& result);  // 1e9
double weight_gb_s(const BenchReport& report, const DecodeResult& result);
// Keys and values read by attention, 1e9 bytes a second, averaged over the run.
double kv_gb_s(const BenchReport& report, const DecodeResult& result);

std::string to_markdown(const BenchReport& report);
std::string to_json(const BenchReport& report);  // one line
std::string to_csv(const BenchReport& report);   // a header and a line for each measurement

}  // namespace tenfold
