#include "server/openai/chat.h"

#include <algorithm>

#include "server/openai/logprobs.h"

namespace tenfold {
namespace {

Json tool_calls_json(const std::vector<ToolCall>& calls, bool indexed) {
  Json list = Json::array();
  for (const ToolCall& call : calls) {
    Json json;
    if (indexed) json["index"] = list.size();
    json["id"] = new_id("call_");
    json["type"] = "function";
    json["function"] = {{"name", call.name}, {"arguments", call.arguments}};
    list.push_back(std::move(json));
  }
  return list;
}

class ChatWriter : public Writer {
 public:
  ChatWriter(const ChatRequest& request, const ToolStyle& style, AnswerHead head,
             const Tokenizer& tokenizer)
      : head_(std::move(head)),
        tokenizer_(tokenizer),
        include_usage_(request.common.include_usage),
        logprobs_(request.top_logprobs.has_value()),
        usage_(1, static_cast<std::size_t>(request.common.choices)),
        choices_(static_cast<std::size_t>(request.common.choices)) {
    for (Choice& choice : choices_) {
      if (request.tools.active()) choice.reader.emplace(style, request.tools);
    }
  }

  std::vector<Part> begin() override {
    std::vector<Part> parts;
    for (std::size_t i = 0; i < choices_.size(); ++i) {
      parts.push_back(chunk(i, {{"role", "assistant"}, {"content", ""}}));
    }
    return parts;
  }

  std::vector<Part> add(std::size_t index, const GenerationEvent& event) override {
    Choice& choice = choices_[index];
    usage_.set(index, event.usage);
    std::string text = choice.reader ? choice.reader->push(event.text) : event.text;
    Json records = Json::array();
    for (const TokenLogprob& record : event.tokens) {
      const bool ends = std::ranges::count(tokenizer_.end_of_generation, record.token) != 0;
      if (!ends) records.push_back(chat_logprob(record, tokenizer_));
    }
    std::vector<ToolCall> calls;
    if (event.finish && choice.reader) {
      ToolReader::End end = choice.reader->finish();
      text += end.text;
      calls = std::move(end.calls);
    }
    choice.text += text;
    for (const Json& record : records) choice.records.push_back(record);
    std::vector<Part> parts;
    if (!text.empty() || !records.empty()) {
      parts.push_back(chunk(index, {{"content", text}}, std::move(records)));
    }
    if (!calls.empty()) {
      choice.calls = calls;
      parts.push_back(chunk(index, {{"tool_calls", tool_calls_json(calls, true)}}));
    }
    if (event.finish) {
      choice.finish = calls.empty() ? finish_text(*event.finish) : "tool_calls";
      Part last = chunk(index, Json::object());
      last.data["choices"][0]["finish_reason"] = choice.finish;
      parts.push_back(std::move(last));
    }
    return parts;
  }

  std::vector<Part> end() override {
    if (!include_usage_) return {};
    Json json = object("chat.completion.chunk");
    json["choices"] = Json::array();
    json["usage"] = usage_.json();
    return {{"", std::move(json)}};
  }

  Json whole() override {
    Json json = object("chat.completion");
    json["choices"] = Json::array();
    for (std::size_t i = 0; i < choices_.size(); ++i) {
      const Choice& choice = choices_[i];
      Json message = {{"role", "assistant"}};
      const bool silent = choice.text.empty() && !choice.calls.empty();
      message["content"] = silent ? Json() : Json(choice.text);
      message["refusal"] = nullptr;
      if (!choice.calls.empty()) message["tool_calls"] = tool_calls_json(choice.calls, false);
      json["choices"].push_back({{"index", i},
                                 {"message", std::move(message)},
                                 {"logprobs", logprobs(choice.records)},
                                 {"finish_reason", choice.finish}});
    }
    json["usage"] = usage_.json();
    return json;
  }

 private:
  struct Choice {
    std::optional<ToolReader> reader;
    std::string text, finish;
    Json records = Json::array();
    std::vector<ToolCall> calls;
  };

  Json object(const char* kind) const {
    return {{"id", head_.id}, {"object", kind}, {"created", head_.created}, {"model", head_.model}};
  }

  Json logprobs(Json records) const {
    if (!logprobs_) return nullptr;
    return {{"content", std::move(records)}, {"refusal", nullptr}};
  }

  Part chunk(std::size_t index, Json delta, Json records = Json::array()) const {
    Json json = object("chat.completion.chunk");
    json["choices"] = Json::array({{{"index", index},
                                    {"delta", std::move(delta)},
                                    {"logprobs", logprobs(std::move(records))},
                                    {"finish_reason", nullptr}}});
    if (include_usage_) json["usage"] = nullptr;
    return {"", std::move(json)};
  }

  AnswerHead head_;
  const Tokenizer& tokenizer_;
  bool include_usage_, logprobs_;
  UsageSum usage_;
  std::vector<Choice> choices_;
};

}  // namespace

ChatRequest read_chat(const Json& body, const RequestLimits& limits) {
  Fields fields(body);
  ChatRequest request;
  request.common = read_common(fields, limits);
  const Json* messages = fields.take("messages");
  if (messages == nullptr) refuse("messages", "messages is missing");
  request.messages = read_messages(*messages, "messages");
  request.tools = read_tools(fields);
  request.grammar = read_grammar(fields);
  if (request.grammar && request.tools.active()) {
    refuse("tools", "tools and response_format exclude one another: set tool_choice to none");
  }
  const bool logprobs = fields.boolean("logprobs").value_or(false);
  const auto top = fields.integer("top_logprobs", 0, limits.most_top_logprobs);
  if (top && *top > 0 && !logprobs) refuse("top_logprobs", "top_logprobs needs logprobs: true");
  if (logprobs) request.top_logprobs = static_cast<int>(top.value_or(0));
  if (const Json* kwargs = fields.take("chat_template_kwargs")) {
    if (!kwargs->is_object())
      refuse("chat_template_kwargs", "chat_template_kwargs must be an object");
    request.template_kwargs = *kwargs;
  }
  if (const Json* modalities = fields.take("modalities");
      modalities != nullptr && *modalities != Json::array({"text"})) {
    refuse("modalities", "modalities must be [\"text\"], found {}", shown(*modalities));
  }
  fields.finish();
  return request;
}

std::unique_ptr<Writer> chat_writer(const ChatRequest& request, const ToolStyle& style,
                                    AnswerHead head, const Tokenizer& tokenizer) {
  return std::make_unique<ChatWriter>(request, style, std::move(head), tokenizer);
}

}  // namespace tenfold
