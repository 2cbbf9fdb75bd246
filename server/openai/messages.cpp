#include "server/openai/messages.h"

#include <utility>

#include "kernels/error.h"

namespace tenfold {
namespace {

constexpr std::size_t kMostMessages = 4096;
constexpr std::size_t kMostParts = 1024;

// {"name", "arguments"}; templates print the arguments, so they get the object, not its text.
Json read_call(const Json& call, const std::string& where) {
  Fields outer(call, where);
  outer.ignore({"id", "type", "index"});
  const Json* function = outer.take("function");
  if (function == nullptr) refuse(outer.path("function"), "{} is missing", outer.path("function"));
  outer.finish();
  Fields inner(*function, outer.path("function"));
  const std::string name = inner.required_text("name");
  const std::string text = inner.text("arguments").value_or("{}");
  inner.finish();
  return {{"name", name}, {"arguments", parse_within(text).value_or(Json(text))}};
}

Json read_message(const Json& message, const std::string& where) {
  Fields fields(message, where);
  std::string role = fields.required_text("role");
  if (role == "developer") role = "system";
  if (role != "system" && role != "user" && role != "assistant" && role != "tool") {
    refuse(fields.path("role"), "{} must be system, developer, user, assistant or tool, found {}",
           fields.path("role"), shown(role));
  }
  Json read = {{"role", role}, {"content", ""}};
  const Json* content = fields.take("content");
  if (content != nullptr) read["content"] = read_content(*content, fields.path("content"));
  if (const Json* calls = role == "assistant" ? fields.take("tool_calls") : nullptr) {
    if (!calls->is_array()) {
      refuse(fields.path("tool_calls"), "{} must be a list", fields.path("tool_calls"));
    }
    for (std::size_t i = 0; i < calls->size(); ++i) {
      read["tool_calls"].push_back(
          read_call((*calls)[i], fmt::format("{}[{}]", fields.path("tool_calls"), i)));
    }
  }
  if (content == nullptr && !read.contains("tool_calls")) {
    refuse(fields.path("content"), "{} is missing", fields.path("content"));
  }
  if (const auto id = fields.text("tool_call_id")) read["tool_call_id"] = *id;
  if (const auto name = fields.text("name")) read["name"] = *name;
  fields.ignore({"refusal", "annotations"});
  fields.finish();
  return read;
}

// For templates that know no tools: they are described in the system message, calls are text and
// results are the user's.
Json without_tool_turns(const Json& messages, const Tools& tools, const ToolStyle& style) {
  Json plain = Json::array();
  if (tools.active()) {
    std::string text = tools_system_text(tools, style);
    const bool has_system = !messages.empty() && messages[0]["role"] == "system";
    if (has_system) text = messages[0]["content"].get<std::string>() + "\n\n" + text;
    plain.push_back({{"role", "system"}, {"content", std::move(text)}});
  }
  for (std::size_t i = 0; i < messages.size(); ++i) {
    const Json& message = messages[i];
    if (i == 0 && tools.active() && message["role"] == "system") continue;
    std::string content = message["content"].get<std::string>();
    for (const Json& call : message.value("tool_calls", Json::array())) {
      content += (content.empty() ? "" : "\n") + call_text(call, style);
    }
    const bool result = message["role"] == "tool";
    if (result) content = "<tool_response>\n" + content + "\n</tool_response>";
    // Templates insist on turns: results of several calls come as one.
    if (result && !plain.empty() && plain.back().contains("results")) {
      plain.back()["content"] = plain.back()["content"].get<std::string>() + "\n" + content;
      continue;
    }
    plain.push_back({{"role", result ? Json("user") : message["role"]}, {"content", content}});
    if (result) plain.back()["results"] = true;
  }
  for (Json& message : plain) message.erase("results");
  return plain;
}

// {"function": {...}} as templates of Hugging Face expect of calls.
Json with_call_objects(Json messages) {
  for (Json& message : messages) {
    if (!message.contains("tool_calls")) continue;
    for (Json& call : message["tool_calls"]) call = {{"type", "function"}, {"function", call}};
  }
  return messages;
}

}  // namespace

std::string read_content(const Json& content, const std::string& where) {
  if (content.is_string()) return content.get<std::string>();
  if (!content.is_array() || content.size() > kMostParts) {
    refuse(where, "{} must be a string or a list of at most {} parts", where, kMostParts);
  }
  std::string text;
  for (std::size_t i = 0; i < content.size(); ++i) {
    Fields part(content[i], fmt::format("{}[{}]", where, i));
    const std::string type = part.required_text("type");
    if (type != "text" && type != "input_text" && type != "output_text") {
      refuse(part.path("type"), "{} must be text, found {}: this model reads text only",
             part.path("type"), shown(type));
    }
    text += part.required_text("text");
    part.ignore({"annotations", "logprobs"});
    part.finish();
  }
  return text;
}

Json read_messages(const Json& messages, const std::string& where) {
  if (!messages.is_array() || messages.empty() || messages.size() > kMostMessages) {
    refuse(where, "{} must be a list of 1 to {} messages", where, kMostMessages);
  }
  Json read = Json::array();
  for (std::size_t i = 0; i < messages.size(); ++i) {
    read.push_back(read_message(messages[i], fmt::format("{}[{}]", where, i)));
  }
  return read;
}

std::string chat_prompt(const Json& messages, const Tools& tools, const ToolStyle& style,
                        const Json& kwargs, const ChatTemplate& chat_template,
                        const Tokenizer& tokenizer) {
  Json shown =
      style.in_template ? with_call_objects(messages) : without_tool_turns(messages, tools, style);
  std::string begun;  // an answer that is to be continued
  if (shown.back()["role"] == "assistant" && !shown.back().contains("tool_calls")) {
    begun = shown.back()["content"].get<std::string>();
    shown.erase(shown.size() - 1);
  }
  if (shown.empty()) refuse("messages", "messages must have more than an answer to continue");
  Json variables = kwargs.is_object() ? kwargs : Json::object();
  variables["messages"] = std::move(shown);
  if (style.in_template && tools.active()) variables["tools"] = tools.list;
  variables["add_generation_prompt"] = true;
  variables["bos_token"] = special_text(tokenizer, tokenizer.bos);
  variables["eos_token"] = special_text(tokenizer, tokenizer.eos);
  try {
    return chat_template.render(variables) + begun;
  } catch (const Error& error) {
    refuse("messages", "{}", error.what());
  }
}

}  // namespace tenfold
