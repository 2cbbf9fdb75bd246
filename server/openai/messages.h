#pragma once
// The messages of a chat as a request has them, and as chat templates take them.

#include <string>

#include "runtime/chat_template.h"
#include "runtime/tokenizer.h"
#include "server/openai/fields.h"
#include "server/openai/tools.h"

namespace tenfold {

// A list of objects with role (system, user, assistant, tool), content (a string), and where they
// are given tool_calls ([{"name", "arguments": an object where it parses as one}]), tool_call_id
// and name. Throws ApiError (400): for images and audio too.
Json read_messages(const Json& messages, const std::string& where);
// Text, or a list of text parts.
std::string read_content(const Json& content, const std::string& where);

// How the model reads the chat before it answers; an answer at the end is continued. kwargs:
// further variables of the template.
std::string chat_prompt(const Json& messages, const Tools& tools, const ToolStyle& style,
                        const Json& kwargs, const ChatTemplate& chat_template,
                        const Tokenizer& tokenizer);

}  // namespace tenfold
