#pragma once
// GET /metrics in Prometheus' text format.

#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <utility>

#include "server/engine.h"

namespace tenfold {

// Answers given, by route and status. Any thread.
class RequestCounts {
 public:
  void add(const std::string& route, int status);
  std::map<std::pair<std::string, int>, std::uint64_t> all() const;

 private:
  mutable std::mutex mutex_;
  std::map<std::pair<std::string, int>, std::uint64_t> counts_;
};

std::string metrics_text(const RequestCounts& requests, const EngineStats& stats,
                         std::size_t connections);

}  // namespace tenfold
