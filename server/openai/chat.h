#pragma once
// POST /v1/chat/completions: from JSON to what is asked, and from events to JSON.

#include "server/openai/answer_head.h"
#include "server/openai/messages.h"
#include "server/openai/options.h"
#include "server/openai/tools.h"
#include "server/openai/writer.h"

namespace tenfold {

struct ChatRequest {
  AnswerOptions common;
  Json messages;  // see read_messages()
  Tools tools;
  std::optional<int> top_logprobs;
  std::shared_ptr<const Grammar> grammar;
  Json template_kwargs;
};

// Throws ApiError (400).
ChatRequest read_chat(const Json& body, const RequestLimits& limits);

// tokenizer outlives the writer.
std::unique_ptr<Writer> chat_writer(const ChatRequest& request, const ToolStyle& style,
                                    AnswerHead head, const Tokenizer& tokenizer);

}  // namespace tenfold
