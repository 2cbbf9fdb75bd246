#pragma once
// POST /v1/responses, for text: no tools, no state between requests.

#include "server/openai/answer_head.h"
#include "server/openai/options.h"
#include "server/openai/writer.h"

namespace tenfold {

struct ResponsesRequest {
  AnswerOptions common;
  Json messages;  // see read_messages()
  std::shared_ptr<const Grammar> grammar;
  Json echoed;  // fields of the request that the answer repeats
};

// Throws ApiError (400).
ResponsesRequest read_responses(const Json& body, const RequestLimits& limits);
std::unique_ptr<Writer> responses_writer(const ResponsesRequest& request, AnswerHead head);

}  // namespace tenfold
