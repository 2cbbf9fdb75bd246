#include "server/metrics.h"

#include <fmt/format.h>

#include <iterator>

namespace tenfold {
namespace {

class Text {
 public:
  void head(const char* name, const char* type, const char* help) {
    fmt::format_to(std::back_inserter(text_), "# HELP tenfold_{} {}\n# TYPE tenfold_{} {}\n", name,
                   help, name, type);
  }
  template <typename T>
  void value(const char* name, const char* type, const char* help, T x) {
    head(name, type, help);
    fmt::format_to(std::back_inserter(text_), "tenfold_{} {}\n", name, x);
  }
  template <typename T>
  void gauge(const char* name, const char* help, T x) {
    value(name, "gauge", help, x);
  }
  template <typename T>
  void counter(const char* name, const char* help, T x) {
    value(name, "counter", help, x);
  }
  void histogram(const char* name, const char* help, const Histogram& h) {
    head(name, "histogram", help);
    std::uint64_t below = 0;
    for (std::size_t i = 0; i < h.counts.size(); ++i) {
      below += h.counts[i];
      const std::string bound =
          i < Histogram::kBounds.size() ? fmt::format("{}", Histogram::kBounds[i]) : "+Inf";
      fmt::format_to(std::back_inserter(text_), "tenfold_{}_bucket{{le=\"{}\"}} {}\n", name, bound,
                     below);
    }
    fmt::format_to(std::back_inserter(text_), "tenfold_{}_sum {}\ntenfold_{}_count {}\n", name,
                   h.sum, name, h.n);
  }
  void requests(const RequestCounts& counts) {
    head("requests_total", "counter", "Answers by route and status.");
    for (const auto& [key, n] : counts.all()) {
      fmt::format_to(std::back_inserter(text_),
                     "tenfold_requests_total{{route=\"{}\",status=\"{}\"}} {}\n", key.first,
                     key.second, n);
    }
  }
  std::string take() { return std::move(text_); }

 private:
  std::string text_;
};

}  // namespace

void RequestCounts::add(const std::string& route, int status) {
  const std::scoped_lock lock(mutex_);
  ++counts_[{route, status}];
}

std::map<std::pair<std::string, int>, std::uint64_t> RequestCounts::all() const {
  const std::scoped_lock lock(mutex_);
  return counts_;
}

std::string metrics_text(const RequestCounts& requests, const EngineStats& stats,
                         std::size_t connections) {
  const SchedulerStats& s = stats.scheduler;
  Text text;
  text.requests(requests);
  text.gauge("connections", "Open connections.", connections);
  text.gauge("generations_running", "Generations in the batch.", s.running);
  text.gauge("generations_waiting", "Generations in the queue.", s.waiting);
  text.gauge("kv_pages", "Pages of the KV cache.", s.pages);
  text.gauge("kv_pages_used", "Pages in use, by cached prefixes too.", s.used_pages);
  text.gauge("cached_prefixes", "Sequences kept for later prompts.", s.cached);
  text.counter("steps_total", "Forward passes.", s.steps);
  text.counter("batch_tokens_total", "Tokens of all forward passes; by steps: the mean batch.",
               s.batch_tokens);
  text.counter("prompt_tokens_total", "Tokens of prompts that were run.", s.prompt_tokens);
  text.counter("reused_tokens_total", "Tokens of prompts that were in the cache.", s.reused_tokens);
  text.counter("generated_tokens_total", "Tokens generated.", s.generated_tokens);
  text.counter("preempted_total", "Sequences that gave their pages back for a while.", s.preempted);
  text.counter("busy_seconds_total", "Time spent in forward passes and sampling.", s.busy_seconds);
  text.histogram("first_token_seconds", "From the request to its first token.", stats.first_token);
  text.histogram("generation_seconds", "From the request to its end.", stats.generation);
  return text.take();
}

}  // namespace tenfold
