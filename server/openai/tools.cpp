#include "server/openai/tools.h"

#include <algorithm>
#include <optional>
#include <set>
#include <utility>

#include "kernels/error.h"
#include "runtime/grammar/json_schema.h"

namespace tenfold {
namespace {

constexpr std::size_t kMostTools = 128;

std::string_view trimmed(std::string_view text) {
  const std::size_t begin = text.find_first_not_of(" \t\r\n");
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(" \t\r\n") - begin + 1);
}

void check_tool(const Json& tool, const std::string& where) {
  Fields outer(tool, where);
  if (const std::string type = outer.required_text("type"); type != "function") {
    refuse(outer.path("type"), "{} must be function, found {}", outer.path("type"), type);
  }
  const Json* function = outer.take("function");
  if (function == nullptr) refuse(outer.path("function"), "{} is missing", outer.path("function"));
  outer.finish();
  Fields inner(*function, outer.path("function"));
  const std::string name = inner.required_text("name");
  const bool plain = !name.empty() && name.size() <= 64 &&
                     std::all_of(name.begin(), name.end(), [](unsigned char c) {
                       return std::isalnum(c) != 0 || c == '_' || c == '-' || c == '.';
                     });
  if (!plain) {
    refuse(inner.path("name"), "{} must be 1 to 64 letters, digits, _, - and ., found {}",
           inner.path("name"), shown(name));
  }
  inner.text("description");
  if (const Json* schema = inner.take("parameters"); schema != nullptr && !schema->is_object()) {
    refuse(inner.path("parameters"), "{} must be a JSON schema, found {}", inner.path("parameters"),
           schema->type_name());
  }
  inner.ignore({"strict"});
  inner.finish();
}

void keep_named(Tools& tools, const Json& choice) {
  Fields outer(choice, "tool_choice");
  outer.required_text("type");
  const Json* function = outer.take("function");
  std::string name;
  if (function == nullptr) {
    name = outer.required_text("name");
  } else {
    Fields inner(*function, "tool_choice.function");
    name = inner.required_text("name");
    inner.finish();
  }
  outer.finish();
  Json named = Json::array();
  for (const Json& tool : tools.list) {
    if (tool["function"]["name"] == name) named.push_back(tool);
  }
  if (named.empty()) refuse("tool_choice", "tool_choice names {}, which is no tool", shown(name));
  tools.list = std::move(named);
  tools.choice = ToolChoice::required;
}

using Expr = GrammarBuilder::Expr;

// {"name": ..., "arguments": ...} of any of the tools.
Expr call_body(GrammarBuilder& builder, JsonRules& rules, const Tools& tools,
               const ToolStyle& style) {
  std::vector<Expr> options;
  for (std::size_t i = 0; i < tools.list.size(); ++i) {
    const Json& function = tools.list[i]["function"];
    Json schema = {{"type", "object"}, {"properties", Json::object()}};
    if (const auto given = function.find("parameters");
        given != function.end() && !given->empty()) {
      schema = *given;
    }
    const std::string head =
        fmt::format("{{\"name\": {}, \"{}\": ", dump(function["name"]), style.arguments);
    try {
      options.push_back(builder.sequence(
          {builder.literal(head), add_json_schema(rules, schema), builder.literal("}")}));
    } catch (const Error& error) {
      const std::string where = fmt::format("tools[{}].function.parameters", i);
      refuse(where, "{}: {}", where, error.what());
    }
  }
  return builder.named("call", builder.choice(options));
}

// Any text that does not begin with a brace.
Expr text_without_brace(GrammarBuilder& builder) {
  const Expr any = builder.repeat(builder.character(CodePointSet::all()), 0, std::nullopt);
  const Expr other = builder.character(CodePointSet({{U'{', U'{'}}).complement());
  return builder.optional(builder.sequence({other, any}));
}

// How many characters of the marker the text ends with, after i of them and c.
std::size_t matched(std::string_view marker, std::size_t i, char c) {
  const std::string text = std::string(marker.substr(0, i)) + c;
  std::size_t n = std::min(text.size(), marker.size());
  while (!text.ends_with(marker.substr(0, n))) --n;
  return n;
}

// Any text; after the marker, wherever it comes, goes on as `then`. One rule for each number of the
// marker's characters that were just read.
Expr text_until(GrammarBuilder& builder, std::string_view marker, Expr then) {
  std::vector<GrammarBuilder::Rule> states;
  for (std::size_t i = 0; i < marker.size(); ++i) states.push_back(builder.declare("text"));
  std::vector<CodePointSet::Range> letters;
  for (const char c : marker) {
    letters.push_back({static_cast<unsigned char>(c), static_cast<unsigned char>(c)});
  }
  const std::set<char> distinct(marker.begin(), marker.end());
  const CodePointSet others = CodePointSet(letters).complement();
  for (std::size_t i = 0; i < marker.size(); ++i) {
    std::vector<Expr> options = {builder.literal(""), builder.sequence({builder.character(others),
                                                                        builder.call(states[0])})};
    for (const char c : distinct) {
      const std::size_t n = matched(marker, i, c);
      const Expr next = n == marker.size() ? then : builder.call(states[n]);
      options.push_back(builder.sequence({builder.literal({&c, 1}), next}));
    }
    builder.define(states[i], builder.choice(options));
  }
  return builder.call(states[0]);
}

std::optional<ToolCall> parse_call(std::string_view text, const std::string& arguments_key,
                                   const std::set<std::string>& names) {
  const std::optional<Json> call = parse_within(text);
  if (!call || !call->is_object()) return std::nullopt;
  const auto name = call->find("name");
  auto arguments = call->find(arguments_key);
  if (arguments == call->end()) arguments = call->find("arguments");
  if (name == call->end() || !name->is_string() || arguments == call->end() ||
      !names.contains(name->get<std::string>())) {
    return std::nullopt;
  }
  return ToolCall{name->get<std::string>(),
                  arguments->is_string() ? arguments->get<std::string>() : dump(*arguments)};
}

}  // namespace

ToolStyle tool_style(std::string_view chat_template) {
  ToolStyle style;
  const auto has = [&](std::string_view text) {
    return chat_template.find(text) != std::string_view::npos;
  };
  if (!has("tools")) return style;
  if (has("<tool_call>")) {
    style.in_template = true;
  } else if (has("\"parameters\"") && has("\"name\"")) {  // Llama 3.1 and later
    style = {"", "", "parameters", true};
  }
  return style;
}

Tools read_tools(Fields& fields) {
  Tools tools;
  const Json* choice = fields.take("tool_choice");
  if (const Json* list = fields.take("tools")) {
    if (!list->is_array() || list->size() > kMostTools) {
      refuse("tools", "tools must be a list of at most {} tools", kMostTools);
    }
    for (std::size_t i = 0; i < list->size(); ++i) {
      check_tool((*list)[i], fmt::format("tools[{}]", i));
    }
    tools.list = *list;
  }
  if (!tools.list.empty()) tools.choice = ToolChoice::automatic;
  if (choice == nullptr) return tools;
  if (choice->is_object()) {
    keep_named(tools, *choice);
  } else if (*choice == "none") {
    tools.choice = ToolChoice::none;
  } else if (*choice == "required") {
    if (tools.list.empty())
      refuse("tool_choice", "tool_choice is required, but there are no tools");
    tools.choice = ToolChoice::required;
  } else if (*choice != "auto") {
    refuse("tool_choice", "tool_choice must be none, auto, required or a function, found {}",
           shown(*choice));
  }
  return tools;
}

std::string tools_system_text(const Tools& tools, const ToolStyle& style) {
  std::string text = "You can call these functions:\n";
  for (const Json& tool : tools.list) text += dump(tool["function"]) + "\n";
  text += fmt::format(
      "To call one, answer with nothing but its name and arguments as JSON, like this:\n"
      "{}{{\"name\": \"...\", \"{}\": {{...}}}}{}",
      style.open, style.arguments, style.close);
  return text;
}

std::shared_ptr<const Grammar> tools_grammar(const Tools& tools, const ToolStyle& style) {
  GrammarBuilder builder;
  JsonRules rules(builder);
  const Expr body = call_body(builder, rules, tools, style);
  const std::string_view marker = trimmed(style.open);
  // Models that mark their calls may make several. The first one's marker is apart: free text may
  // end with it.
  Expr after_marker = body;
  if (!marker.empty()) {
    const Expr close = builder.literal(style.close);
    const Expr call = builder.sequence({builder.literal(style.open), body, close});
    const Expr more = builder.sequence({builder.optional(builder.literal("\n")), call});
    after_marker = builder.sequence({builder.literal(style.open.substr(marker.size())), body, close,
                                     builder.repeat(more, 0, std::nullopt)});
  }
  Expr answer = builder.sequence({builder.literal(marker), after_marker});
  if (tools.choice == ToolChoice::automatic) {
    answer = marker.empty() ? builder.choice({answer, text_without_brace(builder)})
                            : text_until(builder, marker, after_marker);
  }
  const GrammarBuilder::Rule root = builder.declare("root");
  builder.define(root, answer);
  return builder.build(root);
}

std::string call_text(const Json& call, const ToolStyle& style) {
  return fmt::format("{}{{\"name\": {}, \"{}\": {}}}{}", style.open, dump(call["name"]),
                     style.arguments, dump(call["arguments"]), style.close);
}

ToolReader::ToolReader(const ToolStyle& style, const Tools& tools)
    : open_(trimmed(style.open)), close_(trimmed(style.close)), arguments_(style.arguments) {
  for (const Json& tool : tools.list) names_.insert(tool["function"]["name"].get<std::string>());
}

std::string ToolReader::push(std::string_view text) {
  held_ += text;
  if (calling_) return {};
  if (open_.empty()) {  // a call is the whole answer and begins with a brace
    const std::string_view begun = trimmed(held_);
    said_ = said_ || (!begun.empty() && begun.front() != '{');
    calling_ = !said_ && !begun.empty();
    return said_ ? std::exchange(held_, {}) : std::string();
  }
  std::size_t end = held_.find(open_);
  calling_ = end != std::string::npos;
  if (!calling_) {
    std::size_t keep = std::min(held_.size(), open_.size() - 1);
    while (!held_.ends_with(std::string_view(open_).substr(0, keep))) --keep;
    end = held_.size() - keep;
  }
  std::string said = held_.substr(0, end);
  held_.erase(0, end + (calling_ ? open_.size() : 0));
  return said;
}

// Takes the call off the front of the text, with its closing mark. A mark within an argument is not
// the end: the first before which there is a call is.
std::optional<ToolCall> ToolReader::take_call(std::string_view& text) const {
  constexpr int kMostMarks = 16;
  std::size_t end = 0;
  for (int i = 0; i < kMostMarks && end != std::string_view::npos; ++i) {
    end = close_.empty() ? std::string_view::npos : text.find(close_, i == 0 ? 0 : end + 1);
    if (auto call = parse_call(text.substr(0, end), arguments_, names_)) {
      text = end == std::string_view::npos ? "" : trimmed(text.substr(end + close_.size()));
      return call;
    }
  }
  return std::nullopt;
}

ToolReader::End ToolReader::finish() {
  End end;
  if (!calling_) {
    end.text = held_;
    return end;
  }
  std::string_view left = held_;
  while (auto call = take_call(left)) {
    end.calls.push_back(std::move(*call));
    if (open_.empty() || !left.starts_with(open_)) {
      end.text = left;
      return end;
    }
    left.remove_prefix(open_.size());
  }
  end.text = open_ + std::string(left);
  return end;
}

}  // namespace tenfold
