#include <fmt/format.h>

#include <chrono>
#include <filesystem>
#include <thread>

#include "server/access.h"
#include "server/engine.h"
#include "server/http_server.h"
#include "server/service.h"
#include "tools/args.h"
#include "tools/io.h"
#include "tools/load.h"
#include "tools/memory.h"
#include "tools/signals.h"

namespace tenfold {
namespace {

using namespace std::chrono_literals;

struct Options {
  CommonOptions common;
  SamplerOptions sampler;
  std::string host = "127.0.0.1";
  int port = 8080;
  std::vector<std::string> keys, origins, names;
  std::string key_file;
  bool insecure = false;
  std::int32_t parallel = 8;
  std::int64_t context = 0, cache_tokens = 0;
  std::size_t queue = 128, connections = 256;
  int grace_seconds = 10;
};

std::vector<std::string> keys_of(const Options& options) {
  std::vector<std::string> keys = options.keys;
  for (const std::string& key : keys) {
    if (key.empty()) throw_error(ErrorCode::bad_request, "--api-key must not be empty");
  }
  if (!options.key_file.empty()) {
    const std::vector<std::string> more = read_key_file(options.key_file);
    keys.insert(keys.end(), more.begin(), more.end());
  }
  if (keys.empty() && !is_loopback(options.host) && !options.insecure) {
    throw_error(
        ErrorCode::bad_request,
        "--host {} can be reached from other machines: give --api-key or --api-key-file, or "
        "--insecure to let everybody ask",
        options.host);
  }
  return keys;
}

// The cache of all sequences takes a third of the free memory at most, and holds one context.
std::int64_t cache_tokens(const Options& options, const ModelInfo& info, KvType kv) {
  const std::int64_t context = options.context > 0 ? options.context : info.max_context;
  if (options.cache_tokens > 0) return options.cache_tokens;
  const auto room = static_cast<std::int64_t>(memory_field("MemAvailable") / 3 /
                                              kv_shape(info, kv).bytes_per_token());
  return std::clamp(context * options.parallel, context, std::max(context, room));
}

std::string default_name(const Options& options) {
  const std::filesystem::path path =
      std::filesystem::absolute(options.common.model).lexically_normal();
  const std::filesystem::path last = path.has_filename() ? path : path.parent_path();
  return std::filesystem::is_directory(path) ? last.filename().string() : last.stem().string();
}

std::string address(const Options& options, int port) {
  const bool v6 = options.host.find(':') != std::string::npos;
  return fmt::format("http://{}{}{}:{}", v6 ? "[" : "", options.host, v6 ? "]" : "", port);
}

// HTTP from the first moment on, so that /health can say that the model is being loaded.
class Listening {
 public:
  Listening(HttpServer& http) : http_(http), thread_([&http] { http.run(); }) {}
  ~Listening() {
    http_.stop();
    thread_.join();
  }

 private:
  HttpServer& http_;
  std::thread thread_;
};

// Until a signal; then what runs may finish, for a while or until a second signal.
void serve_until_stopped(Service& service, const HttpServer& http, Engine& engine,
                         int grace_seconds, bool quiet) {
  while (!stop_requested()) {
    if (http.failed()) throw_error(ErrorCode::io, "the system takes no more connections");
    std::this_thread::sleep_for(100ms);
  }
  const int interrupts_before = interrupts();
  service.drain();
  if (!quiet && engine.open() > 0) {
    note(fmt::format("Finishing {} answers, for {} s at most.", engine.open(), grace_seconds));
  }
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(grace_seconds);
  const auto waits = [&](auto until) {
    return http.answering() > 0 && std::chrono::steady_clock::now() < until;
  };
  while (waits(end) && interrupts() == interrupts_before) std::this_thread::sleep_for(20ms);
  engine.end_all(FinishReason::cancelled);
  const auto last = std::chrono::steady_clock::now() + 2s;
  while (waits(last)) std::this_thread::sleep_for(10ms);
}

int run(const Options& options) {
  ServiceOptions service_options;
  service_options.keys = keys_of(options);
  service_options.origins = options.origins;
  service_options.names =
      options.names.empty() ? std::vector{default_name(options)} : options.names;
  validate(options.sampler, kMaxCount);
  service_options.defaults.sampler = options.sampler;
  service_options.loopback = is_loopback(options.host);
  Service service(service_options);
  HttpLimits limits;
  limits.connections = options.connections;
  HttpServer http(
      limits, [&](const HttpRequest& request) { return service.handle(request); },
      Service::refusal);
  service.set_connections([&] { return http.connections(); });
  const int port = http.bind(options.host, options.port);

  LoadedModel loaded;
  std::unique_ptr<Engine> engine;
  const Listening listening(http);  // ends first: its threads use the model
  const KvType kv = options.common.kv_or(KvType::f16);
  loaded = load(options.common, options.context, kv);
  const Tokenizer& tokenizer = require_tokenizer(loaded, options.common);
  EngineOptions engine_options;
  engine_options.queue = options.queue;
  engine_options.scheduler.parallel = options.parallel;
  engine_options.scheduler.context = options.context;
  engine_options.scheduler.kv = kv;
  engine_options.scheduler.cache_tokens = cache_tokens(options, loaded.model->info(), kv);
  engine = std::make_unique<Engine>(*loaded.model, *loaded.ws, tokenizer, engine_options);
  catch_interrupts();
  catch_termination();
  service.set_model({engine.get(), &tokenizer, &loaded.model->info()});
  print(address(options, port) + "\n");
  if (!options.common.quiet) {
    note(fmt::format("Serving {} to {} at once, with a cache of {} tokens. Chat at {}/",
                     service_options.names.front(), options.parallel,
                     engine_options.scheduler.cache_tokens, address(options, port)));
  }
  serve_until_stopped(service, http, *engine, options.grace_seconds, options.common.quiet);
  return kExitOk;
}

void add_access_options(CLI::App& app, Options& options) {
  constexpr const char* kGroup = "Access";
  app.add_option("--host", options.host, "address to listen on")
      ->type_name("HOST")
      ->capture_default_str()
      ->group(kGroup);
  app.add_option("--port", options.port, "port to listen on; 0: any that is free")
      ->check(in_range(0, 65535))
      ->type_name("PORT")
      ->capture_default_str()
      ->group(kGroup);
  app.add_option("--api-key", options.keys, "who asks must show this key; repeatable")
      ->type_name("KEY")
      ->allow_extra_args(false)
      ->envname("TENFOLD_API_KEY")
      ->group(kGroup);
  app.add_option("--api-key-file", options.key_file, "a file of such keys, one a line")
      ->type_name("FILE")
      ->group(kGroup);
  app.add_flag("--insecure", options.insecure, "listen on a public address without keys")
      ->group(kGroup);
  app.add_option("--cors", options.origins, "a web origin that may ask, or *; repeatable")
      ->type_name("ORIGIN")
      ->allow_extra_args(false)
      ->group(kGroup);
}

}  // namespace

Command add_serve(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* sub = app.add_subcommand("serve", "Serve a model over HTTP, with a chat page");
  add_common_options(*sub, options->common, ModelArgument::option);
  add_access_options(*sub, *options);
  const auto count = [&](const char* name, auto& value, std::int64_t low, const char* type,
                         const char* help) {
    return sub->add_option(name, value, help)->check(in_range(low, kMaxCount))->type_name(type);
  };
  count("--parallel", options->parallel, 1, "N", "answers that are generated at once")
      ->check(in_range(1, 1024))
      ->capture_default_str();
  count("-c,--ctx-size", options->context, 1, "CTX", "context in tokens; default: the model's");
  count("--cache-tokens", options->cache_tokens, 1, "N",
        "tokens of the KV cache over all answers; default: as memory allows");
  count("--queue", options->queue, 0, "N", "answers that may wait for their turn")
      ->capture_default_str();
  count("--connections", options->connections, 1, "N", "connections at once")
      ->check(in_range(1, 16384))
      ->capture_default_str();
  count("--grace", options->grace_seconds, 0, "S",
        "seconds that answers may take to finish at the end")
      ->check(in_range(0, 86400))
      ->capture_default_str();
  sub->add_option("--alias", options->names, "the model's name in the API; repeatable")
      ->type_name("NAME")
      ->allow_extra_args(false);
  add_sampler_options(*sub, options->sampler);
  sub->footer(
      "Sampling options are the defaults of requests that do not say.\n"
      "Example:\n  tenfold serve -m MODEL --port 8080");
  return {sub, [options] { return run(*options); }};
}

}  // namespace tenfold
