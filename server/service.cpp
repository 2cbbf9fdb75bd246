#include "server/service.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "kernels/error.h"
#include "server/access.h"
#include "server/openai/chat.h"
#include "server/openai/completions.h"
#include "server/openai/embeddings.h"
#include "server/openai/responses.h"
#include "server/page.h"

namespace tenfold {
namespace {

using namespace std::chrono_literals;

constexpr auto kGlance = 50ms;  // how often a wait looks for a client that left
constexpr auto kPing = 15s;     // of silence on a stream

HttpReply json_reply(const Json& json, int status = 200) {
  HttpReply reply;
  reply.status = status;
  reply.body = dump(json);
  return reply;
}

HttpReply error_reply(const ApiError& error) {
  HttpReply reply = json_reply(error.json(), error.status());
  if (error.status() == 429) reply.headers.emplace_back("Retry-After", "1");
  if (error.status() == 401) reply.headers.emplace_back("WWW-Authenticate", "Bearer");
  return reply;
}

ApiError unavailable(const std::string& message) {
  return {503, "server_error", message, {}, "unavailable"};
}

ApiError failed(const GenerationFailure& failure) {
  return {failure.by_request ? 400 : 500,
          failure.by_request ? "invalid_request_error" : "server_error", failure.message};
}

ApiError queue_full() {
  return {
      429, "rate_limit_error", "the server is busy: its queue is full", {}, "rate_limit_exceeded"};
}

// The next event of an answer that is given whole; throws where there will be none.
std::optional<Channel::Item> next_item(Channel& channel, const HttpRequest& request) {
  std::optional<Channel::Item> item = channel.next(kGlance);
  if (request.client_gone()) throw ApiError(499, "client_closed", "the client has left");
  if (!item) return item;
  if (item->event.error) throw failed(*item->event.error);
  if (item->event.finish == FinishReason::cancelled) {
    throw unavailable("the server is shutting down");
  }
  return item;
}

std::string sse(const Writer::Part& part) {
  const std::string data = "data: " + dump(part.data) + "\n\n";
  return part.event.empty() ? data : "event: " + part.event + "\n" + data;
}

// The route's name in metrics: what clients invent must not become names.
std::string route_name(const std::string& path) {
  static constexpr std::string_view kKnown[] = {
      "/",           "/health",        "/v1/health",           "/metrics",
      "/v1/models",  "/tokenize",      "/v1/chat/completions", "/v1/completions",
      "/detokenize", "/v1/embeddings", "/v1/responses"};
  const bool known = std::find(std::begin(kKnown), std::end(kKnown), path) != std::end(kKnown);
  return known ? path : path.rfind("/v1/models/", 0) == 0 ? "/v1/models" : "other";
}

}  // namespace

struct Service::Loaded {
  explicit Loaded(const ServedModel& m)
      : model(m),
        own_template(!m.tokenizer->chat_template.empty()),
        chat_template(own_template ? std::string_view(m.tokenizer->chat_template)
                                   : kPlainChatTemplate),
        style(tool_style(m.tokenizer->chat_template)),
        most_text_bytes(static_cast<std::size_t>(m.engine->context()) * m.engine->longest_token()),
        created(seconds_now()) {}

  ServedModel model;
  bool own_template;
  ChatTemplate chat_template;
  ToolStyle style;
  std::size_t most_text_bytes;  // that could fit in the context
  std::int64_t created;
};

// A request being answered: cancels what is left of it when it goes.
struct Service::Exchange {
  Exchange(std::shared_ptr<Channel> c, std::unique_ptr<Writer> w)
      : channel(std::move(c)), writer(std::move(w)) {}
  ~Exchange() { channel->cancel(); }
  Exchange(const Exchange&) = delete;
  Exchange& operator=(const Exchange&) = delete;

  // The next piece of a stream.
  std::optional<std::string> next();

  std::shared_ptr<Channel> channel;
  std::unique_ptr<Writer> writer;
  bool begun = false, ended = false;
  std::chrono::steady_clock::time_point spoke = std::chrono::steady_clock::now();
};

std::optional<std::string> Service::Exchange::next() {
  if (ended) return std::nullopt;
  std::string out;
  const auto say = [&](const std::vector<Writer::Part>& parts) {
    for (const Writer::Part& part : parts) out += sse(part);
  };
  if (!begun) say(writer->begin());
  begun = true;
  // All that has happened goes out together.
  for (auto patience = out.empty() ? kGlance : 0ms;; patience = 0ms) {
    const std::optional<Channel::Item> item = channel->next(patience);
    if (!item) break;
    if (item->event.error) {
      out += sse({"", failed(*item->event.error).json()});
      ended = true;
      break;
    }
    if (item->event.finish == FinishReason::cancelled) {
      out += sse({"", unavailable("the server is shutting down").json()});
      ended = true;
      break;
    }
    say(writer->add(item->index, item->event));
  }
  if (!ended && channel->done()) {
    say(writer->end());
    ended = true;
  }
  if (ended && !writer->last_data().empty()) out += "data: " + writer->last_data() + "\n\n";
  const auto now = std::chrono::steady_clock::now();
  if (out.empty() && now - spoke > kPing) out = ": still here\n\n";
  if (!out.empty()) spoke = now;
  return out;
}

Service::Service(ServiceOptions options)
    : options_(std::move(options)), page_policy_(chat_page_policy()) {}

void Service::set_model(const ServedModel& model) {
  loaded_ = std::make_shared<Loaded>(model);
  ready_ = true;
}

Service::Loaded& Service::loaded() {
  if (!ready_) throw unavailable("the model is being loaded");
  if (draining_) throw unavailable("the server is shutting down");
  return *loaded_;
}

std::string Service::refusal(int status) {
  const char* what = status == 408   ? "the request took too long to arrive"
                     : status == 413 ? "the body is too large"
                     : status == 414 ? "the address is too long"
                     : status == 415 ? "the body must be JSON"
                     : status == 431 ? "the headers are too large"
                     : status == 503 ? "too many connections"
                     : status == 500 ? "the server failed"
                                     : "this is not a request that can be read";
  return dump(
      ApiError(status, status < 500 ? "invalid_request_error" : "server_error", what).json());
}

HttpReply Service::handle(const HttpRequest& request) {
  HttpReply reply;
  try {
    reply = route(request);
  } catch (const ApiError& error) {
    reply = error_reply(error);
  } catch (const Error& error) {
    const bool theirs = error.code() == ErrorCode::bad_request;
    reply = error_reply(ApiError(theirs ? 400 : 500,
                                 theirs ? "invalid_request_error" : "server_error", error.what()));
  } catch (const std::exception& error) {
    reply = error_reply(ApiError(500, "server_error", error.what()));
  }
  counts_.add(route_name(request.path), reply.status);
  reply.headers.emplace_back("X-Content-Type-Options", "nosniff");
  const auto& origins = options_.origins;
  const bool any = std::ranges::count(origins, "*") != 0;
  if (!request.origin.empty() && (any || std::ranges::count(origins, request.origin) != 0)) {
    reply.headers.emplace_back("Access-Control-Allow-Origin", any ? "*" : request.origin);
    reply.headers.emplace_back("Vary", "Origin");
  }
  return reply;
}

// A web page of another site could otherwise spend this machine's time, or, with a name of its own
// that it points here, read answers.
void Service::check_access(const HttpRequest& request) const {
  if (options_.loopback && !is_loopback(host_name(request.host))) {
    throw ApiError(403, "invalid_request_error",
                   fmt::format("the host {} is not this machine's", shown(request.host)));
  }
  if (request.origin.empty()) return;
  const std::size_t scheme = request.origin.find("://");
  const bool same_site =
      scheme != std::string::npos && request.origin.substr(scheme + 3) == request.host;
  const auto& allowed = options_.origins;
  if (!same_site && std::ranges::count(allowed, "*") == 0 &&
      std::ranges::count(allowed, request.origin) == 0) {
    throw ApiError(
        403, "invalid_request_error",
        fmt::format("pages of {} may not ask this server: see --cors", shown(request.origin)));
  }
}

HttpReply Service::route(const HttpRequest& request) {
  const std::string& path = request.path;
  check_access(request);
  if (request.method == "OPTIONS") {
    HttpReply reply;
    reply.status = 204;
    // Clients in a browser send headers of their own; only allowed pages come here.
    reply.headers = {{"Access-Control-Allow-Methods", "GET, POST"},
                     {"Access-Control-Allow-Headers", request.wanted_headers},
                     {"Access-Control-Max-Age", "600"}};
    return reply;
  }
  const bool get = request.method == "GET" || request.method == "HEAD";
  const bool post = request.method == "POST";
  if (get && path == "/") {
    HttpReply reply;
    reply.type = "text/html; charset=utf-8";
    reply.body = chat_page();
    reply.headers = {{"Content-Security-Policy", page_policy_},
                     {"Referrer-Policy", "no-referrer"},
                     {"Cache-Control", "no-cache"}};
    return reply;
  }
  if (get && (path == "/health" || path == "/v1/health")) {
    loaded();
    return json_reply({{"status", "ok"}});
  }
  if (!options_.keys.empty() && !has_key(options_.keys, request.authorization)) {
    throw ApiError(401, "invalid_request_error", "an API key is needed: Authorization: Bearer KEY",
                   {}, "invalid_api_key");
  }
  if (get && path == "/metrics") return metrics();
  if (get && path == "/v1/models") return models({});
  if (get && path.rfind("/v1/models/", 0) == 0) return models(path.substr(11));
  if (post && path == "/v1/chat/completions") return chat(request);
  if (post && path == "/v1/completions") return completions(request);
  if (post && path == "/v1/responses") return responses(request);
  if (post && path == "/v1/embeddings") return embeddings(request);
  if (post && path == "/tokenize") return tokenize(request);
  if (post && path == "/detokenize") return detokenize(request);
  const bool known = route_name(path) != "other";
  throw ApiError(known ? 405 : 404, "invalid_request_error",
                 known ? fmt::format("{} does not take {}", path, request.method)
                       : fmt::format("there is no {} here", shown(path)));
}

RequestLimits Service::limits() const {
  RequestLimits limits;
  limits.defaults = options_.defaults;
  limits.vocab = loaded_->model.info->vocab;
  const auto room = static_cast<std::int64_t>(loaded_->model.engine->room());
  limits.most_choices = std::min(limits.most_choices, room);
  limits.most_prompts = std::min(limits.most_prompts, room);
  limits.most_text_bytes = loaded_->most_text_bytes;
  return limits;
}

void Service::check_model(const std::optional<std::string>& name) const {
  if (!name || std::ranges::count(options_.names, *name) != 0) return;
  throw ApiError(
      404, "invalid_request_error",
      fmt::format("the model {} is not served here; {} is", shown(*name), options_.names.front()),
      "model", "model_not_found");
}

HttpReply Service::models(std::string_view id) {
  const Loaded& m = loaded();
  const auto object = [&](const std::string& name) -> Json {
    return {{"id", name},
            {"object", "model"},
            {"created", m.created},
            {"owned_by", "tenfold"},
            {"meta",
             {{"n_vocab", m.model.info->vocab},
              {"n_ctx", m.model.engine->context()},
              {"n_embd", m.model.info->dim},
              {"n_params", m.model.info->parameters},
              {"size", m.model.info->weight_bytes}}}};
  };
  if (!id.empty()) {
    check_model(std::string(id));
    return json_reply(object(std::string(id)));
  }
  Json data = Json::array();
  for (const std::string& name : options_.names) data.push_back(object(name));
  return json_reply({{"object", "list"}, {"data", std::move(data)}});
}

HttpReply Service::metrics() {
  HttpReply reply;
  reply.type = "text/plain; version=0.0.4; charset=utf-8";
  const EngineStats stats = ready_ ? loaded_->model.engine->stats() : EngineStats{};
  reply.body = metrics_text(counts_, stats, connections_ ? connections_() : 0);
  return reply;
}

GenerationRequest Service::generation(const AnswerOptions& common, std::vector<TokenId> prompt,
                                      std::int64_t choice, const char* param) const {
  GenerationRequest request;
  const std::int64_t context = loaded_->model.engine->context();
  if (static_cast<std::int64_t>(prompt.size()) > context) {
    throw ApiError(
        400, "invalid_request_error",
        fmt::format("the prompt has {} tokens, but the context is {}", prompt.size(), context),
        param, "context_length_exceeded");
  }
  request.prompt = std::move(prompt);
  request.options = common.generate;
  request.options.sampler.seed += static_cast<std::uint64_t>(choice);  // each its own draw
  return request;
}

std::vector<TokenId> Service::chat_tokens(const Json& messages, const Tools& tools,
                                          const Json& kwargs) {
  const Loaded& m = loaded();
  const Tokenizer& tokenizer = *m.model.tokenizer;
  const std::string text =
      chat_prompt(messages, tools, m.style, kwargs, m.chat_template, tokenizer);
  check_text(text.size(), m.most_text_bytes, "messages");
  return encode_chat(tokenizer, text);
}

HttpReply Service::chat(const HttpRequest& request) {
  const Loaded& m = loaded();
  ChatRequest chat = read_chat(parse_body(request.body), limits());
  check_model(chat.common.model);
  if (!m.own_template) chat.common.generate.stops.emplace_back(kPlainChatStop);
  chat.common.generate.grammar =
      chat.tools.active() ? tools_grammar(chat.tools, m.style) : chat.grammar;
  const std::vector<TokenId> prompt = chat_tokens(chat.messages, chat.tools, chat.template_kwargs);
  std::vector<GenerationRequest> work;
  for (std::int64_t i = 0; i < chat.common.choices; ++i) {
    work.push_back(generation(chat.common, prompt, i, "messages"));
    work.back().top_logprobs = chat.top_logprobs;
  }
  auto writer =
      chat_writer(chat, m.style, new_head("chatcmpl-", options_.names.front()), *m.model.tokenizer);
  return answer(request, std::move(work), chat.common.stream, std::move(writer));
}

HttpReply Service::completions(const HttpRequest& request) {
  const Loaded& m = loaded();
  CompletionRequest completion =
      read_completion(parse_body(request.body), limits(), *m.model.tokenizer);
  check_model(completion.common.model);
  completion.common.generate.grammar = completion.grammar;
  std::vector<GenerationRequest> work;
  for (const std::vector<TokenId>& prompt : completion.prompts) {
    for (std::int64_t i = 0; i < completion.common.choices; ++i) {
      work.push_back(generation(completion.common, prompt, i, "prompt"));
      work.back().top_logprobs = completion.top_logprobs;
      work.back().prompt_logprobs = completion.echo && completion.top_logprobs;
    }
  }
  auto writer =
      completion_writer(completion, new_head("cmpl-", options_.names.front()), *m.model.tokenizer);
  return answer(request, std::move(work), completion.common.stream, std::move(writer));
}

HttpReply Service::responses(const HttpRequest& request) {
  const Loaded& m = loaded();
  ResponsesRequest wanted = read_responses(parse_body(request.body), limits());
  check_model(wanted.common.model);
  if (!m.own_template) wanted.common.generate.stops.emplace_back(kPlainChatStop);
  wanted.common.generate.grammar = wanted.grammar;
  std::vector<GenerationRequest> work;
  work.push_back(generation(wanted.common, chat_tokens(wanted.messages, {}, {}), 0, "input"));
  auto writer = responses_writer(wanted, new_head("resp_", options_.names.front()));
  return answer(request, std::move(work), wanted.common.stream, std::move(writer));
}

HttpReply Service::answer(const HttpRequest& request, std::vector<GenerationRequest> work,
                          bool stream, std::unique_ptr<Writer> writer) {
  std::shared_ptr<Channel> channel = loaded().model.engine->generate(std::move(work));
  if (!channel) throw queue_full();
  auto exchange = std::make_shared<Exchange>(std::move(channel), std::move(writer));
  if (stream) {
    HttpReply reply;
    reply.type = "text/event-stream";
    reply.headers = {{"Cache-Control", "no-store"}, {"X-Accel-Buffering", "no"}};
    reply.next = [exchange] { return exchange->next(); };
    return reply;
  }
  while (!exchange->channel->done()) {
    const std::optional<Channel::Item> item = next_item(*exchange->channel, request);
    if (item) exchange->writer->add(item->index, item->event);
  }
  return json_reply(exchange->writer->whole());
}

HttpReply Service::embeddings(const HttpRequest& request) {
  const Loaded& m = loaded();
  const EmbeddingRequest wanted =
      read_embedding(parse_body(request.body), limits(), *m.model.tokenizer);
  check_model(wanted.model);
  std::shared_ptr<Channel> channel = m.model.engine->embed(wanted.prompts);
  if (!channel) throw queue_full();
  const Exchange exchange(channel, nullptr);
  std::vector<std::vector<float>> vectors(wanted.prompts.size());
  while (!channel->done()) {
    std::optional<Channel::Item> item = next_item(*channel, request);
    if (item) vectors[item->index] = std::move(item->event.embedding);
  }
  return json_reply(embedding_json(wanted, vectors, options_.names.front()));
}

HttpReply Service::tokenize(const HttpRequest& request) {
  const Tokenizer& tokenizer = *loaded().model.tokenizer;
  const Json body = parse_body(request.body);
  Fields fields(body);
  const std::string text = fields.required_text("content");
  check_text(text.size(), loaded().most_text_bytes, "content");
  EncodeOptions options;
  options.add_bos = fields.boolean("add_special").value_or(false) && tokenizer.adds_bos;
  options.parse_special = fields.boolean("parse_special").value_or(true);
  const bool pieces = fields.boolean("with_pieces").value_or(false);
  fields.finish();
  Json tokens = Json::array();
  for (const TokenId id : tokenizer.encode(text, options)) {
    if (pieces) {
      tokens.push_back({{"id", id}, {"piece", tokenizer.piece(id, true)}});
    } else {
      tokens.push_back(id);
    }
  }
  return json_reply({{"tokens", std::move(tokens)}});
}

HttpReply Service::detokenize(const HttpRequest& request) {
  const Tokenizer& tokenizer = *loaded().model.tokenizer;
  const Json body = parse_body(request.body);
  Fields fields(body);
  const Json* tokens = fields.take("tokens");
  fields.finish();
  const auto is_id = [](const Json& json) { return json.is_number(); };
  if (tokens == nullptr || !tokens->is_array() ||
      !std::all_of(tokens->begin(), tokens->end(), is_id)) {
    refuse("tokens", "tokens must be a list of ids");
  }
  const std::vector<std::vector<TokenId>> ids =
      tokens->empty() ? std::vector<std::vector<TokenId>>{{}}
                      : read_prompts(*tokens, "tokens", 1, limits(), tokenizer);
  return json_reply({{"content", tokenizer.decode(ids.front(), true)}});
}

}  // namespace tenfold
