#pragma once
// From HTTP requests to answers: routes, access, and the way from JSON over the engine to JSON.

#include <atomic>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/chat_template.h"
#include "server/engine.h"
#include "server/http_server.h"
#include "server/metrics.h"
#include "server/openai/options.h"
#include "server/openai/tools.h"
#include "server/openai/writer.h"

namespace tenfold {

struct ServiceOptions {
  std::vector<std::string> keys;     // none: everybody may ask
  std::vector<std::string> origins;  // web pages that may ask, or "*"
  std::vector<std::string> names;    // of the model; the first is the one that answers have
  GenerateOptions defaults;          // of sampling
  bool loopback = true;              // only names of this machine are taken for the Host header
};

// What a request needs of the model: outlives the last handle().
struct ServedModel {
  Engine* engine = nullptr;
  const Tokenizer* tokenizer = nullptr;
  const ModelInfo* info = nullptr;
};

class Service {
 public:
  explicit Service(ServiceOptions options);

  // Until then every question about the model is answered with 503.
  void set_model(const ServedModel& model);
  // From now on new work is refused with 503.
  void drain() noexcept { draining_ = true; }

  HttpReply handle(const HttpRequest& request);
  // The body of an answer to what never became a request.
  static std::string refusal(int status);
  void set_connections(std::function<std::size_t()> count) { connections_ = std::move(count); }

 private:
  struct Loaded;
  struct Exchange;

  HttpReply route(const HttpRequest& request);
  void check_access(const HttpRequest& request) const;
  Loaded& loaded();
  HttpReply chat(const HttpRequest& request);
  HttpReply completions(const HttpRequest& request);
  HttpReply responses(const HttpRequest& request);
  HttpReply embeddings(const HttpRequest& request);
  HttpReply tokenize(const HttpRequest& request);
  HttpReply detokenize(const HttpRequest& request);
  HttpReply models(std::string_view id);
  HttpReply metrics();
  void check_model(const std::optional<std::string>& name) const;
  GenerationRequest generation(const AnswerOptions& common, std::vector<TokenId> prompt,
                               std::int64_t choice, const char* param) const;
  std::vector<TokenId> chat_tokens(const Json& messages, const Tools& tools, const Json& kwargs);
  HttpReply answer(const HttpRequest& request, std::vector<GenerationRequest> work, bool stream,
                   std::unique_ptr<Writer> writer);
  RequestLimits limits() const;

  ServiceOptions options_;
  std::shared_ptr<Loaded> loaded_;
  std::atomic<bool> ready_ = false, draining_ = false;
  RequestCounts counts_;
  std::function<std::size_t()> connections_;
  std::string page_policy_;
};

}  // namespace tenfold
