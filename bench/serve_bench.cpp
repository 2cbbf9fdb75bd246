// Load for a server with OpenAI's completions: so many clients at once, each asking again as soon
// as it is answered. Prints one JSON object: tokens a second over all clients, time to the first
// token, and what the clients themselves cost.
//
//   serve_bench --port 8080 --clients 8 --requests 32 --max-tokens 128

#include <fmt/format.h>
#include <sys/resource.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <chrono>
#include <mutex>
#include <nlohmann/json.hpp>
#include <thread>
#include <vector>

#include "server/httplib.h"

namespace {

using Clock = std::chrono::steady_clock;
using Json = nlohmann::ordered_json;

struct Options {
  std::string host = "127.0.0.1", model;
  int port = 8080, clients = 8, requests = 32, max_tokens = 128, prompt_words = 60;
  int first = 0;  // number of the first prompt: none is asked twice of one server
};

struct Measured {
  std::mutex mutex;
  std::vector<double> first_token_seconds;
  std::int64_t tokens = 0, prompt_tokens = 0;
  std::vector<std::string> failures;
};

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

double cpu_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

// Different for each request, from its first word on: no prefix is shared.
std::string prompt_of(int request, int words) {
  static constexpr const char* kWords[] = {"river",  "stone",  "paper",   "light",
                                           "winter", "engine", "garden",  "number",
                                           "music",  "window", "harbour", "iron"};
  std::uint32_t state = 7919u * static_cast<std::uint32_t>(request) + 1;
  std::string text;
  for (int i = 0; i < words; ++i) {
    state = state * 1664525u + 1013904223u;
    text += fmt::format("{}{}", i == 0 ? "" : " ", kWords[(state >> 16) % std::size(kWords)]);
  }
  return text;
}

void ask(const Options& options, int request, Measured& measured) {
  Json body = {{"prompt", prompt_of(options.first + request, options.prompt_words)},
               {"max_tokens", options.max_tokens},
               {"temperature", 0},
               {"ignore_eos", true},
               {"stream", true},
               {"stream_options", {{"include_usage", true}}}};
  if (!options.model.empty()) body["model"] = options.model;
  httplib::Client client(options.host, options.port);
  client.set_read_timeout(600);
  client.set_tcp_nodelay(true);
  const auto start = Clock::now();
  double first = -1;
  std::string held;
  Json usage;
  httplib::Request post;
  post.method = "POST";
  post.path = "/v1/completions";
  post.set_header("Content-Type", "application/json");
  post.body = body.dump();
  post.content_receiver = [&](const char* data, std::size_t size, std::uint64_t, std::uint64_t) {
    held.append(data, size);
    for (std::size_t end; (end = held.find("\n\n")) != std::string::npos; held.erase(0, end + 2)) {
      const Json part = Json::parse(held.substr(6, end - 6), nullptr, false);
      if (!part.is_object()) continue;
      if (first < 0 && !part.value("choices", Json::array()).empty()) first = seconds_since(start);
      if (part.contains("usage") && part["usage"].is_object()) usage = part["usage"];
    }
    return true;
  };
  const httplib::Result result = client.send(post);
  const std::scoped_lock lock(measured.mutex);
  if (!result || result->status != 200 || !usage.is_object()) {
    measured.failures.push_back(result ? fmt::format("status {}", result->status)
                                       : httplib::to_string(result.error()));
    return;
  }
  measured.first_token_seconds.push_back(first);
  measured.tokens += usage["completion_tokens"].get<std::int64_t>();
  measured.prompt_tokens += usage["prompt_tokens"].get<std::int64_t>();
}

double quantile(std::vector<double> values, double q) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  return values[static_cast<std::size_t>(q * static_cast<double>(values.size() - 1))];
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app("Load for a server with OpenAI's completions");
  app.add_option("--host", options.host);
  app.add_option("--port", options.port);
  app.add_option("--model", options.model);
  app.add_option("--first", options.first);
  app.add_option("--clients", options.clients)->check(CLI::PositiveNumber);
  app.add_option("--requests", options.requests)->check(CLI::PositiveNumber);
  app.add_option("--max-tokens", options.max_tokens)->check(CLI::PositiveNumber);
  app.add_option("--prompt-words", options.prompt_words)->check(CLI::PositiveNumber);
  CLI11_PARSE(app, argc, argv);

  Measured measured;
  std::atomic<int> next = 0;
  const auto start = Clock::now();
  std::vector<std::thread> clients;
  for (int i = 0; i < options.clients; ++i) {
    clients.emplace_back([&] {
      for (int request; (request = next++) < options.requests;) ask(options, request, measured);
    });
  }
  for (std::thread& client : clients) client.join();
  const double seconds = seconds_since(start);
  for (const std::string& failure : measured.failures) {
    fmt::print(stderr, "serve_bench: a request failed: {}\n", failure);
  }
  const Json json = {{"clients", options.clients},
                     {"requests", options.requests},
                     {"prompt_tokens", measured.prompt_tokens},
                     {"tokens", measured.tokens},
                     {"seconds", seconds},
                     {"tokens_per_second", static_cast<double>(measured.tokens) / seconds},
                     {"first_token_median", quantile(measured.first_token_seconds, 0.5)},
                     {"first_token_p95", quantile(measured.first_token_seconds, 0.95)},
                     {"client_cpu_seconds", cpu_seconds()}};
  fmt::print("{}\n", json.dump());
  return measured.failures.empty() ? 0 : 1;
}
