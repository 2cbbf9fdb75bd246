#pragma once
// Function calls in text: how a model is told of tools, which text means a call, and the grammar
// that makes calls valid. Models whose chat template knows tools are addressed as it does; others
// get a system text (docs/server.md) and answer in the same form as Hermes and Qwen models:
//   <tool_call>
//   {"name": "...", "arguments": {...}}
//   </tool_call>

#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/grammar/grammar.h"
#include "server/openai/fields.h"

namespace tenfold {

struct ToolStyle {
  std::string open = "<tool_call>\n", close = "\n</tool_call>";  // around a call, may be empty
  std::string arguments = "arguments";                           // the key of a call's arguments
  bool in_template = false;                                      // the chat template lists tools
};
ToolStyle tool_style(std::string_view chat_template);

enum class ToolChoice { none, automatic, required };

struct Tools {
  Json list = Json::array();  // as the request has them: [{"type":"function","function":{...}}]
  ToolChoice choice = ToolChoice::none;

  bool active() const { return choice != ToolChoice::none && !list.empty(); }
};
// Reads tools and tool_choice; a named function leaves it alone in the list. Throws ApiError (400).
Tools read_tools(Fields& fields);

// What a model without tools in its template is told.
std::string tools_system_text(const Tools& tools, const ToolStyle& style);
// Calls that are wanted, or calls and free text. Throws ApiError for a schema that is not
// supported.
std::shared_ptr<const Grammar> tools_grammar(const Tools& tools, const ToolStyle& style);
// A call as text, for earlier turns.
std::string call_text(const Json& call, const ToolStyle& style);

struct ToolCall {
  std::string name, arguments;  // arguments: JSON text
};

// Splits an answer that comes in pieces into what is said and what is called.
class ToolReader {
 public:
  ToolReader(const ToolStyle& style, const Tools& tools);
  std::string push(std::string_view text);  // what is surely said
  struct End {
    std::string text;
    std::vector<ToolCall> calls;
  };
  End finish();  // what was no valid call of a tool after all is said

 private:
  std::optional<ToolCall> take_call(std::string_view& text) const;

  std::string open_, close_, arguments_;
  std::set<std::string> names_;
  bool calling_ = false, said_ = false;
  std::string held_;  // what may begin a call, or follows its opening
};

}  // namespace tenfold
