#include "server/openai/responses.h"

#include <utility>

#include "server/openai/messages.h"

namespace tenfold {
namespace {

// An absent list, an empty one and null ask for nothing.
void refuse_unless_empty(Fields& fields, std::initializer_list<const char*> names) {
  for (const char* name : names) {
    const Json* value = fields.take(name);
    if (value != nullptr && !value->empty()) refuse(name, "{} is not supported", name);
  }
}

Json read_input(const Json& input) {
  if (input.is_string()) return Json::array({{{"role", "user"}, {"content", input}}});
  Json messages = input;
  if (!messages.is_array()) refuse("input", "input must be a string or a list of messages");
  for (Json& message : messages) {
    if (!message.is_object()) continue;  // read_messages() says so
    const std::string type = shown(message.value("type", Json("message")));
    if (type != "\"message\"") {
      refuse("input", "input must be a list of messages, found an item of type {}", type);
    }
    for (const char* field : {"type", "id", "status"}) message.erase(field);
  }
  return read_messages(messages, "input");
}

class ResponsesWriter : public Writer {
 public:
  ResponsesWriter(const ResponsesRequest& request, AnswerHead head)
      : head_(std::move(head)), item_id_(new_id("msg_")), echoed_(request.echoed) {}

  std::vector<Part> begin() override {
    std::vector<Part> parts;
    parts.push_back(part("response.created", {{"response", response("in_progress")}}));
    parts.push_back(part("response.in_progress", {{"response", response("in_progress")}}));
    Json empty = item("in_progress");
    empty["content"] = Json::array();
    parts.push_back(part("response.output_item.added", {{"output_index", 0}, {"item", empty}}));
    Json json = place();
    json["part"] = content("");
    parts.push_back(part("response.content_part.added", std::move(json)));
    return parts;
  }

  std::vector<Part> add(std::size_t, const GenerationEvent& event) override {
    usage_ = event.usage;
    text_ += event.text;
    if (event.finish) finish_ = event.finish;
    if (event.text.empty()) return {};
    Json json = place();
    json["delta"] = event.text;
    json["logprobs"] = Json::array();
    std::vector<Part> parts;
    parts.push_back(part("response.output_text.delta", std::move(json)));
    return parts;
  }

  std::vector<Part> end() override {
    std::vector<Part> parts;
    Json done = place();
    done["text"] = text_;
    done["logprobs"] = Json::array();
    parts.push_back(part("response.output_text.done", std::move(done)));
    Json content_done = place();
    content_done["part"] = content(text_);
    parts.push_back(part("response.content_part.done", std::move(content_done)));
    parts.push_back(
        part("response.output_item.done", {{"output_index", 0}, {"item", item(item_status())}}));
    const std::string status = item_status();
    parts.push_back(part("response." + status, {{"response", response(status)}}));
    return parts;
  }

  Json whole() override { return response(item_status()); }
  std::string last_data() const override { return {}; }

 private:
  std::string item_status() const {
    return finish_ && *finish_ != FinishReason::stop ? "incomplete" : "completed";
  }
  Json content(const std::string& text) const {
    return {{"type", "output_text"},
            {"text", text},
            {"annotations", Json::array()},
            {"logprobs", Json::array()}};
  }
  Json item(const std::string& status) const {
    return {{"id", item_id_},
            {"type", "message"},
            {"status", status},
            {"role", "assistant"},
            {"content", Json::array({content(text_)})}};
  }
  Json place() const { return {{"item_id", item_id_}, {"output_index", 0}, {"content_index", 0}}; }

  Json response(const std::string& status) const {
    Json json = {
        {"id", head_.id},        {"object", "response"},    {"created_at", head_.created},
        {"status", status},      {"error", nullptr},        {"incomplete_details", nullptr},
        {"model", head_.model},  {"output", Json::array()}, {"parallel_tool_calls", true},
        {"tool_choice", "auto"}, {"tools", Json::array()},  {"previous_response_id", nullptr}};
    json.update(echoed_);
    if (status == "in_progress") return json;
    if (status == "incomplete") json["incomplete_details"] = {{"reason", "max_output_tokens"}};
    json["output"].push_back(item(status));
    json["usage"] = {{"input_tokens", usage_.prompt_tokens},
                     {"input_tokens_details", {{"cached_tokens", usage_.cached_tokens}}},
                     {"output_tokens", usage_.generated_tokens},
                     {"output_tokens_details", {{"reasoning_tokens", 0}}},
                     {"total_tokens", usage_.prompt_tokens + usage_.generated_tokens}};
    return json;
  }

  Part part(const std::string& type, Json fields) {
    Json json = {{"type", type}, {"sequence_number", sequence_++}};
    json.update(fields);
    return {type, std::move(json)};
  }

  AnswerHead head_;
  std::string item_id_, text_;
  Json echoed_;
  GenerationUsage usage_;
  std::optional<FinishReason> finish_;
  std::int64_t sequence_ = 0;
};

}  // namespace

ResponsesRequest read_responses(const Json& body, const RequestLimits& limits) {
  Fields fields(body);
  ResponsesRequest request;
  request.common = read_common(fields, limits);
  if (request.common.choices != 1) refuse("n", "n is not part of this API");
  const auto most = fields.integer("max_output_tokens", 1, std::int64_t{1} << 31);
  if (most) request.common.generate.max_tokens = *most;
  const Json* input = fields.take("input");
  if (input == nullptr) refuse("input", "input is missing");
  request.messages = read_input(*input);
  const auto instructions = fields.text("instructions");
  if (instructions) {
    request.messages.insert(request.messages.begin(),
                            Json{{"role", "system"}, {"content", *instructions}});
  }
  Json format = {{"type", "text"}};
  if (const Json* text = fields.take("text")) {
    Fields inner(*text, "text");
    if (const Json* wanted = inner.take("format")) format = *wanted;
    if (const auto verbosity = inner.text("verbosity"); verbosity && *verbosity != "medium") {
      refuse("text.verbosity", "text.verbosity is not supported but for medium");
    }
    inner.finish();
    request.grammar = read_format(format, "text.format");
  }
  refuse_unless_empty(
      fields, {"tools", "include", "previous_response_id", "conversation", "reasoning", "prompt"});
  if (const auto truncation = fields.text("truncation"); truncation && *truncation != "disabled") {
    refuse("truncation", "truncation must be disabled, found {}", *truncation);
  }
  if (fields.boolean("background").value_or(false))
    refuse("background", "background is not supported");
  if (const Json* choice = fields.take("tool_choice");
      choice != nullptr && *choice != "auto" && *choice != "none") {
    refuse("tool_choice", "tool_choice needs tools, which are not supported here");
  }
  fields.ignore({"max_tool_calls", "prompt_cache_retention"});
  fields.finish();
  request.echoed = {{"instructions", instructions ? Json(*instructions) : Json()},
                    {"max_output_tokens", most ? Json(*most) : Json()},
                    {"temperature", request.common.generate.sampler.temperature},
                    {"top_p", request.common.generate.sampler.top_p},
                    {"text", {{"format", format}}},
                    {"metadata", body.value("metadata", Json::object())}};
  return request;
}

std::unique_ptr<Writer> responses_writer(const ResponsesRequest& request, AnswerHead head) {
  return std::make_unique<ResponsesWriter>(request, std::move(head));
}

}  // namespace tenfold
